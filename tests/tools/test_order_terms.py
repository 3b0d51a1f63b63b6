"""What was sold with a code and a tax is changed, exchanged and given back on those terms."""

import pytest
from sqlalchemy import text

from deps.core import Deps, confined
from deps.scripted import ScriptedGateway
from tests import aftersales as shop
from tests import factories
from tests.aftersales import to
from tests.tools.test_return import exchanged
from tools import (
    checkout,
    exchange,
    fulfillment,
    invariant,
    order,
    order_edit,
    refund_desk,
    return_,
)
from tools.errors import Conflict
from tools.line_change import LineRequest
from tools.order import OrderView

# Steel 6,500, oak 9,900: 20 % off, delivery is free from 60.00 on, and 10 % tax on what is left.
STEEL, OAK = 5_720, 8_712


async def ordered(
    customer: Deps, merchant: Deps, percent: int = 20, tax: int = 10, **units: int
) -> OrderView:
    await factories.discount(merchant, "FIFTH", percent=percent)
    taxed = factories.taxed(customer, DE=str(tax))
    skus = {f"LAMP-{finish.upper()}": n for finish, n in units.items()}
    filled = await factories.reduced_cart(taxed, "FIFTH", **skus)
    return await checkout.complete(taxed, filled.id, payment_method=shop.CARD)


async def books(deps: Deps, of: OrderView) -> dict[str, int]:
    async with deps.begin() as uow:
        rows = await uow.session.execute(
            text("SELECT account, sum(amount) FROM ledger_entry WHERE order_id = :id GROUP BY 1"),
            {"id": of.id},
        )
        return {account: int(amount) for account, amount in rows if amount}


async def read(deps: Deps, of: OrderView) -> OrderView:
    async with deps.begin() as uow:
        return await order.get(uow, of.number)


@pytest.mark.parametrize(
    ("old", "new", "before", "after"), [("steel", "oak", STEEL, OAK), ("oak", "steel", OAK, STEEL)]
)
async def test_a_changed_item_is_paid_as_if_it_had_been_bought(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway,
    old: str, new: str, before: int, after: int,
) -> None:  # fmt: skip
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await ordered(customer, merchant, **{old: 1})
    delivery = placed.total_amount - before
    changes = to(f"LAMP-{new.upper()}", f"LAMP-{old.upper()}")
    async with customer.begin() as uow:
        shown = await order_edit.preview_modify_items(uow, placed.number, changes, method)
    assert shown.charge_amount - shown.refund_amount == after - before

    edited = await order_edit.modify_items(customer, placed.number, changes, method)

    assert edited.total_amount == shown.new_total_amount == after + delivery
    assert sum(gateway.charges.values()) == edited.total_amount
    goods = edited.subtotal_amount - edited.discount_amount
    assert edited.discount_amount == edited.subtotal_amount // 5
    booked = await books(customer, placed)
    assert (booked["revenue"], booked["tax_payable"]) == (-goods, -edited.tax_amount)
    assert await invariant.check(customer) == []


async def test_exchanges_under_way_at_once_cost_what_was_promised(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await ordered(customer, merchant, steel=1, oak=1)
    await _deliver(merchant, placed)
    dearer = await exchanged(customer, placed.number, to("LAMP-OAK", "LAMP-STEEL"), method)
    cheaper = await exchanged(customer, placed.number, to("LAMP-BRASS", "LAMP-OAK"), method)
    assert (dearer.difference_amount, cheaper.difference_amount) == (OAK - STEEL, 7_040 - OAK)
    for found in (cheaper, dearer):
        await exchange.receive(merchant, found.id)
    now = await read(customer, placed)
    assert now.total_amount == placed.total_amount + OAK - STEEL + 7_040 - OAK
    assert sum(gateway.charges.values()) == now.total_amount
    assert await invariant.check(customer) == []


async def test_exchanges_at_once_make_nothing_cheaper_than_free(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    """Three of 0.83 for 0.02: each alone is promised a cent for one of 0.20 in its place."""
    await shop.lamp(customer)
    await merchant.hot.execute("UPDATE variant SET price_amount = 83 WHERE sku = 'LAMP-STEEL'")
    await merchant.hot.execute("UPDATE variant SET price_amount = 20 WHERE sku = 'LAMP-BRASS'")
    method = await shop.card(customer)
    placed = await ordered(customer, merchant, percent=99, tax=0, steel=3)
    assert placed.total_amount - placed.shipping_amount == 2
    await _deliver(merchant, placed)
    changes = to("LAMP-BRASS", "LAMP-STEEL")
    asked = [await exchanged(customer, placed.number, changes, method) for _ in range(3)]
    assert [found.difference_amount for found in asked] == [-1, -1, -1]
    done = [await exchange.receive(merchant, found.id) for found in asked]
    assert [found.difference_amount for found in done] == [-1, -1, 0]
    now = await read(customer, placed)
    assert (now.total_amount, now.discount_amount) == (placed.shipping_amount, 60)
    assert sum(gateway.charges.values()) == now.total_amount
    assert await invariant.check(customer) == []


async def test_a_line_is_given_back_with_its_share_of_the_code_and_its_tax(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    placed = await ordered(customer, merchant, steel=1, oak=1)
    async with merchant.begin() as uow:
        shown = await refund_desk.preview(uow, placed.number, lines={"LAMP-OAK": 1})
    assert shown.refund_amount == OAK


async def test_a_return_promises_what_it_brings_back(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    placed = await ordered(customer, merchant, steel=1, oak=1)
    await _deliver(merchant, placed)
    lines = [LineRequest(sku="LAMP-OAK")]
    async with customer.begin() as open_work, confined(open_work) as uow:
        shown = await return_.preview_request(uow, placed.number, lines)
        asked = await return_.request(uow, placed.number, lines)
    assert shown.refund_amount == asked.amount == OAK
    async with merchant.begin() as uow:
        assert (await return_.preview_receive(uow, asked.id)).refund_amount == OAK
    # Of what was given back meanwhile, nothing goes back again.
    await refund_desk.request(merchant, placed.number, "a scratch", amount=STEEL + 100)
    async with merchant.begin() as uow:
        expected = (await return_.preview_receive(uow, asked.id)).refund_amount
    before = sum(gateway.charges.values())
    done = await return_.receive(merchant, asked.id)
    assert done.amount == expected == before - sum(gateway.charges.values())
    assert expected == OAK - 100
    assert await invariant.check(customer) == []


async def test_a_return_of_what_was_given_back_already_promises_nothing(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    placed = await ordered(customer, merchant, oak=1)
    await _deliver(merchant, placed)
    await refund_desk.request(merchant, placed.number, "lost and found")
    async with customer.begin() as uow:
        lines = [LineRequest(sku="LAMP-OAK")]
        shown = await return_.preview_request(uow, placed.number, lines)
        asked = await return_.request(uow, placed.number, lines)
    assert (shown.refund_amount, asked.amount) == (0, 0)


async def test_a_country_with_another_tax_is_refused(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    placed = await ordered(customer, merchant, steel=1)
    taxed = factories.taxed(customer, DE="10", AT="20", NL="10")
    for country in ("NL", "AT"):
        address = factories.ADDRESS.model_copy(update={"country_code": country})
        async with taxed.begin() as uow:
            if country == "AT":
                with pytest.raises(Conflict, match="taxed otherwise"):
                    await order_edit.modify_address(uow, placed.number, address)
            else:
                moved = await order_edit.modify_address(uow, placed.number, address)
                assert moved.shipping_address["country_code"] == "NL"


async def _deliver(merchant: Deps, of: OrderView) -> None:
    async with merchant.begin() as uow:
        await fulfillment.ship(uow, of.number, "T-1", "DHL")
    async with merchant.begin() as uow:
        await fulfillment.deliver(uow, of.number)
