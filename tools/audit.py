"""The audit: invariants checked on a schedule, remembered, and a mail to staff if one breaks."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import literal_column, not_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.audit import FAILED, AuditRun
from deps.core import Deps, UnitOfWork
from tools import invariant, notification
from tools.events import AuditFailed
from tools.invariant import Violation
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import Risk, operation

EVERY: Final = timedelta(minutes=15)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


class AuditView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    slot: datetime
    started_at: datetime
    finished_at: datetime | None
    violations: list[Violation]


async def run_due(deps: Deps) -> list[Violation] | None:
    """Audit if nobody has since it was due; None if somebody has. Any number may ask."""
    now = deps.clock()
    slot = _EPOCH + (now - _EPOCH) // EVERY * EVERY
    async with deps.begin() as uow:
        claim = insert(AuditRun).values(slot=slot, started_at=now, violations=[])
        taken = await uow.session.execute(
            claim.on_conflict_do_nothing().returning(col(AuditRun.slot))
        )
        if taken.first() is None:
            return None
    found = await invariant.check(deps)
    async with deps.begin() as uow:
        await uow.session.execute(
            update(AuditRun)
            .where(col(AuditRun.slot) == slot)
            .values(finished_at=deps.clock(), violations=[v.model_dump() for v in found])
        )
        if found:
            uow.publish(
                AuditFailed(slot=slot, invariants=[violation.invariant for violation in found])
            )
    return found


async def tell_staff(uow: UnitOfWork, event: AuditFailed) -> None:
    """Queue the mail that says which invariants do not hold; once per audit."""
    run = await uow.session.get_one(AuditRun, event.slot)
    lines = "\n".join(
        f"- {violation['invariant']}: {violation['count']}, such as "
        f"{', '.join(violation['offenders'][:3])}"
        for violation in run.violations
    )
    await notification.queue(
        uow,
        key=f"audit:{event.slot.isoformat()}",
        template="audit",
        recipient=uow.settings.support_email,
        subject=f"The audit found {len(run.violations)} broken invariants",
        body=f"Checked at {event.slot:%Y-%m-%d %H:%M} UTC.\n\n{lines}\n\n"
        "Run `./shopkeeper invariants` for all of it.\n",
    )


@operation(
    scope="event:read",
    risk=Risk.READ,
    idempotent=True,
    domain="analytics",
    examples=(
        "show the latest audits",
        "did the last audit find anything",
        "are the books and the stock sound",
        "which invariants are broken",
    ),
)
async def list_audits(
    uow: UnitOfWork,
    is_failed: bool | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[AuditView]:
    """List the audits of stock, orders and money, with what they found.

    Args:
        is_failed: Only those that found something, or only those that did not.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(AuditRun)
    if is_failed is not None:
        failed: Any = literal_column(FAILED)
        query = query.where(failed if is_failed else not_(failed))
    ordering = by_id(AuditRun.slot, sort)
    return await read_page(uow, query, ordering, AuditView.model_validate, limit, cursor)
