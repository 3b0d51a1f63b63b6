"""Transfers: units that leave one location, are in transit, and arrive at another, or do not.

    draft ── ship ──▶ in_transit ── receive (in parts) ──▶ received
      └── cancel ──▶ cancelled ◀── cancel (the rest goes back) ──┘

Each step is one transaction over the transfer's lock, the status and the movements, so a process
killed at any point leaves the step done or not begun. The undo of `ship` is `cancel`; those of
`receive` and `cancel` are in `tools.transfer_back`.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from db.models.inventory import Location, MovementKind
from db.models.transfer import StockTransfer, StockTransferLine, TransferStatus
from deps.core import UnitOfWork
from deps.given import Given
from tools import idempotency, inventory, remark, transfer_step
from tools.errors import IllegalTransition, InvalidInput, NotFound
from tools.events import TransferCancelled, TransferReceived, TransferShipped
from tools.location import by_code
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import Risk, operation
from tools.stock import refuse_bundle
from tools.stock_ledger import Move, append
from tools.transfer_step import (
    QUANTITY_MAX,
    ReceivedUnits,
    arrivals,
    become,
    leaving,
    locked,
    outstanding,
    refuse_repeated,
    refuse_short,
)


class TransferUnits(Given):
    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(ge=1, le=QUANTITY_MAX)


class TransferLineView(BaseModel):
    sku: str
    quantity: int
    received: int
    lost: int
    returned: int
    outstanding: int
    loss_reason: str


class TransferSummary(BaseModel):
    id: UUID
    source: str
    target: str
    status: TransferStatus
    note: str
    created_at: datetime
    shipped_at: datetime | None
    finished_at: datetime | None


class TransferView(TransferSummary):
    lines: list[TransferLineView]


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="transfer.cancel",
    restore=transfer_step.planned,
    examples=(
        "transfer {quantity} of {sku} from {source} to {target}",
        "plan a transfer from {source} to {target}",
        "move {quantity} units of {sku} from {source} to {target}",
        "create a stock transfer from {source} to {target}",
    ),
)
async def create(
    uow: UnitOfWork, source: str, target: str, lines: list[TransferUnits], note: str = ""
) -> TransferView:
    """Plan a transfer between two locations. Nothing moves before `ship`.

    Args:
        source: Code of the location the units leave.
        target: Code of the location they go to.
        lines: What and how many, each SKU once.
        note: For the people who pack and unpack.

    Raises:
        NotFound: No such location or SKU.
        InvalidInput: Both locations are the same, or the lines are none, too many or repeated.
        Conflict: A line is a bundle: send its parts.
    """
    await idempotency.settle(uow)
    if source == target:
        raise InvalidInput("source and target must differ.", field="target")
    note = remark.optional(note, "note")
    refuse_repeated([line.sku for line in lines])
    for line in lines:
        await inventory.variant(uow, line.sku)
        await refuse_bundle(uow, line.sku)
    planned = StockTransfer(
        source_id=(await by_code(uow, source, "source")).id,
        target_id=(await by_code(uow, target, "target")).id,
        note=note,
        created_by=uow.actor.user_id,
        created_at=uow.now,
    )
    uow.session.add(planned)
    await uow.session.flush()
    uow.session.add_all(
        StockTransferLine(transfer_id=planned.id, sku=line.sku, quantity=line.quantity)
        for line in lines
    )
    await uow.session.flush()
    return await get(uow, planned.id)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="transfer.cancel",
    restore=transfer_step.draft,
    examples=(
        "ship the transfer {transfer_id}",
        "the transfer {transfer_id} has left",
        "send off transfer {transfer_id}",
        "mark transfer {transfer_id} as in transit",
    ),
)
async def ship(uow: UnitOfWork, transfer_id: UUID) -> TransferView:
    """Let a transfer's units leave: off the source's shelf, incoming at the target.

    Repeating it changes nothing.

    Args:
        transfer_id: From `transfer.create` or the list.

    Raises:
        NotFound: No such transfer.
        IllegalTransition: It was cancelled.
        Conflict: The source has too few units that are not promised; nothing moved.
    """
    found, lines = await locked(uow, transfer_id)
    if found.status in (TransferStatus.IN_TRANSIT, TransferStatus.RECEIVED):
        return await get(uow, transfer_id)
    if found.status is not TransferStatus.DRAFT:
        raise IllegalTransition("transfer", found.status, TransferStatus.IN_TRANSIT)
    become(found, TransferStatus.IN_TRANSIT)
    sent = {line.sku: line.quantity for line in lines}
    await refuse_short(uow, found.source_id, sent)
    await append(uow, leaving(found, sent), found.id)
    found.shipped_at = uow.now
    view = await get(uow, transfer_id)
    uow.publish(
        TransferShipped(
            transfer_id=found.id,
            source=view.source,
            target=view.target,
            units=sent,
        )
    )
    return view


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="transfer.take_back",
    restore=transfer_step.arriving,
    examples=(
        "transfer {transfer_id} arrived with {received} of {sku}",
        "receive the transfer {transfer_id}",
        "{received} of {sku} from transfer {transfer_id} arrived, {lost} were broken",
        "book in transfer {transfer_id}",
    ),
)
async def receive(
    uow: UnitOfWork, transfer_id: UUID, lines: list[ReceivedUnits] | None = None
) -> TransferView:
    """Take in what arrived of a transfer, and write off what did not. It ends with the last unit.

    Orders that wait for the units get theirs first.

    Args:
        transfer_id: From `transfer.create` or the list.
        lines: What arrived and what is lost, each SKU once; everything outstanding when absent.

    Raises:
        NotFound: No such transfer, or a SKU that is not of it.
        IllegalTransition: It is not in transit.
        InvalidInput: More than is outstanding, nothing at all, or a loss without a reason.
    """
    await idempotency.settle(uow)
    found, sent = await locked(uow, transfer_id)
    if found.status is not TransferStatus.IN_TRANSIT:
        raise IllegalTransition("transfer", found.status, TransferStatus.RECEIVED)
    arrived = arrivals(sent, lines)
    moves = []
    for line, units in arrived:
        if units.received:
            moves.append(
                Move(
                    line.sku,
                    found.target_id,
                    MovementKind.TRANSFER_IN,
                    on_hand=units.received,
                    incoming=-units.received,
                )
            )
        if units.lost:
            moves.append(
                Move(
                    line.sku,
                    found.target_id,
                    MovementKind.TRANSFER_LOSS,
                    incoming=-units.lost,
                    reason=units.reason.strip(),
                )
            )
            line.loss_reason = units.reason.strip()
        line.received += units.received
        line.lost += units.lost
    await append(uow, moves, found.id)
    is_complete = not any(outstanding(line) for line in sent)
    if is_complete:
        become(found, TransferStatus.RECEIVED)
        found.finished_at = uow.now
    await inventory.fill(uow, [line.sku for line, _ in arrived])
    view = await get(uow, transfer_id)
    uow.publish(
        TransferReceived(
            transfer_id=found.id,
            target=view.target,
            received={line.sku: units.received for line, units in arrived if units.received},
            lost={line.sku: units.lost for line, units in arrived if units.lost},
            is_complete=is_complete,
        )
    )
    return view


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="transfer.reopen",
    restore=transfer_step.under_way,
    examples=(
        "cancel the transfer {transfer_id} because {reason}",
        "call transfer {transfer_id} back",
        "stop transfer {transfer_id}",
        "the transfer {transfer_id} will not happen: {reason}",
    ),
)
async def cancel(uow: UnitOfWork, transfer_id: UUID, reason: str) -> TransferView:
    """Cancel a transfer: a draft never happened; of one in transit the rest goes back.

    What was received before stays received. Repeating it changes nothing.

    Args:
        transfer_id: From `transfer.create` or the list.
        reason: Why, for the ledger.

    Raises:
        NotFound: No such transfer.
        IllegalTransition: Everything has arrived.
        InvalidInput: `reason` is empty or too long.
    """
    reason = remark.needed(reason)
    found, lines = await locked(uow, transfer_id)
    if found.status is TransferStatus.CANCELLED:
        return await get(uow, transfer_id)
    was_sent = found.status is TransferStatus.IN_TRANSIT
    become(found, TransferStatus.CANCELLED)
    returned: dict[str, int] = {}
    if was_sent:
        returned = {line.sku: outstanding(line) for line in lines if outstanding(line)}
        moves = []
        for sku, units in returned.items():
            kind = MovementKind.TRANSFER_BACK
            moves.append(Move(sku, found.source_id, kind, on_hand=units, reason=reason))
            moves.append(Move(sku, found.target_id, kind, incoming=-units, reason=reason))
        for line in lines:
            line.returned = returned.get(line.sku, 0)
        await append(uow, moves, found.id)
        await inventory.fill(uow, list(returned))
    found.finished_at = uow.now
    uow.publish(TransferCancelled(transfer_id=found.id, reason=reason, returned=returned))
    return await get(uow, transfer_id)


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the transfer {transfer_id}",
        "where is transfer {transfer_id}",
        "what is in transfer {transfer_id}",
        "details of the stock transfer {transfer_id}",
    ),
)
async def get(uow: UnitOfWork, transfer_id: UUID) -> TransferView:
    """Show a transfer with what was sent, received, lost and is outstanding.

    Args:
        transfer_id: From `transfer.create` or the list.

    Raises:
        NotFound: No such transfer.
    """
    await uow.session.flush()
    found = (await uow.session.exec(_named().where(StockTransfer.id == transfer_id))).first()
    if found is None:
        raise NotFound("There is no such transfer.", field="transfer_id")
    shown = _summary(found)
    rows = await uow.session.exec(
        select(StockTransferLine)
        .where(StockTransferLine.transfer_id == transfer_id)
        .order_by(col(StockTransferLine.sku))
    )
    is_under_way = shown.status in (TransferStatus.DRAFT, TransferStatus.IN_TRANSIT)
    lines = [
        TransferLineView(**line.model_dump(), outstanding=outstanding(line) if is_under_way else 0)
        for line in rows
    ]
    return TransferView(**shown.model_dump(), lines=lines)


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "list the stock transfers",
        "which transfers are in transit",
        "show {status} transfers",
        "what is on its way to {target}",
    ),
)
async def show(
    uow: UnitOfWork,
    status: TransferStatus | None = None,
    source: str | None = None,
    target: str | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[TransferSummary]:
    """List transfers.

    Args:
        status: Only in this state: draft, in_transit, received or cancelled.
        source: Only from this location.
        target: Only to this location.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such location.
    """
    query = _named()
    if status is not None:
        query = query.where(StockTransfer.status == status)
    if source is not None:
        query = query.where(StockTransfer.source_id == (await by_code(uow, source, "source")).id)
    if target is not None:
        query = query.where(StockTransfer.target_id == (await by_code(uow, target, "target")).id)
    return await read_page(uow, query, by_id(StockTransfer.id, sort), _summary, limit, cursor)


def _named() -> Any:
    """Select transfers with the codes of their two locations."""
    source, target = aliased(Location), aliased(Location)
    return (
        select(StockTransfer, source.code, target.code)
        .join(source, col(StockTransfer.source_id) == source.id)
        .join(target, col(StockTransfer.target_id) == target.id)
    )


def _summary(row: Any) -> TransferSummary:
    found, source, target = row
    return TransferSummary(**found.model_dump(), source=source, target=target)
