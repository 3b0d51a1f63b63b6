"""The auditor itself: silent on a healthy shop, loud about each kind of damage."""

import pytest
from sqlalchemy import text

from deps.core import Deps
from tests import factories
from tools import invariant


async def _damage(deps: Deps, *statements: str) -> None:
    """Change rows behind the shop's back: triggers and checks that would refuse are off."""
    async with deps.begin() as uow:
        connection = await uow.session.connection()
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            await connection.execute(text(statement))


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
    await _damage(deps, statement)
    assert name in await _names(deps)
