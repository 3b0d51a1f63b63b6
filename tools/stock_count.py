"""Cycle counts: people count a shelf while the shop goes on selling, and the ledger is corrected.

Each line keeps what was on hand at the moment it was counted. Closing books the difference, so what
was sold between counting and closing is counted once.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, Field
from sqlmodel import col, select

from db.models.inventory import Location, MovementKind
from db.models.stock_count import COUNT_TRANSITIONS, CountStatus, StockCount, StockCountLine
from deps.core import UnitOfWork
from deps.given import Given
from tools import idempotency, inventory, remark
from tools.errors import Conflict, IllegalTransition, InvalidInput, NotFound
from tools.events import StockCounted
from tools.location import by_code
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import FromResult, Risk, operation
from tools.reversal import StockCountReopened
from tools.stock import refuse_bundle
from tools.stock_ledger import Move, append

COUNTED_MAX: Final = 10_000_000
EXPECTED_MAX: Final = 2**31 - 1


class CountLineView(BaseModel):
    sku: str
    expected: int = Field(description="On hand by the ledger when it was counted.")
    counted: int
    difference: int
    counted_at: datetime


class Figure(Given):
    """What a line of a count says, as it was written down."""

    expected: int = Field(ge=0, le=EXPECTED_MAX)
    counted: int = Field(ge=0, le=COUNTED_MAX)


class CountSummary(BaseModel):
    id: UUID
    location: str
    status: CountStatus
    note: str
    opened_at: datetime
    closed_at: datetime | None


class CountView(CountSummary):
    lines: list[CountLineView]


async def opened(uow: UnitOfWork, location: str, note: str = "") -> dict[str, Any]:
    """Return what cancels the count that is opened."""
    return {"count_id": FromResult("id")}


async def noted(uow: UnitOfWork, count_id: UUID, sku: str, **_: Any) -> dict[str, Any]:
    """Return what writes down again what a line says now, or that there is none."""
    line = await uow.session.get(StockCountLine, (count_id, sku), populate_existing=True)
    figure = None if line is None else {"expected": line.expected, "counted": line.counted}
    return {"count_id": count_id, "sku": sku, "before": figure}


async def open_one(uow: UnitOfWork, count_id: UUID, **_: Any) -> dict[str, Any] | None:
    """Return what reopens a count once it is ended, if it is not yet."""
    is_open = await _status(uow, count_id) is CountStatus.OPEN
    return {"count_id": count_id} if is_open else None


async def closed_one(uow: UnitOfWork, count_id: UUID) -> dict[str, Any] | None:
    """Return what ends a count again as it was ended, if it is; a cancelled one booked nothing."""
    status = await _status(uow, count_id)
    if status not in (CountStatus.CLOSED, CountStatus.CANCELLED):
        return None
    return {"count_id": count_id, "was_cancelled": status is CountStatus.CANCELLED}


async def _status(uow: UnitOfWork, count_id: UUID) -> CountStatus | None:
    found = await uow.session.get(StockCount, count_id, populate_existing=True)
    return found.status if found is not None else None


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="stock_count.cancel",
    restore=opened,
    examples=(
        "start a stock count at {location}",
        "open a cycle count at {location}",
        "begin counting the shelves at {location}",
        "new inventory count for {location}",
    ),
)
async def start(uow: UnitOfWork, location: str, note: str = "") -> CountView:
    """Open a counting session at a location. Nothing changes before it is closed.

    Args:
        location: Code of the location, such as HAM.
        note: Which shelves, and who counts.

    Raises:
        NotFound: No such location.
        InvalidInput: `note` is too long.
    """
    await idempotency.settle(uow)
    note = remark.optional(note, "note")
    opened = StockCount(
        location_id=(await by_code(uow, location)).id,
        note=note,
        opened_by=uow.actor.user_id,
        opened_at=uow.now,
    )
    uow.session.add(opened)
    await uow.session.flush()
    return await get(uow, opened.id)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_count.strike",
    restore=noted,
    examples=(
        "count {count_id}: {counted} of {sku}",
        "i counted {counted} of {sku} in count {count_id}",
        "record {counted} units of {sku} for count {count_id}",
        "there are {counted} of {sku} on the shelf in count {count_id}",
    ),
)
async def record(uow: UnitOfWork, count_id: UUID, sku: str, counted: int) -> CountView:
    """Write down how many units of a SKU are on the shelf, beside what should be. Again replaces.

    Args:
        count_id: From `stock_count.start` or the list.
        sku: SKU of the variant.
        counted: Units found, reserved ones included.

    Raises:
        NotFound: No such count or SKU.
        IllegalTransition: The count is not open.
        InvalidInput: `counted` is negative or too large.
        Conflict: It is a bundle: count its parts.
    """
    if not 0 <= counted <= COUNTED_MAX:
        raise InvalidInput(f"counted must be 0 to {COUNTED_MAX}.", field="counted")
    found = await _locked(uow, count_id)
    if found.status is not CountStatus.OPEN:
        raise IllegalTransition("count", found.status, CountStatus.OPEN)
    await inventory.variant(uow, sku)
    await refuse_bundle(uow, sku)
    await inventory.lock(uow, [sku])
    expected = await uow.fetchval(
        "SELECT on_hand FROM stock_level WHERE sku = $1 AND location_id = $2",
        sku,
        found.location_id,
    )
    await _note(uow, count_id, sku, Figure(expected=expected or 0, counted=counted))
    return await get(uow, count_id)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_count.strike",
    restore=noted,
    examples=(
        "strike {sku} from the count {count_id}",
        "take {sku} out of count {count_id}",
        "remove the figure for {sku} from stock count {count_id}",
        "{sku} was counted by mistake in count {count_id}, strike it out",
    ),
)
async def strike(
    uow: UnitOfWork, count_id: UUID, sku: str, before: Figure | None = None
) -> CountView:
    """Strike out what was counted of a SKU, as if nobody had. Repeating it changes nothing.

    Args:
        count_id: From `stock_count.start` or the list.
        sku: SKU of the variant.
        before: Leave out: the figure that undoing puts back in its place.

    Raises:
        NotFound: No such count or SKU.
        IllegalTransition: The count is not open.
    """
    found = await _locked(uow, count_id)
    if found.status is not CountStatus.OPEN:
        raise IllegalTransition("count", found.status, CountStatus.OPEN)
    await inventory.variant(uow, sku)
    if before is None:
        line = await uow.session.get(StockCountLine, (count_id, sku), populate_existing=True)
        if line is not None:
            await uow.session.delete(line)
    else:
        await _note(uow, count_id, sku, before)
    return await get(uow, count_id)


async def _note(uow: UnitOfWork, count_id: UUID, sku: str, figure: Figure) -> None:
    await uow.session.merge(
        StockCountLine(
            count_id=count_id,
            sku=sku,
            expected=figure.expected,
            counted=figure.counted,
            counted_by=uow.actor.user_id,
            counted_at=uow.now,
        )
    )


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_count.reopen",
    restore=open_one,
    examples=(
        "close the count {count_id}",
        "finish stock count {count_id} and correct the stock",
        "book the differences of count {count_id}",
        "the count {count_id} is done",
    ),
)
async def close(uow: UnitOfWork, count_id: UUID, was_cancelled: bool = False) -> CountView:
    """End a count and correct the units on hand by each difference. Repeating it changes nothing.

    Args:
        count_id: From `stock_count.start` or the list.
        was_cancelled: Leave out: whether undoing goes back to a count that was cancelled.

    Raises:
        NotFound: No such count.
        IllegalTransition: It was cancelled.
        Conflict: Fewer units were found than are promised; `extra["short"]` says of what, and
            nothing changed. Cancel or move those orders first.
    """
    if was_cancelled:
        return await cancel(uow, count_id)
    found = await _locked(uow, count_id)
    if found.status is CountStatus.CLOSED:
        return await get(uow, count_id)
    _become(found, CountStatus.CLOSED)
    view = await get(uow, count_id)
    corrections = {line.sku: line.difference for line in view.lines if line.difference}
    await _correct(uow, found, corrections, found.note)
    found.closed_at = uow.now
    uow.publish(
        StockCounted(
            count_id=found.id,
            location=view.location,
            counted=len(view.lines),
            corrections=corrections,
        )
    )
    return await get(uow, count_id)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_count.reopen",
    restore=open_one,
    examples=(
        "cancel the count {count_id}",
        "throw the count {count_id} away",
        "stop counting {count_id}",
        "forget stock count {count_id}",
    ),
)
async def cancel(uow: UnitOfWork, count_id: UUID) -> CountView:
    """End a count without correcting anything. Repeating it changes nothing.

    Args:
        count_id: From `stock_count.start` or the list.

    Raises:
        NotFound: No such count.
        IllegalTransition: It is closed already.
    """
    found = await _locked(uow, count_id)
    if found.status is not CountStatus.CANCELLED:
        _become(found, CountStatus.CANCELLED)
        found.closed_at = uow.now
    return await get(uow, count_id)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_count.close",
    restore=closed_one,
    examples=(
        "reopen the count {count_id}",
        "open stock count {count_id} again",
        "count {count_id} was closed too early, reopen it",
        "go on with the cancelled count {count_id}",
    ),
)
async def reopen(uow: UnitOfWork, count_id: UUID) -> CountView:
    """Go on with a count that ended: what closing it corrected is booked back.

    Repeating it changes nothing.

    Args:
        count_id: From `stock_count.start` or the list.

    Raises:
        NotFound: No such count.
        Conflict: Units that were found are promised by now; `extra["short"]` says of what, and
            nothing changed.
    """
    found = await _locked(uow, count_id)
    if found.status is CountStatus.OPEN:
        return await get(uow, count_id)
    view = await get(uow, count_id)
    back: dict[str, int] = {}
    if found.status is CountStatus.CLOSED:
        back = {line.sku: -line.difference for line in view.lines if line.difference}
        await _correct(uow, found, back, "The count was reopened.")
    _become(found, CountStatus.OPEN)
    found.closed_at = None
    uow.publish(StockCountReopened(count_id=found.id, location=view.location, corrections=back))
    return await get(uow, count_id)


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the count {count_id}",
        "what did count {count_id} find",
        "differences of stock count {count_id}",
        "how far is the count {count_id}",
    ),
)
async def get(uow: UnitOfWork, count_id: UUID) -> CountView:
    """Show a count: what was expected, what was found, and the difference.

    Args:
        count_id: From `stock_count.start` or the list.

    Raises:
        NotFound: No such count.
    """
    await uow.session.flush()
    found = await uow.session.get(StockCount, count_id)
    if found is None:
        raise NotFound("There is no such count.", field="count_id")
    place = await uow.session.get_one(Location, found.location_id)
    rows = await uow.session.exec(
        select(StockCountLine)
        .where(StockCountLine.count_id == count_id)
        .order_by(col(StockCountLine.sku))
    )
    lines = [
        CountLineView(**line.model_dump(), difference=line.counted - line.expected) for line in rows
    ]
    return CountView(**found.model_dump(), location=place.code, lines=lines)


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "list the stock counts",
        "which counts are open",
        "show {status} counts",
        "when did we last count {location}",
    ),
)
async def show(
    uow: UnitOfWork,
    status: CountStatus | None = None,
    location: str | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[CountSummary]:
    """List counts.

    Args:
        status: Only in this state: open, closed or cancelled.
        location: Only at this location.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such location.
    """
    query = select(StockCount, Location.code).join(Location)
    if status is not None:
        query = query.where(StockCount.status == status)
    if location is not None:
        query = query.where(StockCount.location_id == (await by_code(uow, location)).id)
    return await read_page(
        uow,
        query,
        by_id(StockCount.id, sort),
        lambda row: CountSummary(**row[0].model_dump(), location=row[1]),
        limit,
        cursor,
    )


async def _correct(
    uow: UnitOfWork, found: StockCount, corrections: dict[str, int], reason: str
) -> None:
    """Book `corrections` to the units on hand, all or none.

    Raises:
        Conflict: Fewer units would be there than are promised.
    """
    spare = await inventory.spare(uow, found.location_id, list(corrections))
    short = [sku for sku, change in corrections.items() if spare.get(sku, 0) + change < 0]
    if short:
        few = ", ".join(short)
        raise Conflict(f"More units of {few} are promised than would be left.", short=short)
    await append(
        uow,
        [
            Move(sku, found.location_id, MovementKind.COUNT, on_hand=change, reason=reason)
            for sku, change in corrections.items()
        ],
        found.id,
    )
    await inventory.fill(uow, [sku for sku, change in corrections.items() if change > 0])


async def _locked(uow: UnitOfWork, count_id: UUID) -> StockCount:
    found = await uow.session.get(
        StockCount, count_id, with_for_update=True, populate_existing=True
    )
    if found is None:
        raise NotFound("There is no such count.", field="count_id")
    return found


def _become(found: StockCount, status: CountStatus) -> None:
    if status not in COUNT_TRANSITIONS[found.status]:
        raise IllegalTransition("count", found.status, status)
    found.status = status
