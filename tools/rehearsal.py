"""Dry runs: what an operation would do, found by doing it in a transaction that is rolled back.

A process calls vendors and cannot be rolled back; its declared preview stands in.
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python
from sqlalchemy import text

from db.models.outbox import OutboxMessage
from deps.core import Deps, UnitOfWork
from tools import agent_run
from tools.agent_run import Compensation
from tools.registry import Operation, Risk

_MONEY_FIELDS = ("charge_amount", "refund_amount")
# Value handed out counts alike, whether it goes to a card or into an account.
_PAYS_OUT = {"refund": "refund", "credit": "refund", "return": "refund", "exchange": "refund"}
# What changes without changing what was agreed: others buy, pictures move, times pass.
_IMMATERIAL = re.compile(r".*_at|available|image_url|trace_id")
_WHEN = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")

# The running transaction's own counts. They include earlier transactions of the same connection
# that were not reported yet, so they are read before and after.
_ROWS = text("""
    SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_xact_user_tables
     WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
""")
_LEDGER = text("""
    SELECT account, currency, sum(amount)::bigint AS amount FROM ledger_entry
     WHERE id > :after AND xmin = pg_current_xact_id()::xid
     GROUP BY account, currency HAVING sum(amount) <> 0 ORDER BY currency, account
""")
_PRICES = text("""
    SELECT sku, price_amount FROM variant WHERE xmin = pg_current_xact_id()::xid
""")

# An amount takes the most, in per cent, off the cheapest goods that it is for.
_DISCOUNTS = text("""
    SELECT code, coalesce(percent, ceil(100.0 * amount / greatest(amount, minimum_amount)))::int
               AS percent
    FROM discount WHERE xmin = pg_current_xact_id()::xid
""")


class RowCount(BaseModel):
    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class MoneyMove(BaseModel):
    """`what` is charge, refund, or a ledger account; the amount is in minor units."""

    what: str
    amount: int
    currency: str


class Effects(BaseModel):
    """What carrying the action out would change."""

    rows: list[RowCount] = Field(default_factory=list)
    money: list[MoneyMove] = Field(default_factory=list)
    events: list[str] = Field(default_factory=list)
    prices: dict[str, int] = Field(default_factory=dict, description="New prices by SKU.")
    discounts: dict[str, int] = Field(
        default_factory=dict, description="Of new codes: the per cent that they take off at most."
    )

    def total(self, what: str) -> int:
        return sum(abs(move.amount) for move in self.money if move.what == what)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run showed; `state_sha256` recognises another run that would do the same."""

    preview: dict[str, Any]
    effects: Effects
    state_sha256: str


class _RolledBack(Exception):
    """Ends the transaction of a rehearsal."""


async def rehearse(deps: Deps, operation: Operation, arguments: Mapping[str, Any]) -> Outcome:
    """Return what `operation` would do now, in the agents' role, and leave nothing behind.

    Raises:
        DomainError: What already stands against it.
    """
    if operation.is_process:
        if operation.preview is None:
            return _outcome({}, Effects())
        preview = await _declared(deps, operation, arguments)
        return _outcome(preview, Effects(money=_money_in(operation, preview)))
    declared = await _declared(deps, operation, arguments) if operation.preview else None
    seen: list[Outcome] = []
    try:
        async with deps.begin() as uow:
            _, _, outcome = await perform(uow, operation, arguments, declared)
            seen.append(outcome)
            raise _RolledBack
    except _RolledBack:
        return seen[0]


async def perform(
    uow: UnitOfWork,
    operation: Operation,
    arguments: Mapping[str, Any],
    declared: dict[str, Any] | None = None,
) -> tuple[Any, Compensation, Outcome]:
    """Run an ordinary operation in the caller's transaction and tell what it did.

    Args:
        declared: What the operation's own preview said, shown instead of its result.
    """
    rows = await _rows(uow)
    last = (await uow.session.execute(text("SELECT max(id) FROM ledger_entry"))).scalar() or 0
    published = len(uow.events)
    result, compensation = await agent_run.run_confined(uow, operation, arguments)
    shown = declared if declared is not None else _as_dict(result)
    counts = _difference(rows, await _rows(uow))
    effects = Effects(
        rows=counts,
        money=_money_in(operation, shown) + await _ledger(uow, last),
        events=_names(uow.events[published:]),
        prices=await _prices(uow) if any(c.table == "variant" for c in counts) else {},
        discounts=await _discounts(uow) if any(c.table == "discount" for c in counts) else {},
    )
    return result, compensation, _outcome(shown, effects)


async def _declared(
    deps: Deps, operation: Operation, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    assert operation.preview is not None
    first = next(iter(inspect.signature(operation.preview).parameters.values()))
    viewing = replace(
        operation, run=operation.preview, restore=None, is_process=first.annotation is Deps
    )
    if viewing.is_process:
        outcome, _ = await agent_run.run_process(deps, viewing, arguments)
    else:
        async with deps.begin() as uow:
            outcome, _ = await agent_run.run_confined(uow, viewing, arguments)
    return _as_dict(outcome)


def _as_dict(value: Any) -> dict[str, Any]:
    dumped = to_jsonable_python(value)
    return dumped if isinstance(dumped, dict) else {"outcome": dumped}


def _outcome(preview: dict[str, Any], effects: Effects) -> Outcome:
    known: dict[str, str] = {}
    material = _material([preview, effects.model_dump(mode="json")], known)
    return Outcome(preview, effects, agent_run.sha256(material))


def _material(value: Any, known: dict[str, str]) -> Any:
    """Leave out what differs between two runs that do the same: times, and ids made by the run.

    Ids are numbered in the order they appear in, so which is which still counts.
    """
    if isinstance(value, dict):
        return {
            key: _material(item, known)
            for key, item in sorted(value.items())
            if not _IMMATERIAL.fullmatch(key)
        }
    if isinstance(value, list):
        return [_material(item, known) for item in value]
    if isinstance(value, str):
        if _WHEN.match(value):
            return "time"
        if _is_id(value):
            return known.setdefault(value, f"id {len(known)}")
    return value


def _is_id(value: str) -> bool:
    if len(value) != 36:
        return False
    try:
        UUID(value)
    except ValueError:
        return False
    return True


def _money_in(operation: Operation, preview: Mapping[str, Any]) -> list[MoneyMove]:
    """Read what moves from a preview: the fields that say so, or the one amount it is about."""
    fields = {name: name.removesuffix("_amount") for name in _MONEY_FIELDS}
    if operation.key == "checkout.cancel":
        fields = {"total_amount": "refund"}
    elif operation.risk is Risk.MONEY and not fields.keys() & preview.keys():
        fields = {"amount": _PAYS_OUT.get(operation.domain, operation.domain)}
    currency = str(preview.get("currency", ""))
    return [
        MoneyMove(what=what, amount=preview[name], currency=currency)
        for name, what in fields.items()
        if isinstance(preview.get(name), int) and preview[name]
    ]


async def _rows(uow: UnitOfWork) -> dict[str, tuple[int, int, int]]:
    await uow.session.flush()
    return {row[0]: tuple(row[1:]) for row in await uow.session.execute(_ROWS)}


def _difference(
    before: Mapping[str, tuple[int, int, int]], after: Mapping[str, tuple[int, int, int]]
) -> list[RowCount]:
    counts = []
    for table, now in sorted(after.items()):
        was = before.get(table, (0, 0, 0))
        inserted, updated, deleted = (n - w for n, w in zip(now, was, strict=True))
        if inserted or updated or deleted:
            counts.append(
                RowCount(table=table, inserted=inserted, updated=updated, deleted=deleted)
            )
    return counts


async def _ledger(uow: UnitOfWork, after: int) -> list[MoneyMove]:
    rows = await uow.session.execute(_LEDGER, {"after": after})
    return [MoneyMove(what=row.account, amount=row.amount, currency=row.currency) for row in rows]


async def _discounts(uow: UnitOfWork) -> dict[str, int]:
    return {row.code: row.percent for row in await uow.session.execute(_DISCOUNTS)}


async def _prices(uow: UnitOfWork) -> dict[str, int]:
    return {row.sku: row.price_amount for row in await uow.session.execute(_PRICES)}


def _names(events: list[OutboxMessage]) -> list[str]:
    return sorted(event.type for event in events)
