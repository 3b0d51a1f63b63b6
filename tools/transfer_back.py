"""Transfers, a step back: an arrival that was none, and a cancellation that was a mistake."""

from uuid import UUID

from db.models.inventory import MovementKind
from db.models.transfer import StockTransferLine, TransferStatus
from deps.core import UnitOfWork
from tools import idempotency, inventory, transfer, transfer_step
from tools.errors import IllegalTransition, InvalidInput
from tools.registry import Risk, operation
from tools.reversal import TransferArrivalTakenBack, TransferReopened
from tools.stock_ledger import Move, append
from tools.transfer import TransferView
from tools.transfer_step import ReceivedUnits


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="transfer.receive",
    restore=transfer_step.arrived,
    domain="transfer",
    examples=(
        "transfer {transfer_id} has not arrived after all",
        "take back the arrival of transfer {transfer_id}",
        "transfer {transfer_id} was booked in by mistake",
        "undo the receipt of transfer {transfer_id}",
    ),
)
async def take_back(
    uow: UnitOfWork, transfer_id: UUID, lines: list[ReceivedUnits] | None = None
) -> TransferView:
    """Take back that units of a transfer arrived or were lost: they are in transit again.

    Args:
        transfer_id: From `transfer.create` or the list.
        lines: What did not arrive, or is not lost, each SKU once; everything when absent. A
            `reason` is that of the units that stay lost.

    Raises:
        NotFound: No such transfer, or a SKU that is not of it.
        IllegalTransition: It never left, or was cancelled.
        InvalidInput: More than was booked in or written off, or nothing at all.
        Conflict: Units that arrived have left again or are promised; nothing changed.
    """
    await idempotency.settle(uow)
    found, sent = await transfer_step.locked(uow, transfer_id)
    if found.status not in (TransferStatus.IN_TRANSIT, TransferStatus.RECEIVED):
        raise IllegalTransition("transfer", found.status, TransferStatus.IN_TRANSIT)
    wrong = _wrong(sent, transfer_step.there(sent) if lines is None else lines)
    target, reason = found.target_id, "The arrival was taken back."
    received = {line.sku: units.received for line, units in wrong if units.received}
    lost = {line.sku: units.lost for line, units in wrong if units.lost}
    await inventory.lock(uow, [line.sku for line, _ in wrong])
    await transfer_step.refuse_short(uow, target, received)
    moves = [
        Move(sku, target, MovementKind.TRANSFER_IN, on_hand=-n, incoming=n, reason=reason)
        for sku, n in received.items()
    ]
    moves += [
        Move(sku, target, MovementKind.TRANSFER_LOSS, incoming=n, reason=reason)
        for sku, n in lost.items()
    ]
    await append(uow, moves, found.id)
    for line, units in wrong:
        line.received -= units.received
        line.lost -= units.lost
        line.loss_reason = (units.reason.strip() or line.loss_reason) if line.lost else ""
    if found.status is TransferStatus.RECEIVED:
        transfer_step.become(found, TransferStatus.IN_TRANSIT)
        found.finished_at = None
    view = await transfer.get(uow, transfer_id)
    uow.publish(
        TransferArrivalTakenBack(
            transfer_id=found.id, target=view.target, received=received, lost=lost
        )
    )
    return view


def _wrong(
    sent: list[StockTransferLine], lines: list[ReceivedUnits]
) -> list[tuple[StockTransferLine, ReceivedUnits]]:
    """Pair what did not happen with what is written down; refuse what is not."""
    if not lines:
        raise InvalidInput("Nothing has arrived yet.", field="lines")
    pairs = []
    for line, units in transfer_step.paired(sent, lines):
        is_within = units.received <= line.received and units.lost <= line.lost
        if not is_within or not units.received + units.lost:
            raise InvalidInput(
                f"{line.received} units of {units.sku} were booked in, {line.lost} written off.",
                field="lines",
            )
        pairs.append((line, units))
    return pairs


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="transfer.cancel",
    restore=transfer_step.called_off,
    domain="transfer",
    examples=(
        "reopen the transfer {transfer_id}",
        "the cancelled transfer {transfer_id} happens after all",
        "transfer {transfer_id} was cancelled by mistake, go on with it",
        "take back the cancellation of transfer {transfer_id}",
    ),
)
async def reopen(uow: UnitOfWork, transfer_id: UUID) -> TransferView:
    """Go on with a cancelled transfer: a draft is one again, and what had gone back leaves again.

    Repeating it changes nothing.

    Args:
        transfer_id: From `transfer.create` or the list.

    Raises:
        NotFound: No such transfer.
        IllegalTransition: Everything has arrived.
        Conflict: The source has too few units that are not promised; nothing moved.
    """
    found, lines = await transfer_step.locked(uow, transfer_id)
    if found.status in transfer_step.UNDER_WAY:
        return await transfer.get(uow, transfer_id)
    if found.status is TransferStatus.RECEIVED:
        raise IllegalTransition("transfer", found.status, TransferStatus.IN_TRANSIT)
    was_sent = found.shipped_at is not None
    transfer_step.become(found, TransferStatus.IN_TRANSIT if was_sent else TransferStatus.DRAFT)
    sent = {line.sku: line.returned for line in lines if line.returned}
    await transfer_step.refuse_short(uow, found.source_id, sent)
    await append(uow, transfer_step.leaving(found, sent), found.id)
    for line in lines:
        line.returned = 0
    found.finished_at = None
    uow.publish(TransferReopened(transfer_id=found.id, sent=sent))
    return await transfer.get(uow, transfer_id)
