"""What every step of a transfer rests on: its lock, its states, what is outstanding, and what would
take the step back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from pydantic import Field
from sqlmodel import col, select

from db.models.inventory import Location, MovementKind
from db.models.transfer import (
    TRANSFER_TRANSITIONS,
    StockTransfer,
    StockTransferLine,
    TransferStatus,
)
from deps.core import UnitOfWork
from deps.given import Given
from tools import inventory
from tools.errors import Conflict, IllegalTransition, InvalidInput, NotFound
from tools.registry import FromResult
from tools.stock_ledger import Move

LINES_MAX: Final = 200
QUANTITY_MAX: Final = 1_000_000
UNDER_WAY: Final = (TransferStatus.DRAFT, TransferStatus.IN_TRANSIT)


class ReceivedUnits(Given):
    sku: str = Field(min_length=1, max_length=64)
    received: int = Field(default=0, ge=0, le=QUANTITY_MAX)
    lost: int = Field(default=0, ge=0, le=QUANTITY_MAX)
    reason: str = Field(default="", max_length=500, description="Why units are lost.")


async def locked(
    uow: UnitOfWork, transfer_id: UUID
) -> tuple[StockTransfer, list[StockTransferLine]]:
    """Lock the transfer first, then its SKUs: the one order everybody here uses."""
    found = await uow.session.get(
        StockTransfer, transfer_id, with_for_update=True, populate_existing=True
    )
    if found is None:
        raise NotFound("There is no such transfer.", field="transfer_id")
    return found, await _lines(uow, transfer_id)


def become(found: StockTransfer, status: TransferStatus) -> None:
    if status not in TRANSFER_TRANSITIONS[found.status]:
        raise IllegalTransition("transfer", found.status, status)
    found.status = status


async def refuse_short(uow: UnitOfWork, location_id: UUID, units: Mapping[str, int]) -> None:
    """Lock the SKUs and look whether a location can spare `units`, by SKU.

    Raises:
        Conflict: It has too few that are not promised; `extra` says of what, and how many.
    """
    spare = await inventory.spare(uow, location_id, list(units))
    for sku, quantity in units.items():
        if spare.get(sku, 0) < quantity:
            place = await uow.session.get_one(Location, location_id)
            raise Conflict(
                f"Only {spare.get(sku, 0)} units of {sku} are free at {place.code}.",
                sku=sku,
                available=spare.get(sku, 0),
            )


def leaving(found: StockTransfer, units: Mapping[str, int]) -> list[Move]:
    """Return what takes `units` by SKU off the source's shelf and announces them at the target."""
    moves = []
    for sku, n in units.items():
        moves.append(Move(sku, found.source_id, MovementKind.TRANSFER_OUT, on_hand=-n))
        moves.append(Move(sku, found.target_id, MovementKind.TRANSFER_IN, incoming=n))
    return moves


def paired(
    sent: Sequence[StockTransferLine], lines: Sequence[ReceivedUnits]
) -> Iterator[tuple[StockTransferLine, ReceivedUnits]]:
    """Pair what is said of a transfer with its lines.

    Raises:
        InvalidInput: No lines, too many, or a SKU twice.
        NotFound: A SKU that is not of the transfer.
    """
    refuse_repeated([line.sku for line in lines])
    by_sku = {line.sku: line for line in sent}
    for units in lines:
        if units.sku not in by_sku:
            raise NotFound(f"{units.sku} is not part of the transfer.", field="lines")
        yield by_sku[units.sku], units


def arrivals(
    sent: Sequence[StockTransferLine], lines: Sequence[ReceivedUnits] | None
) -> list[tuple[StockTransferLine, ReceivedUnits]]:
    """Pair what arrived with what was sent; refuse what cannot have."""
    pairs = []
    for line, units in paired(sent, due(sent) if lines is None else lines):
        if not 0 < units.received + units.lost <= outstanding(line):
            raise InvalidInput(
                f"{outstanding(line)} units of {units.sku} are outstanding.", field="lines"
            )
        if units.lost and not units.reason.strip():
            raise InvalidInput("Say why units are lost.", field="lines")
        pairs.append((line, units))
    return pairs


def outstanding(line: StockTransferLine) -> int:
    return line.quantity - line.received - line.lost - line.returned


def refuse_repeated(skus: Sequence[str]) -> None:
    if not 1 <= len(skus) <= LINES_MAX:
        raise InvalidInput(f"Give 1 to {LINES_MAX} lines.", field="lines")
    if len(set(skus)) < len(skus):
        raise InvalidInput("Each SKU may be given once.", field="lines")


async def planned(uow: UnitOfWork, **_: Any) -> dict[str, Any]:
    """Return what cancels the transfer that is planned."""
    return {"transfer_id": FromResult("id"), "reason": "It was planned by mistake."}


async def draft(uow: UnitOfWork, transfer_id: UUID) -> dict[str, Any] | None:
    """Return what calls a transfer back once it is sent, if it is not yet."""
    status = await _status(uow, transfer_id)
    if status is not TransferStatus.DRAFT:
        return None
    return {"transfer_id": transfer_id, "reason": "It was sent by mistake."}


async def under_way(uow: UnitOfWork, transfer_id: UUID, reason: str) -> dict[str, Any] | None:
    """Return what reopens a transfer once it is cancelled, if it is not yet."""
    is_live = await _status(uow, transfer_id) in UNDER_WAY
    return {"transfer_id": transfer_id} if is_live else None


async def called_off(uow: UnitOfWork, transfer_id: UUID) -> dict[str, Any] | None:
    """Return what cancels a transfer again once it is reopened, if it is cancelled."""
    if await _status(uow, transfer_id) is not TransferStatus.CANCELLED:
        return None
    return {"transfer_id": transfer_id, "reason": "It was reopened by mistake."}


async def arriving(
    uow: UnitOfWork, transfer_id: UUID, lines: list[ReceivedUnits] | None = None
) -> dict[str, Any] | None:
    """Return what takes back the arrival of `lines`, or of all that is outstanding."""
    sent = await _lines(uow, transfer_id)
    return _units(transfer_id, sent, due(sent) if lines is None else lines)


async def arrived(
    uow: UnitOfWork, transfer_id: UUID, lines: list[ReceivedUnits] | None = None
) -> dict[str, Any] | None:
    """Return what books in again what `lines` take back, or all that has arrived."""
    sent = await _lines(uow, transfer_id)
    return _units(transfer_id, sent, there(sent) if lines is None else lines)


def due(sent: Sequence[StockTransferLine]) -> list[ReceivedUnits]:
    """Return what is outstanding, as if all of it arrived."""
    return [
        ReceivedUnits(sku=line.sku, received=outstanding(line))
        for line in sent
        if outstanding(line)
    ]


def there(sent: Sequence[StockTransferLine]) -> list[ReceivedUnits]:
    """Return what has arrived or is lost."""
    return [
        ReceivedUnits(sku=line.sku, received=line.received, lost=line.lost)
        for line in sent
        if line.received or line.lost
    ]


def _units(
    transfer_id: UUID, sent: Sequence[StockTransferLine], lines: Sequence[ReceivedUnits]
) -> dict[str, Any] | None:
    reasons = {line.sku: line.loss_reason for line in sent}
    told = [line.model_copy(update={"reason": reasons.get(line.sku, "")}) for line in lines]
    return {"transfer_id": transfer_id, "lines": told} if told else None


async def _status(uow: UnitOfWork, transfer_id: UUID) -> TransferStatus | None:
    found = await uow.session.get(StockTransfer, transfer_id, populate_existing=True)
    return found.status if found is not None else None


async def _lines(uow: UnitOfWork, transfer_id: UUID) -> list[StockTransferLine]:
    lines = await uow.session.exec(
        select(StockTransferLine)
        .where(StockTransferLine.transfer_id == transfer_id)
        .order_by(col(StockTransferLine.sku))
        .execution_options(populate_existing=True)
    )
    return list(lines)
