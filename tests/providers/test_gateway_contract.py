"""What every gateway promises, held against each of them: one suite, several providers."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from db.types import Money
from deps import scripted
from deps.core import SYSTEM, Deps
from deps.credit import CreditGateway
from deps.gateway import Gateway, GatewayTimeout, Outcome, OutcomeStatus
from deps.paypal_desk import PayPal
from deps.provider import ProviderRefused
from deps.scripted import ScriptedGateway
from deps.stripe_desk import Stripe
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import Fault
from tests.providers.stripe_server import StripeServer
from tools import credit_desk

TOTAL = Money(10_000, "EUR")
PARTS = (Money(2_500, "EUR"), Money(4_000, "EUR"), Money(3_500, "EUR"))
RETURN_URL = "https://shop.example/return"


@dataclass
class Bench:
    """A gateway, and a hand on the provider's side."""

    gateway: Gateway
    approved: str
    declined: str
    challenged: str | None
    fail_next: Callable[[Fault], None]
    finish_action: Callable[[str, bool], None]
    held: Callable[[str], Awaitable[int]]
    """Money the provider keeps for us of one payment: captured less refunded."""
    expire: Callable[[str], None] | None = None
    lapses: bool = True

    async def challenge(self, key: str) -> Outcome:
        assert self.challenged is not None
        return await self.gateway.authorize(key, TOTAL, self.challenged, return_url=RETURN_URL)


def scripted_bench() -> Bench:
    gateway = ScriptedGateway()

    async def held(reference: str) -> int:
        return gateway.charges.get(reference, 0)

    def fail_next(fault: Fault) -> None:
        gateway.script.append(scripted.Fault(fault.value))

    return Bench(
        gateway,
        "tok_visa",
        "tok_declined",
        "tok_3ds",
        fail_next,
        lambda reference, succeeds: gateway.finish_action(reference, succeeds=succeeds),
        held,
    )


def stripe_bench(gateway: Stripe, account: StripeServer) -> Bench:
    async def held(reference: str) -> int:
        charge = account.charges.get(account.intents[reference]["latest_charge"])
        return charge["amount_captured"] - charge["amount_refunded"] if charge else 0

    return Bench(
        gateway,
        "pm_card_visa",
        "pm_card_visa_chargeDeclinedInsufficientFunds",
        "pm_card_threeDSecure2Required",
        account.faults.script.append,
        lambda reference, succeeds: account.authenticate(reference, succeeds=succeeds),
        held,
        account.expire,
    )


def paypal_bench(gateway: PayPal, account: PayPalServer) -> Bench:
    async def held(reference: str) -> int:
        payments = account.orders[reference]["purchase_units"][0]["payments"]

        def cents(kind: str) -> int:
            return sum(round(float(p["amount"]["value"]) * 100) for p in payments.get(kind, []))

        return cents("captures") - cents("refunds")

    def finish(reference: str, succeeds: bool) -> None:
        if succeeds:
            account.approve(reference)
        else:
            account.orders[reference]["status"] = "VOIDED"

    return Bench(
        gateway,
        "paypal/VAULT0",
        "paypal/POOR0",
        "paypal",
        account.faults.script.append,
        finish,
        held,
        account.expire,
    )


@pytest.fixture
async def credit_bench(deps: Deps) -> Bench:
    """Gift cards: one that is worth enough for every test, and one that is worth too little."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        rich = await credit_desk.issue_gift_card(uow, 1_000_000)
        poor = await credit_desk.issue_gift_card(uow, 1)

    async def held(reference: str) -> int:
        async with deps.begin() as uow:
            query = "SELECT captured_amount - refunded_amount FROM credit_hold WHERE id = $1"
            return int(await uow.fetchval(query, UUID(reference)))

    def fail_next(fault: Fault) -> None:
        raise AssertionError("it is no call away: it answers, or the transaction never was")

    def finish(reference: str, succeeds: bool) -> None:
        raise AssertionError("it never asks the shopper for anything")

    gateway = CreditGateway(deps.db)
    return Bench(gateway, str(rich.id), str(poor.id), None, fail_next, finish, held, lapses=False)


EVERY = ("scripted", "stripe", "paypal", "credit")


def of(*providers: str) -> pytest.MarkDecorator:
    """Hold only these to a promise that the others do not make."""
    return pytest.mark.parametrize("bench", providers, indirect=True)


# Credit is a table of this database: no call is lost on the way, and no shopper is asked.
called_over_a_network = of("scripted", "stripe", "paypal")
asks_the_shopper = of("scripted", "stripe", "paypal")
# The scripted provider lapses only by what it says, and credit never.
lapses_by_itself = of("stripe", "paypal")


@pytest.fixture(params=EVERY)
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "stripe":
        return stripe_bench(
            request.getfixturevalue("stripe"), request.getfixturevalue("stripe_account")
        )
    if request.param == "paypal":
        return paypal_bench(
            request.getfixturevalue("paypal"), request.getfixturevalue("paypal_account")
        )
    if request.param == "credit":
        found: Bench = request.getfixturevalue("credit_bench")
        return found
    return scripted_bench()


def new_key(kind: str) -> str:
    return f"{uuid4()}:{kind}:1"


async def authorized(bench: Bench) -> str:
    outcome = await bench.gateway.authorize(new_key("authorize"), TOTAL, bench.approved)
    assert outcome.approved, outcome
    return outcome.reference


async def captured(bench: Bench) -> str:
    reference = await authorized(bench)
    assert (await bench.gateway.capture(new_key("capture"), reference, TOTAL)).approved
    return reference


async def settle(bench: Bench, key: str, reference: str | None, again: object) -> Outcome:
    """Resolve an unknown outcome as `sale.call` does: ask, and if nothing is known, repeat."""
    known = await bench.gateway.find(key, reference)
    if known is not None:
        return known
    assert callable(again)
    repeated = await again()
    assert isinstance(repeated, Outcome)
    return repeated


async def test_authorize_reserves_and_takes_nothing(bench: Bench) -> None:
    outcome = await bench.gateway.authorize(new_key("authorize"), TOTAL, bench.approved)
    assert outcome.approved
    assert (outcome.amount, outcome.currency) == (10_000, "EUR")
    assert (outcome.expires_at is not None) is bench.lapses
    assert await bench.held(outcome.reference) == 0


async def test_capture_in_full(bench: Bench) -> None:
    reference = await authorized(bench)
    outcome = await bench.gateway.capture(new_key("capture"), reference, TOTAL)
    assert (outcome.approved, outcome.amount, outcome.currency) == (True, 10_000, "EUR")
    assert await bench.held(reference) == 10_000


async def test_a_partial_capture_releases_the_rest(bench: Bench) -> None:
    reference = await authorized(bench)
    outcome = await bench.gateway.capture(new_key("capture"), reference, PARTS[0])
    assert (outcome.approved, outcome.amount) == (True, 2_500)
    more = await bench.gateway.capture(new_key("capture"), reference, PARTS[1])
    assert more.status is OutcomeStatus.DECLINED
    assert await bench.held(reference) == 2_500


async def test_several_captures(bench: Bench) -> None:
    reference = await authorized(bench)
    keys = [new_key("capture") for _ in PARTS]
    for key, part in zip(keys, PARTS, strict=True):
        is_final = part is PARTS[-1]
        outcome = await bench.gateway.capture(key, reference, part, is_final=is_final)
        assert (outcome.approved, outcome.amount) == (True, part.amount)
    assert await bench.held(reference) == 10_000
    # Each is still known by its own key, and repeating one takes nothing more.
    for key, part in zip(keys, PARTS, strict=True):
        found = await bench.gateway.find(key, reference)
        assert found is not None
        assert (found.approved, found.amount) == (True, part.amount)
    again = await bench.gateway.capture(keys[0], reference, PARTS[0], is_final=False)
    assert (again.approved, again.amount) == (True, 2_500)
    assert await bench.held(reference) == 10_000


async def test_more_than_was_authorized_is_declined(bench: Bench) -> None:
    reference = await authorized(bench)
    outcome = await bench.gateway.capture(new_key("capture"), reference, Money(10_001, "EUR"))
    assert outcome.status is OutcomeStatus.DECLINED
    assert outcome.decline_code == "amount_too_large"
    assert await bench.held(reference) == 0


async def test_void_releases_and_may_be_repeated(bench: Bench) -> None:
    reference = await authorized(bench)
    assert (await bench.gateway.void(new_key("void"), reference)).approved
    assert (await bench.gateway.void(new_key("void"), reference)).approved
    outcome = await bench.gateway.capture(new_key("capture"), reference, TOTAL)
    assert outcome.status is OutcomeStatus.DECLINED
    assert await bench.held(reference) == 0


@called_over_a_network
async def test_what_was_captured_is_not_voided(bench: Bench) -> None:
    reference = await captured(bench)
    with suppress(ProviderRefused):
        assert not (await bench.gateway.void(new_key("void"), reference)).approved
    assert await bench.held(reference) == 10_000


async def test_refunds_in_parts_and_no_more_than_was_captured(bench: Bench) -> None:
    reference = await captured(bench)
    for part in PARTS[:2]:
        outcome = await bench.gateway.refund(new_key("refund"), reference, part)
        assert (outcome.approved, outcome.amount) == (True, part.amount)
    assert await bench.held(reference) == 3_500
    outcome = await bench.gateway.refund(new_key("refund"), reference, Money(3_501, "EUR"))
    assert outcome.status is OutcomeStatus.DECLINED
    assert outcome.decline_code == "amount_too_large"
    assert (await bench.gateway.refund(new_key("refund"), reference, PARTS[2])).approved
    assert await bench.held(reference) == 0


async def test_a_refund_reaches_over_several_captures(bench: Bench) -> None:
    reference = await authorized(bench)
    for part in PARTS:
        is_final = part is PARTS[-1]
        await bench.gateway.capture(new_key("capture"), reference, part, is_final=is_final)
    key = new_key("refund")
    outcome = await bench.gateway.refund(key, reference, Money(8_000, "EUR"))
    assert (outcome.approved, outcome.amount) == (True, 8_000)
    found = await bench.gateway.find(key, reference)
    assert found is not None
    assert (found.approved, found.amount) == (True, 8_000)
    assert await bench.held(reference) == 2_000


async def test_a_decline_is_an_outcome_and_is_repeated(bench: Bench) -> None:
    key = new_key("authorize")
    for _ in range(2):
        outcome = await bench.gateway.authorize(key, TOTAL, bench.declined)
        assert outcome.status is OutcomeStatus.DECLINED
        assert outcome.decline_code in ("insufficient_funds", "generic_decline")


@called_over_a_network
@pytest.mark.parametrize("fault", [Fault.TIMEOUT_AFTER, Fault.TIMEOUT_BEFORE])
async def test_an_unknown_authorization_is_made_once(bench: Bench, fault: Fault) -> None:
    key = new_key("authorize")
    bench.fail_next(fault)
    with pytest.raises(GatewayTimeout):
        await bench.gateway.authorize(key, TOTAL, bench.approved)

    async def again() -> Outcome:
        return await bench.gateway.authorize(key, TOTAL, bench.approved)

    first = await settle(bench, key, None, again)
    assert (first.approved, first.amount) == (True, 10_000)
    assert (await again()).reference == first.reference
    found = await bench.gateway.find(key, first.reference)
    assert found is not None
    assert found.approved


@called_over_a_network
@pytest.mark.parametrize("fault", [Fault.TIMEOUT_AFTER, Fault.TIMEOUT_BEFORE])
@pytest.mark.parametrize("kind", ["capture", "refund"])
async def test_an_unknown_movement_happens_once(bench: Bench, kind: str, fault: Fault) -> None:
    reference = await (authorized(bench) if kind == "capture" else captured(bench))
    move = getattr(bench.gateway, kind)
    key, part = new_key(kind), PARTS[0]
    bench.fail_next(fault)
    with pytest.raises(GatewayTimeout):
        await move(key, reference, part)
    outcome = await settle(bench, key, reference, lambda: move(key, reference, part))
    assert (outcome.approved, outcome.amount) == (True, 2_500)
    await move(key, reference, part)
    assert await bench.held(reference) == (2_500 if kind == "capture" else 7_500)


@called_over_a_network
async def test_an_unknown_void_happens(bench: Bench) -> None:
    reference, key = await authorized(bench), new_key("void")
    bench.fail_next(Fault.TIMEOUT_AFTER)
    with pytest.raises(GatewayTimeout):
        await bench.gateway.void(key, reference)
    outcome = await settle(bench, key, reference, lambda: bench.gateway.void(key, reference))
    assert outcome.approved
    after = await bench.gateway.capture(new_key("capture"), reference, TOTAL)
    assert after.status is OutcomeStatus.DECLINED


async def test_a_call_that_never_arrived_is_not_found(bench: Bench) -> None:
    reference = await authorized(bench)
    assert await bench.gateway.find(new_key("authorize")) is None
    assert await bench.gateway.find(new_key("capture"), reference) is None
    assert await bench.gateway.find(new_key("refund"), reference) is None


@pytest.mark.parametrize("kind", ["authorize", "capture", "refund"])
async def test_eight_at_once_under_one_key_are_one(bench: Bench, kind: str) -> None:
    reference = await (captured(bench) if kind == "refund" else authorized(bench))
    key = new_key(kind)

    async def move() -> Outcome:
        while True:
            try:
                if kind == "authorize":
                    return await bench.gateway.authorize(key, TOTAL, bench.approved)
                return await getattr(bench.gateway, kind)(key, reference, PARTS[0])  # type: ignore[no-any-return]
            except GatewayTimeout:  # The key is in use: somebody else is at it.
                await asyncio.sleep(0.02)

    outcomes = await asyncio.gather(*(move() for _ in range(8)))
    assert all(outcome.approved for outcome in outcomes)
    assert len({outcome.reference for outcome in outcomes}) == 1
    assert await bench.held(reference) == {"authorize": 0, "capture": 2_500, "refund": 7_500}[kind]


@asks_the_shopper
@pytest.mark.parametrize("succeeds", [True, False])
async def test_the_shopper_has_to_act_first(bench: Bench, succeeds: bool) -> None:
    key = new_key("authorize")
    outcome = await bench.challenge(key)
    assert outcome.status is OutcomeStatus.REQUIRES_ACTION
    assert outcome.action is not None
    assert outcome.action["type"] == "redirect"
    assert outcome.action["url"]
    reference = outcome.reference
    waiting = await bench.gateway.find(key, reference)
    assert waiting is not None
    assert waiting.status is OutcomeStatus.REQUIRES_ACTION
    bench.finish_action(reference, succeeds)
    done = await bench.gateway.find(key, reference)
    assert done is not None
    assert done.reference == reference
    if not succeeds:
        assert done.status is OutcomeStatus.DECLINED
        assert done.decline_code
        return
    assert (done.approved, done.amount) == (True, 10_000)
    assert (await bench.gateway.capture(new_key("capture"), reference, TOTAL)).approved
    assert await bench.held(reference) == 10_000


@asks_the_shopper
async def test_an_abandoned_challenge_can_be_voided(bench: Bench) -> None:
    key = new_key("authorize")
    outcome = await bench.challenge(key)
    assert (await bench.gateway.void(new_key("void"), outcome.reference)).approved
    assert await bench.held(outcome.reference) == 0


@called_over_a_network
async def test_the_provider_errs_and_the_outcome_says_so(bench: Bench) -> None:
    bench.fail_next(Fault.WRONG_AMOUNT)
    outcome = await bench.gateway.authorize(new_key("authorize"), TOTAL, bench.approved)
    assert (outcome.approved, outcome.amount) == (True, 10_001)


@lapses_by_itself
async def test_an_expired_authorization_is_a_decline(bench: Bench) -> None:
    assert bench.expire is not None
    key = new_key("authorize")
    outcome = await bench.gateway.authorize(key, TOTAL, bench.approved)
    bench.expire(outcome.reference)
    late = await bench.gateway.capture(new_key("capture"), outcome.reference, TOTAL)
    assert (late.status, late.decline_code) == (OutcomeStatus.DECLINED, "authorization_expired")
    found = await bench.gateway.find(key, outcome.reference)
    assert found is not None
    assert found.decline_code == "authorization_expired"
