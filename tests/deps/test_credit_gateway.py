"""Credit as a provider keeps every promise of one: once per key, and never beyond the balance."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.types import Money
from deps.core import SYSTEM, Deps
from deps.gateway import Gateway, Outcome
from tools import credit_desk
from tools.invariant import check

ALL = Money(10_000, "EUR")


def eur(amount: int) -> Money:
    return Money(amount, "EUR")


def key(kind: str) -> str:
    return f"{uuid4()}:{kind}:1"


@pytest.fixture
def credits(deps: Deps) -> Gateway:
    return deps.gateways["credit"]


@pytest.fixture
async def card(deps: Deps) -> str:
    async with deps.acting_as(SYSTEM).begin() as uow:
        return str((await credit_desk.issue_gift_card(uow, ALL.amount)).id)


async def balance(deps: Deps, card: str) -> tuple[int, int]:
    async with deps.begin() as uow:
        row = await uow.session.execute(
            text("SELECT balance_amount, held_amount FROM credit_account WHERE id = :id"),
            {"id": UUID(card)},
        )
        amount, held = row.one()
        return amount, held


async def test_hold_take_and_give_back(deps: Deps, credits: Gateway, card: str) -> None:
    held = await credits.authorize(key("authorize"), eur(6_000), card)
    assert (held.approved, held.amount, held.currency) == (True, 6_000, "EUR")
    assert await balance(deps, card) == (10_000, 6_000)
    first = await credits.capture(key("capture"), held.reference, eur(1_000), is_final=False)
    assert first.approved
    assert await balance(deps, card) == (9_000, 5_000)
    last = await credits.capture(key("capture"), held.reference, eur(2_000))
    assert last.approved
    assert await balance(deps, card) == (7_000, 0)
    assert not (await credits.capture(key("capture"), held.reference, eur(1))).approved
    assert (await credits.refund(key("refund"), held.reference, eur(2_500))).approved
    too_much = await credits.refund(key("refund"), held.reference, eur(501))
    assert too_much.decline_code == "amount_too_large"
    assert await balance(deps, card) == (9_500, 0)


async def test_void_releases_and_may_be_repeated(deps: Deps, credits: Gateway, card: str) -> None:
    held = await credits.authorize(key("authorize"), ALL, card)
    assert (await credits.void(key("void"), held.reference)).approved
    assert (await credits.void(key("void"), held.reference)).approved
    assert not (await credits.capture(key("capture"), held.reference, eur(1))).approved
    assert await balance(deps, card) == (10_000, 0)
    assert await check(deps) == []


@pytest.mark.parametrize("kind", ["authorize", "capture", "refund", "void"])
async def test_sixteen_at_once_under_one_key_are_one(
    deps: Deps, credits: Gateway, card: str, kind: str
) -> None:
    held = await credits.authorize(key("authorize"), eur(6_000), card)
    if kind == "refund":
        await credits.capture(key("capture"), held.reference, eur(6_000))
    same = key(kind)
    calls: dict[str, Callable[[], Awaitable[Outcome]]] = {
        "authorize": lambda: credits.authorize(same, eur(1_000), card),
        "capture": lambda: credits.capture(same, held.reference, eur(1_000)),
        "refund": lambda: credits.refund(same, held.reference, eur(1_000)),
        "void": lambda: credits.void(same, held.reference),
    }
    outcomes = await asyncio.gather(*(calls[kind]() for _ in range(16)))
    assert len(set(outcomes)) == 1
    assert outcomes[0].approved
    assert await credits.find(same) == outcomes[0]
    assert (
        await balance(deps, card)
        == {
            "authorize": (10_000, 7_000),
            "capture": (9_000, 0),
            "refund": (5_000, 0),
            "void": (10_000, 0),
        }[kind]
    )


async def test_sixteen_buyers_of_one_balance_never_exceed_it(
    deps: Deps, credits: Gateway, card: str
) -> None:
    outcomes = await asyncio.gather(
        *(credits.authorize(key("authorize"), eur(3_000), card) for _ in range(16))
    )
    assert sum(outcome.approved for outcome in outcomes) == 3
    assert {o.decline_code for o in outcomes if not o.approved} == {"insufficient_funds"}
    assert await balance(deps, card) == (10_000, 9_000)


async def test_a_decline_stays_one_under_its_key(deps: Deps, credits: Gateway, card: str) -> None:
    same = key("authorize")
    assert not (await credits.authorize(same, eur(10_001), card)).approved
    assert not (await credits.authorize(same, eur(10_001), card)).approved
    found = await credits.find(same)
    assert found is not None
    assert found.decline_code == "insufficient_funds"
    assert await credits.find(key("authorize")) is None
    assert await balance(deps, card) == (10_000, 0)


async def test_every_refusal_stays_one_under_its_key(
    deps: Deps, credits: Gateway, card: str
) -> None:
    hold = (await credits.authorize(key("authorize"), eur(100), card)).reference
    calls: dict[str, Callable[[str], Awaitable[Outcome]]] = {
        "authorize": lambda same: credits.authorize(same, eur(10_001), card),
        "capture": lambda same: credits.capture(same, hold, eur(101)),
        "refund": lambda same: credits.refund(same, hold, eur(1)),
        "void": lambda same: credits.void(same, str(UUID(int=7))),
    }
    for kind, call in calls.items():
        same = key(kind)
        first = await call(same)
        assert not first.approved, kind
        assert await call(same) == first, kind
    assert await balance(deps, card) == (10_000, 100)


async def test_the_last_cent_of_a_hold_is_released(deps: Deps, credits: Gateway, card: str) -> None:
    hold = (await credits.authorize(key("authorize"), eur(100), card)).reference
    await credits.capture(key("capture"), hold, eur(99), is_final=False)
    assert (await credits.void(key("void"), hold)).approved
    assert await balance(deps, card) == (9_901, 0)


async def test_a_key_with_another_amount_is_a_bug(credits: Gateway, card: str) -> None:
    same = key("authorize")
    await credits.authorize(same, eur(100), card)
    with pytest.raises(DBAPIError, match="used for another call"):
        await credits.authorize(same, eur(200), card)


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE credit_account SET is_active = false", "inactive"),
        ("UPDATE credit_account SET expires_at = '2026-01-30T11:59Z'", "expired"),
        ("UPDATE credit_account SET currency = 'USD'", "currency_mismatch"),
    ],
)
async def test_what_cannot_be_spent(
    deps: Deps, credits: Gateway, card: str, statement: str, code: str
) -> None:
    async with deps.begin() as uow:
        await uow.session.execute(text(statement))
    outcome = await credits.authorize(key("authorize"), eur(1), card)
    assert (outcome.approved, outcome.decline_code) == (False, code)


async def test_the_last_moment_and_the_last_cent_can_be_spent(
    deps: Deps, credits: Gateway, card: str
) -> None:
    await credits.authorize(key("authorize"), eur(6_000), card)
    await _expire(deps, 0)
    assert (await credits.authorize(key("authorize"), eur(1), card)).decline_code == "expired"
    await _expire(deps, 1)
    more = await credits.authorize(key("authorize"), eur(4_001), card)
    assert more.decline_code == "insufficient_funds"
    assert (await credits.authorize(key("authorize"), eur(4_000), card)).approved
    assert await balance(deps, card) == (10_000, 10_000)


async def _expire(deps: Deps, seconds: int) -> None:
    """Let all credit lapse that many seconds from now."""
    async with deps.begin() as uow:
        await uow.fetch(
            "UPDATE credit_account SET expires_at = $1::timestamptz + $2 * interval '1 second'",
            uow.now,
            seconds,
        )


async def test_no_call_touches_another_hold_or_account(deps: Deps, credits: Gateway) -> None:
    cards, holds = [], []
    for _ in range(3):
        async with deps.acting_as(SYSTEM).begin() as uow:
            cards.append(str((await credit_desk.issue_gift_card(uow, ALL.amount)).id))
        for amount in (3_000, 1_000):
            held = await credits.authorize(key("authorize"), eur(amount), cards[-1])
            holds.append(held.reference)
    await credits.capture(key("capture"), holds[2], eur(2_000), is_final=False)
    assert [await balance(deps, card) for card in cards] == [
        (10_000, 4_000),
        (8_000, 2_000),
        (10_000, 4_000),
    ]
    await credits.refund(key("refund"), holds[2], eur(500))
    await credits.void(key("void"), holds[3])
    assert [await balance(deps, card) for card in cards] == [
        (10_000, 4_000),
        (8_500, 1_000),
        (10_000, 4_000),
    ]
    async with deps.begin() as uow:
        rows = await uow.fetch(
            "SELECT id, captured_amount, released_amount, refunded_amount FROM credit_hold"
        )
        reasons = await uow.fetch(
            "SELECT reason FROM credit_movement WHERE reference_id = ANY ($1) ORDER BY id",
            [UUID(holds[2]), UUID(holds[3])],
        )
    assert {str(row[0]): tuple(row)[1:] for row in rows if any(tuple(row)[1:])} == {
        holds[2]: (2_000, 0, 500),
        holds[3]: (0, 1_000, 0),
    }
    assert [row["reason"] for row in reasons] == ["held", "held", "spent", "refunded", "released"]


async def test_only_what_is_held_is_taken_and_only_what_was_taken_goes_back(
    deps: Deps, credits: Gateway, card: str
) -> None:
    hold = (await credits.authorize(key("authorize"), eur(1_000), card)).reference
    for amount, code in (
        (eur(0), "amount_too_large"),
        (eur(1_001), "amount_too_large"),
        (Money(500, "USD"), "currency_mismatch"),
    ):
        assert (await credits.capture(key("capture"), hold, amount)).decline_code == code
    assert (await credits.capture(key("capture"), hold, eur(1), is_final=False)).approved
    assert (await credits.capture(key("capture"), hold, eur(999), is_final=False)).approved
    for amount, code in (
        (eur(0), "amount_too_large"),
        (eur(1_001), "amount_too_large"),
        (Money(500, "USD"), "currency_mismatch"),
    ):
        assert (await credits.refund(key("refund"), hold, amount)).decline_code == code
    assert (await credits.refund(key("refund"), hold, eur(1))).approved
    assert (await credits.refund(key("refund"), hold, eur(999))).approved
    assert await balance(deps, card) == (10_000, 0)


async def test_a_key_of_another_kind_of_call_is_a_bug(credits: Gateway, card: str) -> None:
    keys = {kind: key(kind) for kind in ("authorize", "capture", "refund", "void")}
    hold = (await credits.authorize(keys["authorize"], eur(100), card)).reference
    await credits.capture(keys["capture"], hold, eur(100))
    await credits.refund(keys["refund"], hold, eur(100))
    await credits.void(keys["void"], hold)
    calls: dict[str, Callable[[str], Awaitable[Outcome]]] = {
        "authorize": lambda same: credits.authorize(same, eur(100), card),
        "capture": lambda same: credits.capture(same, hold, eur(100)),
        "refund": lambda same: credits.refund(same, hold, eur(100)),
    }
    for kind, call in calls.items():
        assert (await call(keys[kind])).approved
        other = keys["refund" if kind == "authorize" else "authorize"]
        with pytest.raises(DBAPIError, match="used for another call"):
            await call(other)
    assert (await credits.void(keys["void"], hold)).approved


@pytest.mark.parametrize("token", ["", "tok_visa", str(UUID(int=7))])
async def test_no_such_account(credits: Gateway, token: str) -> None:
    outcome = await credits.authorize(key("authorize"), eur(1), token)
    assert (outcome.approved, outcome.decline_code) == (False, "no_such_account")
    for call in (credits.capture, credits.refund):
        assert (await call(key("x"), token, eur(1))).decline_code == "no_such_hold"
    assert (await credits.void(key("void"), token)).decline_code == "no_such_hold"


async def test_it_refuses_to_run_inside_a_transaction(deps: Deps, credits: Gateway) -> None:
    async with deps.begin():
        with pytest.raises(AssertionError, match="inside a transaction"):
            await credits.find("x")


async def test_no_code_can_overdraw_an_account(deps: Deps, card: str) -> None:
    for statement in (
        "UPDATE credit_account SET balance_amount = balance_amount + 1",
        "INSERT INTO credit_movement (account_id, balance_delta, held_delta, key, reason,"
        " occurred_at) SELECT id, -10001, 0, 'k', '', now() FROM credit_account",
        "INSERT INTO credit_movement (account_id, balance_delta, held_delta, key, reason,"
        " occurred_at) SELECT id, 0, 10001, 'k', '', now() FROM credit_account",
        "UPDATE credit_movement SET balance_delta = 1",
        "DELETE FROM credit_movement",
    ):
        with pytest.raises(DBAPIError):
            async with deps.begin() as uow:
                await uow.session.execute(text(statement))
    assert await balance(deps, card) == (10_000, 0)
