"""The auditor itself: silent on a healthy shop, loud about each kind of damage."""

import pytest

from deps.core import SYSTEM, Deps
from tests import factories
from tools import (
    checkout,
    credit_code,
    credit_desk,
    credit_tender,
    invariant,
    order,
    refund,
    refund_process,
)


async def _names(deps: Deps) -> set[str]:
    return {violation.invariant for violation in await invariant.check(deps)}


async def test_empty_shop_is_sound(deps: Deps) -> None:
    assert await invariant.check(deps) == []


async def test_shop_with_orders_is_sound(deps: Deps) -> None:
    await factories.product(deps, sku="MUG", price=1250, stock=10)
    await factories.placed_order(factories.guest(deps), MUG=2)
    assert await invariant.check(deps) == []


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (
            "UPDATE stock_level SET on_hand = on_hand + 1",
            "stock counters equal the sums of the movement ledger",
        ),
        (
            "UPDATE reservation_line SET quantity = quantity + 1",
            "reserved and allocated units are those of live reservations",
        ),
        (
            "UPDATE stock_item SET backordered = 1, backorder_limit = 1, policy = 'backorder'",
            "backordered units are those live reservations wait for",
        ),
        ("UPDATE stock_level SET incoming = 1", "incoming units are those in transit"),
        (
            "UPDATE stock_item SET free = free + 1",
            "stock counters equal the sums of the movement ledger",
        ),
        (
            "UPDATE reservation SET status = 'released'",
            "a placed order has its stock",
        ),
        (
            "UPDATE ledger_entry SET amount = amount + 1 WHERE account = 'revenue'",
            "every ledger transaction sums to zero per currency",
        ),
        (
            "DELETE FROM ledger_entry",
            "the ledger's clearing account is captured less refunded, per order",
        ),
        (
            "DELETE FROM outbox WHERE type = 'OrderPlaced'",
            "an order ever placed has exactly one OrderPlaced event, and no other order has",
        ),
        (
            "UPDATE payment SET captured_amount = 0",
            "a placed order is paid in full, and its adjustments were given back",
        ),
        ("UPDATE orders SET cart_id = NULL", "a completed cart made exactly one order"),
        (
            "UPDATE order_line SET quantity = 3, total_amount = unit_price_amount * 3",
            "an order's amounts add up from its lines",
        ),
        (
            "UPDATE outbox SET aggregate_seq = aggregate_seq + 1 WHERE type = 'OrderPlaced'",
            "events are numbered from 1 without gaps per aggregate",
        ),
        (
            "UPDATE orders SET status = 'pending', created_at = created_at - interval '2 hours'",
            "no order is pending longer than 1 h",
        ),
    ],
)
async def test_damage_is_found(deps: Deps, statement: str, name: str) -> None:
    await factories.product(deps, sku="MUG", price=1250, stock=10)
    await factories.placed_order(factories.guest(deps), MUG=2)
    await factories.damage(deps, statement)
    assert name in await _names(deps)


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (
            "UPDATE refund_part SET amount = amount + 1",
            "a refund is the sum of its parts and of what it is for",
        ),
        (
            "UPDATE refund SET breakdown = breakdown || jsonb_build_object('tax_amount', 1)",
            "a refund is the sum of its parts and of what it is for",
        ),
        (
            "UPDATE refund SET state = 'pending'",
            "a refund has ended when all its parts have, and succeeded when all did",
        ),
        (
            "UPDATE refund_part SET state = 'failed'",
            "a refund has ended when all its parts have, and succeeded when all did",
        ),
        (
            "UPDATE payment SET refunding_amount = 1 WHERE provider = 'credit'",
            "what a tender is giving back, or gave, is the sum of its refunds' parts",
        ),
        (
            "UPDATE payment SET refunded_amount = refunded_amount + 1 WHERE provider = 'credit'",
            "what a tender is giving back, or gave, is the sum of its refunds' parts",
        ),
        (
            "UPDATE payment SET disputed_amount = 1 WHERE provider = 'credit'",
            "what disputes hold back of a payment is kept from its refunds",
        ),
        (
            "UPDATE refund_part SET amount = 1000000",
            "refunds of an order are within what was captured",
        ),
        (
            "UPDATE ledger_entry SET amount = amount + 10000 WHERE account = 'refunds'",
            "an order gives back no more goods, shipping and tax than it sold",
        ),
        (
            "UPDATE credit_account SET balance_amount = balance_amount + 1",
            "a credit account is the sum of its movements",
        ),
        (
            "DELETE FROM credit_movement WHERE held_delta > 0",
            "a credit account is the sum of its movements",
        ),
        (
            "UPDATE credit_hold SET captured_amount = captured_amount - 1",
            "held credit is what live holds hold",
        ),
        (
            "ALTER TABLE credit_account DROP CONSTRAINT ck_credit_account_no_overdraft; "
            "UPDATE credit_account SET held_amount = balance_amount + 1",
            "no credit is overdrawn, held beyond its balance, or refunded beyond what was spent",
        ),
        (
            "ALTER TABLE credit_hold DROP CONSTRAINT ck_credit_hold_refunded_within_captured; "
            "UPDATE credit_hold SET refunded_amount = captured_amount + 1",
            "no credit is overdrawn, held beyond its balance, or refunded beyond what was spent",
        ),
        (
            "DELETE FROM ledger_entry WHERE account = 'gift_card_liability' AND order_id IS NULL",
            "what we owe on gift cards and store credit is their balance",
        ),
        (
            "UPDATE orders SET captures_later = true; "
            "UPDATE payment SET state = 'authorized', amount = amount + 5",
            "what is owed for an order that is captured later is what its tenders are still to "
            "bring",
        ),
    ],
)
async def test_damage_to_money_given_back_is_found(deps: Deps, statement: str, name: str) -> None:
    await factories.product(deps, sku="MUG", price=1250, stock=10)
    async with deps.acting_as(SYSTEM).begin() as uow:
        card = await credit_desk.issue_gift_card(uow, 1_000)
        code = (await credit_code.reveal(uow, card.id)).code
    guest = factories.guest(deps)
    filled = await factories.filled_cart(guest, MUG=1)
    await credit_tender.choose(guest, filled.id, codes=[code], uses_account=False)
    placed = await checkout.complete(guest, filled.id, payment_method="tok_visa")
    async with deps.acting_as(SYSTEM).begin() as uow:
        of = await order.access(uow, placed.number)
        asked = await refund.request(uow, of, reason="x", amount=1_200)
    await refund_process.drive(deps, asked.id)
    assert await invariant.check(deps) == []
    await factories.damage(deps, *statement.split("; "))
    assert name in await _names(deps)
