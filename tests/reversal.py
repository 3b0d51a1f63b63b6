"""Doing, undoing, and finding every row as it was before.

What only grows is left out: ledgers, events, parcels that were stopped, the times of a change.
"""

import asyncio
from typing import Any
from uuid import UUID

from sqlalchemy import text

from agents.base import call_operation
from deps.core import Deps
from tests import factories
from tools import agent_run, undo
from tools.errors import DomainError
from tools.invariant import check
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()

# Tables of state, or what of them is in force, and the columns that say when and by whom it was
# last written.
STATE = {
    "stock_level": "",
    "stock_item": "",
    "aftersales_policy": "",
    "stock_count": "",
    "stock_count_line": "counted_at counted_by",
    "stock_transfer": "",
    "stock_transfer_line": "",
    "orders": "updated_at",
    "reservation": "",
    "reservation_line": "",
    "backorder": "",
    "payment": "",
    "order_return": "",
    "order_return_line": "",
    "order_exchange": "",
    "order_exchange_line": "",
    "credit_account": "",
    "cart": "version updated_at",
    "cart_line": "added_at",
    "(SELECT * FROM cart_credit WHERE is_chosen)": "",
    "(SELECT * FROM stored_method WHERE removed_at IS NULL)": "",
    "bundle_part": "",
    "location": "id",
    "stock_rule": "id",
    "postal_area": "",
    "handover": "claimed_by resolved_at",
    "discount": "",
}


async def rows(deps: Deps) -> dict[str, list[dict[str, Any]]]:
    """Return every row of state, without what only says when it was written."""
    shown = {}
    async with deps.begin() as uow:
        for table, but in STATE.items():
            left = [f"- '{column}'" for column in but.split()]
            found = await uow.session.execute(
                text(f"SELECT to_jsonb(t) {' '.join(left)} FROM {table} t ORDER BY 1")
            )
            shown[table] = list(found.scalars())
    return shown


async def act(deps: Deps, key: str, **arguments: Any) -> UUID:
    """Call an operation as an agent does; return the run."""
    within = agent_run.within(deps, words=key, route="order")
    await call_operation(within, OPERATIONS[key], arguments)
    assert within.turn is not None
    return within.turn.id


async def undone(deps: Deps, key: str, **arguments: Any) -> None:
    """Do, undo, and find everything as before; undo the undoing by the inverse's own inverse."""
    before = await rows(deps)
    run = await act(deps, key, **arguments)
    after = await rows(deps)
    assert after != before, "nothing to undo"
    assert await check(deps) == []
    (step,) = (await undo.undo(deps, run)).steps
    assert (step.is_undone, step.why_not) == (True, "")
    assert await rows(deps) == before
    assert await check(deps) == []
    (again,) = (await undo.undo(deps, run)).steps
    assert again.why_not == "It has been undone."


async def at_once(deps: Deps, key: str, times: int, **arguments: Any) -> list[str]:
    """Call an operation several times at once; return the errors."""

    async def once() -> str:
        try:
            await OPERATIONS[key](deps, **arguments)
        except DomainError as error:
            return error.error_code()
        return ""

    return sorted(filter(None, await asyncio.gather(*(once() for _ in range(times)))))


async def shelves(merchant: Deps) -> Deps:
    """Stock two products, one of them at two places; return the deps."""
    await factories.product(merchant, "MUG", stock=10)
    await factories.product(merchant, "TEA", title="Tea", stock=5)
    await factories.receive(merchant, "MUG", 1, "ROT")
    return merchant
