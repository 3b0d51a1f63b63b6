"""Exchanges that are wanted after all: shown beforehand, asked for once, and as they were."""

from uuid import UUID

import pytest

from deps.core import Deps
from tests import aftersales as shop
from tests import factories
from tests.aftersales import to
from tests.tools.test_return import exchanged, returned, units
from tools import exchange, exchange_reopening, invariant
from tools.errors import AftersalesLimit, IllegalTransition, InvalidInput, NotFound
from tools.exchange_view import ExchangePreview, ExchangeView
from tools.line_change import LineChange, LineRequest


async def cancelled(deps: Deps, exchange_id: UUID) -> None:
    async with deps.begin() as uow:
        await exchange.cancel(uow, exchange_id)


async def previewed(deps: Deps, exchange_id: UUID) -> ExchangePreview:
    async with deps.begin() as uow:
        return await exchange_reopening.preview_reopen(uow, exchange_id)


async def reopened(deps: Deps, exchange_id: UUID) -> ExchangeView:
    async with deps.begin() as uow:
        return await exchange_reopening.reopen(uow, exchange_id)


@pytest.mark.parametrize(
    ("bought", "changes", "charged", "given_back"),
    [
        ("steel", to("LAMP-OAK"), 3_400, 0),
        ("oak", to("LAMP-STEEL", "LAMP-OAK"), 0, 3_400),
        ("steel", to("LAMP-STEEL"), 0, 0),
    ],
)
async def test_what_is_shown_beforehand_is_asked_for_again_once(
    customer: Deps, bought: str, changes: list[LineChange], charged: int, given_back: int
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, **{bought: 1})
    asked = await exchanged(customer, placed.number, changes, method)
    new = changes[0].new_sku
    wanted = await units(customer, new)
    shown = await previewed(customer, asked.id)
    await cancelled(customer, asked.id)
    free = await units(customer, new)
    assert await previewed(customer, asked.id) == shown
    assert (shown.number, shown.exchange_id, shown.currency) == (placed.number, asked.id, "EUR")
    assert (shown.charge_amount, shown.refund_amount) == (charged, given_back)
    assert shown.lines == asked.lines
    assert await units(customer, new) == free, "it is only shown"
    for _ in range(2):
        assert (await reopened(customer, asked.id)).state == "requested"
        assert await units(customer, new) == wanted
    told = await customer.hot.fetch("SELECT payload FROM outbox WHERE type = 'ExchangeReopened'")
    assert [event["payload"]["exchange_id"] for event in told] == [str(asked.id)]
    assert await invariant.check(customer) == []


async def test_what_is_refused_is_refused_beforehand(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=2)
    first, second = [await exchanged(customer, placed.number, to("LAMP-STEEL")) for _ in range(2)]
    await exchange.receive(merchant, first.id)
    await cancelled(customer, second.id)
    stranger = await factories.user(customer)
    late = factories.later(customer, days=365)
    back = await returned(customer, placed.number, [LineRequest(sku="LAMP-STEEL", quantity=2)])
    for ask in (previewed, reopened):
        with pytest.raises(IllegalTransition, match="completed"):
            await ask(customer, first.id)
        with pytest.raises(NotFound):
            await ask(stranger, second.id)
        with pytest.raises(AftersalesLimit):
            await ask(late, second.id)
        with pytest.raises(InvalidInput):
            await ask(customer, second.id)
    assert back.state == "requested"


async def test_only_what_was_withdrawn_is_withdrawn_again(customer: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-STEEL"))
    async with customer.begin() as uow:
        assert await exchange_reopening.withdrawn(uow, asked.id) is None
    await cancelled(customer, asked.id)
    async with customer.begin() as uow:
        undo = await exchange_reopening.withdrawn(uow, asked.id)
    assert undo == {"exchange_id": asked.id}
