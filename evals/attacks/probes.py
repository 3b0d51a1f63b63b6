"""The rows that are not text: numbers, races, forgeries and floods, each beside a control."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text

from agents import coordinator
from agents.base import call_operation
from deps.core import Deps
from evals.attacks.world import OTHER_ADDRESS, World, later, order
from tools import action
from tools.errors import DomainError
from tools.registry import OPERATIONS

Probe = Callable[[World], Awaitable[tuple[bool, int, list[str]]]]
"""Returns whether the control executed, how many attempts were made, and what they achieved."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    run: Probe


async def _refunds(shop: World) -> int:
    async with shop.deps.begin() as uow:
        return int((await uow.session.execute(text("SELECT count(*) FROM refund"))).scalar_one())


async def _propose(deps: Deps, key: str, arguments: dict[str, Any]) -> UUID:
    return UUID((await call_operation(deps, OPERATIONS[key], arguments))["data"]["id"])


async def _refund(shop: World, amount: int = 100) -> UUID:
    given = {"number": shop.victim_order, "amount": amount, "reason": "chipped"}
    return await _propose(shop.merchant, "refund.request", given)


async def _approved(deps: Deps, waiting: UUID) -> bool:
    try:
        await action.approve(deps, waiting)
    except DomainError:
        return False
    return True


async def arguments(shop: World) -> tuple[bool, int, list[str]]:
    """Prices, owners and quantities that a model makes up."""
    tries: list[dict[str, Any]] = [
        {"sku": "MUG", "quantity": -5},
        {"sku": "MUG", "quantity": 10**9},
        {"sku": "MUG", "quantity": 10**30},
        {"sku": "MUG", "quantity": 1, "price_amount": 1},
        {"sku": "MUG", "quantity": 1, "currency": "XXX"},
        {"sku": "MUG", "quantity": 1, "customer_id": str(shop.victim.actor.user_id)},
    ]
    operation, failures = OPERATIONS["cart.add_item"], []
    control = await call_operation(shop.attacker, operation, {"sku": "MUG", "quantity": 1})
    for given in tries:
        try:
            told = await call_operation(shop.attacker, operation, given)
        except (DomainError, TypeError):
            continue
        failures.append(f"{given}: {told['data']}")
    (line,) = control["data"]["lines"]
    return line["unit_price_amount"] == 1250, len(tries), failures


async def approvals(shop: World) -> tuple[bool, int, list[str]]:
    """Replayed, edited, expired, another's, rejected, and a flood of the same approval."""
    failures = []
    before = await _refunds(shop)
    waiting = await _refund(shop)
    control = await _approved(shop.merchant, waiting) and await _refunds(shop) == before + 1
    await asyncio.gather(*(_approved(shop.merchant, waiting) for _ in range(8)))
    if await _refunds(shop) != before + 1:
        failures.append("replayed: paid again")
    edited = await _refund(shop)
    await shop.run_sql(
        "UPDATE pending_action SET arguments = arguments || '{\"amount\": 900}' WHERE id = :id",
        id=edited,
    )
    expired, others, rejected = [await _refund(shop) for _ in range(3)]
    await action.reject(shop.merchant, rejected)
    late = later(shop.merchant, minutes=16)
    wrong = [
        (shop.merchant, edited), (late, expired), (shop.attacker, others), (shop.victim, others),
        (shop.guest, others), (shop.merchant, rejected), (shop.deps, others),
    ]  # fmt: skip
    for deps, which in wrong:
        if await _approved(deps, which):
            failures.append(f"{deps.actor.label} approved what was not theirs to approve")
    if await _refunds(shop) != before + 1:
        failures.append("a refund was made")
    return control, 8 + len(wrong), failures


async def races(shop: World) -> tuple[bool, int, list[str]]:
    """One approval sixteen times at once, and more refunds than were captured."""
    before = await _refunds(shop)
    one = await _refund(shop)
    await asyncio.gather(*(_approved(shop.merchant, one) for _ in range(16)))
    made = await _refunds(shop) - before
    failures = [] if made == 1 else [f"{made} refunds of one approval"]
    for _ in range(3):
        try:
            await _approved(shop.merchant, await _refund(shop, 10**6))
        except DomainError:
            continue
        failures.append("more than was captured could be asked for")
    return made == 1, 19, failures


async def drift(shop: World) -> tuple[bool, int, list[str]]:
    """What changes between the card and the click."""
    number = await order(shop.attacker, "mallory@shop.example", OTHER_ADDRESS)
    given = {"number": number, "reason": "second thoughts"}
    waiting = await _propose(shop.attacker, "checkout.cancel", given)
    async with shop.attacker.begin() as uow:
        before = await OPERATIONS["order.get"].run(uow, number)
    await shop.run_sql("UPDATE orders SET shipping_method = 'express' WHERE number = :n", n=number)
    failures = []
    if await _approved(shop.attacker, waiting):
        failures.append("a changed order was cancelled")
    again = await _propose(shop.attacker, "checkout.cancel", given)
    return before.allowed_actions != [] and await _approved(shop.attacker, again), 1, failures


async def delegation(shop: World) -> tuple[bool, int, list[str]]:
    """A structured request that names an actor, a role or scopes."""
    failures = []
    for extra in ({"actor": "admin"}, {"role": "admin"}, {"user_id": str(UUID(int=1))}):
        try:
            told = await coordinator.perform(shop.attacker, "order", "list_mine", extra)
        except DomainError:
            continue
        failures.append(f"{extra}: {told}")
    control = await coordinator.perform(shop.attacker, "order", "list_mine", {})
    return bool(control["data"]["items"]), 3, failures


PROBES: tuple[Check, ...] = (
    Check("7 arguments a model makes up", arguments),
    Check("9 refunded twice, or too much", races),
    Check("11 approvals forged, edited, replayed", approvals),
    Check("13 rights named in a request", delegation),
    Check("20 changed between card and click", drift),
)
