"""Exchanges: what is promised beforehand, what a repeated request does, and who pays in the end."""

from uuid import UUID

import pytest
from sqlalchemy import text

from db.models.aftersales import OrderExchange, RequestState
from db.models.credit import CreditAccount
from db.models.payment import StoredMethod
from db.types import new_id
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import aftersales as shop
from tests import factories
from tests.aftersales import to
from tests.tools.test_return import exchanged, units
from tools import credit_desk, exchange, exchange_view, fulfillment, invariant
from tools.errors import (
    AftersalesLimit,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientCredit,
    InvalidInput,
    NotFound,
    OutOfStock,
    PaymentDeclined,
    Unavailable,
)
from tools.exchange_view import ExchangePreview
from tools.line_change import LineChange, LineRequest

CHEAPER = to("LAMP-STEEL", "LAMP-OAK")


async def previewed(deps: Deps, exchange_id: UUID) -> ExchangePreview:
    async with deps.begin() as uow:
        return await exchange.preview_receive(uow, exchange_id)


async def states(deps: Deps, number: int) -> list[str]:
    async with deps.begin() as uow:
        return [shown.state.value for shown in await exchange_view.list_for_order(uow, number)]


async def deactivate(deps: Deps, method_id: UUID) -> None:
    async with deps.begin() as uow:
        method = await uow.session.get_one(StoredMethod, method_id)
        assert method.credit_account_id is not None
        await credit_desk.deactivate(uow, method.credit_account_id)


@pytest.mark.parametrize(
    ("bought", "changes", "charged", "given_back"),
    [
        ("steel", to("LAMP-OAK"), 6_800, 0),
        ("oak", CHEAPER, 0, 6_800),
        ("steel", to("LAMP-STEEL"), 0, 0),
    ],
)
async def test_what_is_shown_beforehand_is_what_happens(
    customer: Deps,
    merchant: Deps,
    gateway: ScriptedGateway,
    bought: str,
    changes: list[LineChange],
    charged: int,
    given_back: int,
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, **{bought: 2})
    both = [change.model_copy(update={"quantity": 2}) for change in changes]
    key = new_id()
    async with customer.begin() as uow:
        shown = await exchange.preview_request(uow, placed.number, both, method, exchange_id=key)
    assert (shown.charge_amount, shown.refund_amount) == (charged, given_back)
    assert (shown.exchange_id, shown.currency) == (key, "EUR")
    asked = await exchanged(customer, placed.number, both, method, key)
    assert (asked.id, asked.lines) == (key, shown.lines)
    again = await previewed(merchant, key)
    assert (again.charge_amount, again.refund_amount) == (charged, given_back)

    await exchange.receive(merchant, key)

    paid = placed.total_amount + charged - given_back
    assert sum(gateway.charges.values()) == paid
    with pytest.raises(IllegalTransition):
        await previewed(merchant, key)
    assert await invariant.check(customer) == []


async def test_what_cannot_be_had_is_not_promised(customer: Deps) -> None:
    await shop.lamp(customer, oak=1)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=2)
    two = [change.model_copy(update={"quantity": 2}) for change in to("LAMP-OAK")]
    async with customer.begin() as uow:
        with pytest.raises(OutOfStock):
            await exchange.preview_request(uow, placed.number, two, method)
        shown = await exchange.preview_request(uow, placed.number, to("LAMP-OAK"), method)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method, shown.exchange_id)
    assert asked.id == shown.exchange_id


@pytest.mark.parametrize("cents", [1, -1])
async def test_a_single_cent_is_charged_and_given_back(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway, cents: int
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    async with merchant.begin() as uow:
        price = "UPDATE variant SET price_amount = $1 WHERE sku = 'LAMP-OAK'"
        await uow.fetch(price, 6_500 + cents)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)
    await exchange.receive(merchant, asked.id)
    assert sum(gateway.charges.values()) == placed.total_amount + cents
    assert await invariant.check(customer) == []


async def test_one_id_is_one_exchange_and_no_other(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, oak=2)
    key = new_id()
    for _ in range(2):
        asked = await exchanged(customer, placed.number, CHEAPER, key=key)
        assert asked.id == key
    assert await states(customer, placed.number) == ["requested"]
    assert await units(customer, "LAMP-STEEL") == (10, 1)
    with pytest.raises(IdempotencyMismatch):
        await exchanged(customer, placed.number, to("LAMP-BRASS", "LAMP-OAK"), key=key)
    async with customer.begin() as uow:
        kept = await uow.session.get_one(OrderExchange, key)
        told = text("SELECT payload FROM outbox WHERE type = 'ExchangeRequested'")
        (event,) = (await uow.session.scalars(told)).all()
    assert (kept.requested_by, kept.reason) == (customer.actor.user_id, "too small")
    assert (event["removed"], event["added"]) == ({"LAMP-OAK": 1}, {"LAMP-STEEL": 1})


async def test_only_what_was_delivered_lately_is_exchanged(customer: Deps) -> None:
    await shop.lamp(customer)
    waiting = await shop.ordered(customer, oak=1)
    with pytest.raises(IllegalTransition):
        await exchanged(customer, waiting.number, CHEAPER)
    placed = await shop.delivered(customer, oak=2)
    with pytest.raises(AftersalesLimit, match="30 days"):
        await exchanged(factories.later(customer, days=31), placed.number, CHEAPER)
    async with customer.begin() as uow:
        with pytest.raises(InvalidInput):
            await exchange.preview_request(uow, placed.number, CHEAPER, reason="x" * 501)
    assert (await exchanged(factories.later(customer, days=29), placed.number, CHEAPER)).id


async def test_the_parcel_says_what_was_sent_instead(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, oak=2, MUG=1)
    two = [CHEAPER[0].model_copy(update={"quantity": 2})]
    asked = await exchanged(customer, placed.number, two)
    await exchange.receive(merchant, asked.id, tracking_number=" T-2 ", carrier=" DHL ")
    async with customer.begin() as uow:
        parcel = (await fulfillment.parcels(uow, placed.number))[-1]
        told = "SELECT payload FROM outbox WHERE type = ANY($1) ORDER BY seq"
        rows = await uow.fetch(told, ["ExchangeReceived", "ExchangeCompleted"])
    assert (parcel.tracking_number, parcel.carrier) == ("T-2", "DHL")
    assert [(line.sku, line.quantity) for line in parcel.lines] == [("LAMP-STEEL", 2)]
    received, completed = [row["payload"] for row in rows]
    assert received["restocked"] == {"LAMP-OAK": 2}
    assert completed["difference_amount"] == asked.difference_amount == -6_800
    assert completed["total_amount"] == placed.total_amount - 6_800


async def test_more_is_not_restocked_than_was_sent_back(customer: Deps, merchant: Deps) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, oak=2)
    asked = await exchanged(customer, placed.number, CHEAPER)
    with pytest.raises(InvalidInput, match="1 units of LAMP-OAK were sent back"):
        await exchange.receive(merchant, asked.id, [LineRequest(sku="LAMP-OAK", quantity=2)])
    assert await states(customer, placed.number) == ["requested"]


async def test_a_withdrawn_exchange_is_told_once_and_an_arrived_one_cannot_be(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, oak=2)
    first = await exchanged(customer, placed.number, CHEAPER)
    for _ in range(2):
        async with customer.begin() as uow:
            assert (await exchange.cancel(uow, first.id)).state is RequestState.CANCELLED
    async with customer.begin() as uow:
        told = text("SELECT count(*) FROM outbox WHERE type = 'ExchangeCancelled'")
        assert await uow.session.scalar(told) == 1
    with pytest.raises(IllegalTransition):
        await previewed(merchant, first.id)
    second = await exchanged(customer, placed.number, CHEAPER)
    await exchange.receive(merchant, second.id)
    with pytest.raises(IllegalTransition):
        async with customer.begin() as uow:
            await exchange.cancel(uow, second.id)


async def test_a_difference_that_is_declined_again_is_charged_once_when_it_is_paid(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)
    for _ in range(2):
        gateway.script.append(Fault.DECLINE)
        with pytest.raises(PaymentDeclined):
            await exchange.receive(merchant, asked.id)
    assert await exchange.resume_stuck(factories.later(merchant, minutes=5)) == 0, "a person's turn"

    for _ in range(2):
        assert (await exchange.receive(merchant, asked.id)).state is RequestState.COMPLETED

    assert sum(gateway.charges.values()) == placed.total_amount + 3_400
    assert [paid for _, paid, _ in await shop.tenders(customer, placed)] == [
        placed.total_amount,
        0,
        0,
        3_400,
    ]
    assert await invariant.check(customer) == []


@pytest.mark.parametrize("later", [("", ""), ("T-3", "UPS")])
async def test_a_tracking_number_outlives_a_provider_that_does_not_answer(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway, later: tuple[str, str]
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await exchange.receive(merchant, asked.id, None, None, " T-2 ", "DHL")
    if later == ("", ""):
        assert await exchange.resume_stuck(factories.later(merchant, minutes=5)) == 1
    else:
        await exchange.receive(factories.later(merchant, minutes=5), asked.id, None, None, *later)
    async with customer.begin() as uow:
        parcels = await fulfillment.parcels(uow, placed.number)
    sent = (parcels[-1].tracking_number, parcels[-1].carrier)
    assert sent == (later if later[0] else ("T-2", "DHL"))
    assert await states(customer, placed.number) == ["completed"]


async def test_a_tracking_number_is_refused_before_anything_moves(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-STEEL"))
    for parcel in (("T" * 101, "DHL"), ("T-2", "D" * 65)):
        with pytest.raises(InvalidInput):
            await exchange.receive(merchant, asked.id, None, None, *parcel)
    assert await states(customer, placed.number) == ["requested"]


async def test_the_sweeper_waits_for_who_is_at_it(
    customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=2)
    await exchanged(customer, placed.number, to("LAMP-STEEL"), method)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), method)
    gateway.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(Unavailable):
        await exchange.receive(merchant, asked.id)
    assert await exchange.resume_stuck(merchant) == 0
    assert await exchange.resume_stuck(factories.later(merchant, minutes=5)) == 1
    assert sorted(await states(customer, placed.number)) == ["completed", "requested"]
    assert sum(gateway.charges.values()) == placed.total_amount + 3_400


async def test_a_gift_card_that_was_switched_off_since_pays_nothing(
    customer: Deps, merchant: Deps
) -> None:
    await shop.lamp(customer)
    present = await shop.gift_card(customer, 5_000)
    placed = await shop.delivered(customer, steel=1)
    asked = await exchanged(customer, placed.number, to("LAMP-OAK"), present)
    await deactivate(merchant, present)
    with pytest.raises(InsufficientCredit):
        await exchange.receive(merchant, asked.id)
    assert await units(customer, "LAMP-OAK") == (10, 1)
    assert await invariant.check(customer) == []


async def test_a_gift_card_that_has_lapsed_is_refused_when_it_is_named(customer: Deps) -> None:
    await shop.lamp(customer)
    present = await shop.gift_card(customer, 5_000)
    async with customer.begin() as uow:
        method = await uow.session.get_one(StoredMethod, present)
        account = await uow.session.get_one(CreditAccount, method.credit_account_id)
        account.expires_at = uow.now
    placed = await shop.delivered(customer, steel=1)
    with pytest.raises(InsufficientCredit) as refused:
        await exchanged(customer, placed.number, to("LAMP-OAK"), present)
    assert refused.value.extra["available_amount"] == 0


async def test_another_persons_exchange_does_not_exist(customer: Deps) -> None:
    await shop.lamp(customer)
    stranger = await factories.user(customer)
    placed = await shop.delivered(customer, oak=2)
    asked = await exchanged(customer, placed.number, CHEAPER)
    with pytest.raises(NotFound, match="No such order"):
        await exchanged(stranger, placed.number, CHEAPER)
    with pytest.raises(NotFound, match="No such order"):
        async with stranger.begin() as uow:
            await exchange.preview_request(uow, placed.number, CHEAPER)
    for exchange_id in (asked.id, new_id()):
        async with stranger.begin() as uow:
            with pytest.raises(NotFound, match="No such exchange"):
                await exchange.cancel(uow, exchange_id)
