"""Every operation, with every foreign thing, as everybody: no read, no write, no difference.

Foreign and absent must be told apart by nothing: same status, same words but for the ids. Each is
tried as REST does and as an agent does. Staff see the shop; what is a person's alone they do not.
"""

import re
from typing import Any
from uuid import UUID

import pytest
from pydantic_core import to_json
from sqlalchemy import text

from agents.base import call_operation
from db.models.user import Role
from db.types import new_id
from deps.core import ROLE_SCOPES, Actor, Deps, UnitOfWork
from evals.attacks import world
from evals.attacks.world import CANARIES, World
from tests.tools.synthesis import Things, combinations
from tools.errors import DomainError
from tools.registry import OPERATIONS, Operation
from tools.surface import load_operations

load_operations()

SHOPPERS = ("guest", "nobody", "attacker")
STAFF = ("merchant", "admin")
# Tables with rows of the victim, and how to find them. The first are a person's alone.
PRIVATE = {
    "cart": "customer_id = :id",
    "cart_line": "cart_id IN (SELECT id FROM cart WHERE customer_id = :id)",
    "conversation": "user_id = :id",
    "stored_method": "customer_id = :id",
    "customer_address": "customer_id = :id",
    "app_user": "id = :id",
    "agent_run": "actor_id = :id",
}
OF_ORDER = (
    "order_line", "payment", "refund", "order_edit", "order_return", "order_exchange",
    "fulfillment", "ledger_entry",
)  # fmt: skip


@pytest.fixture
async def shop(deps: Deps) -> World:
    return await world.build(deps)


def _as(shop: World, who: str) -> Deps:
    if who == "nobody":
        return shop.deps.acting_as(Actor(scopes=ROLE_SCOPES[None]))
    if who == "admin":
        colleague = shop.colleague.actor.user_id
        actor = Actor(role=Role.ADMIN, user_id=colleague, scopes=ROLE_SCOPES[Role.ADMIN])
        return shop.deps.acting_as(actor)
    return shop.session(who)


async def _foreign(shop: World, who: str) -> Things:
    """Return references to what is the victim's: for staff, only what is not the shop's."""
    ids = [shop.victim_cart, shop.victim_conversation]
    if who in SHOPPERS:
        async with shop.deps.begin() as uow:
            found = await uow.session.execute(
                text("SELECT id FROM orders WHERE number = :n UNION ALL"
                     " SELECT p.id FROM payment p JOIN orders o ON o.id = p.order_id"
                     " WHERE o.number = :n UNION ALL"
                     " SELECT l.id FROM order_line l JOIN orders o ON o.id = l.order_id"
                     " WHERE o.number = :n"),
                {"n": shop.victim_order},
            )  # fmt: skip
            ids += [shop.victim_method, *found.scalars()]
        assert shop.victim.actor.user_id is not None
        ids.append(shop.victim.actor.user_id)
        return Things(tuple(ids), (shop.victim_order,), ("otto.zinnober@example.com",))
    return Things(tuple(ids), (999_999,), ("nobody@example.com",))


def _absent(like: Things) -> Things:
    ids = tuple(new_id() for _ in like.ids)
    return Things(ids, tuple(999_999 for _ in like.numbers), ("nobody@example.com",))


async def _print(shop: World, who: str) -> dict[str, Any]:
    """Return a digest of the victim's rows that `who` must leave alone."""
    wheres = dict(PRIVATE)
    if who in SHOPPERS:
        orders = "SELECT id FROM orders WHERE customer_id = :id"
        wheres |= {"orders": "customer_id = :id"}
        wheres |= {table: f"order_id IN ({orders})" for table in OF_ORDER}
    query = " UNION ALL ".join(
        f"SELECT '{table}', md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), ''))"
        f" FROM {table} t WHERE {where}"
        for table, where in wheres.items()
    )
    async with shop.deps.begin() as uow:
        rows = await uow.session.execute(text(query), {"id": shop.victim.actor.user_id})
        return {row[0]: row[1] for row in rows}


class _Undo(Exception):
    pass


async def _directly(deps: Deps, operation: Operation, given: dict[str, Any]) -> Any:
    """Run as a REST endpoint does; what an ordinary operation wrote is taken back."""
    if operation.is_process:
        return await operation(deps, **given)
    told = None
    try:
        async with deps.begin() as uow:
            told = await _within(uow, deps, operation, given)
            raise _Undo
    except _Undo:
        return told


async def _within(uow: UnitOfWork, deps: Deps, operation: Operation, given: dict[str, Any]) -> Any:
    assert deps.actor.may(operation.scope)
    return await operation.run(uow, **given)


async def _by_agent(deps: Deps, operation: Operation, given: dict[str, Any]) -> Any:
    return (await call_operation(deps, operation, given))["data"]


async def _answer(run: Any, deps: Deps, operation: Operation, given: dict[str, Any]) -> str:
    try:
        told = to_json(await run(deps, operation, given)).decode()
    except DomainError as error:
        told = f"{error.status_code} {error.error_code()} {error} {error.extra}"
    return told


def _modulo_ids(told: str, things: Things) -> str:
    """Leave out what must differ: ids, times, numbers, and the addresses that were asked for.

    Ids go first: an order number may stand by chance in the middle of one.
    """
    told = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|[0-9a-f]{64}", "·", told)
    for address in things.emails:
        told = told.replace(address, "·")
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z?|\d+", "·", told)


def test_an_order_number_within_an_id_makes_no_difference() -> None:
    theirs = Things((), (1001,), ("otto@example.com",))
    nobodys = Things((), (999_999,), ("nobody@example.com",))
    cart = '{"id":"01a20248-97bc-732a-b511-158c5611001b","order":%d,"email":"%s"}'
    one, other = cart % (1001, "otto@example.com"), cart % (999_999, "nobody@example.com")
    assert _modulo_ids(one, theirs) == _modulo_ids(other, nobodys)
    assert _modulo_ids(one, theirs) != _modulo_ids(one.replace("order", "total"), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("who", [*SHOPPERS, *STAFF])
async def test_foreign_things_are_as_absent(shop: World, who: str) -> None:
    deps = _as(shop, who)
    foreign = await _foreign(shop, who)
    absent = _absent(foreign)
    before = await _print(shop, who)
    problems, tried = [], 0
    for operation in [op for op in OPERATIONS.values() if deps.actor.may(op.scope)]:
        pairs = zip(combinations(operation, foreign), combinations(operation, absent), strict=True)
        for theirs, nobodys in pairs:
            for run in (_by_agent, _directly):
                tried += 1
                told = await _answer(run, deps, operation, theirs)
                expected = await _answer(run, deps, operation, nobodys)
                where = f"{operation.key} by {who}, {run.__name__}, {theirs}"
                news = told
                for address in foreign.emails:  # What one has written oneself is no news.
                    news = news.replace(address, "")
                if who in SHOPPERS and any(mark in news for mark in CANARIES):
                    problems.append(f"{where}: shows what is another's: {told[:300]}")
                elif theirs != nobodys and (
                    _modulo_ids(told, foreign) != _modulo_ids(expected, absent)
                ):
                    problems.append(
                        f"{where}:\n  foreign: {told[:300]}\n  absent:  {expected[:300]}"
                    )
        after = await _print(shop, who)
        if after != before:
            changed = [table for table in before if before[table] != after[table]]
            problems.append(f"{operation.key} by {who} changed {changed}")
            before = after
        await shop.forget_waiting()
    assert not problems, f"{len(problems)} of {tried}:\n" + "\n".join(problems)
    assert tried > 60, "too few operations were tried to prove anything"


@pytest.mark.parametrize("who", [*SHOPPERS, "attacker"])
async def test_without_the_scope_an_operation_is_refused(shop: World, who: str) -> None:
    deps = _as(shop, who)
    things = _absent(await _foreign(shop, who))
    for operation in [op for op in OPERATIONS.values() if not deps.actor.may(op.scope)]:
        given = next(combinations(operation, things))
        for run in (_by_agent, OPERATIONS[operation.key].__call__):
            if run is _by_agent:
                told = await _answer(_by_agent, deps, operation, given)
            else:
                told = await _answer(_called, deps, operation, given)
            assert told.startswith("403 forbidden"), operation.key


async def _called(deps: Deps, operation: Operation, given: dict[str, Any]) -> Any:
    return await operation(deps, **given)


def test_arguments_can_be_made_for_every_operation() -> None:
    """A new operation is covered by itself, or this says what type to teach."""
    things = Things((UUID(int=7),), (1,), ("a@example.com",))
    for operation in OPERATIONS.values():
        assert next(combinations(operation, things)).keys() == operation.parameters.keys()
