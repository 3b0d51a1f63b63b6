"""The audit: invariants checked on a schedule, remembered, and a mail to staff if one breaks."""

from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.audit import AuditRun
from deps.core import Deps, UnitOfWork
from tools import invariant, notification
from tools.errors import InvalidInput
from tools.events import AuditFailed
from tools.invariant import Violation
from tools.page import Page, checked_limit, decode_cursor, page_of
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


def _time(text_: str) -> datetime:
    try:
        return datetime.fromisoformat(text_)
    except ValueError as error:
        raise InvalidInput("This is not a cursor of this list.", field="cursor") from error


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
    uow: UnitOfWork, is_failed: bool | None = None, limit: int = 20, cursor: str | None = None
) -> Page[AuditView]:
    """List the audits of stock, orders and money, latest first, with what they found.

    Args:
        is_failed: Only those that found something, or only those that did not.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(AuditRun).order_by(col(AuditRun.slot).desc()).limit(checked_limit(limit) + 1)
    if is_failed is not None:
        query = query.where((col(AuditRun.violations) != []) == is_failed)
    if cursor is not None:
        query = query.where(col(AuditRun.slot) < _time(decode_cursor(cursor, str)[0]))
    rows = [AuditView.model_validate(row) for row in await uow.session.exec(query)]
    return page_of(rows, limit, lambda row: (row.slot.isoformat(),))
