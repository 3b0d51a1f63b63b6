"""REST: transfers of stock between locations (staff)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from api.deps import UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.transfer import TransferStatus
from deps.given import Given
from tools import transfer, transfer_back
from tools.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from tools.page import ByTime, Page
from tools.transfer import TransferSummary, TransferUnits, TransferView
from tools.transfer_step import LINES_MAX, ReceivedUnits

router = APIRouter(
    prefix="/inventory/transfers", tags=["stock"], dependencies=[needs("stock:write")]
)
Code = Annotated[str, Field(min_length=1, max_length=32, examples=["HAM"])]
Place = Annotated[str | None, Query(max_length=32, examples=["HAM"])]


class Plan(Given):
    source: Code
    target: Code
    lines: list[TransferUnits] = Field(min_length=1, max_length=LINES_MAX)
    note: str = Field(default="", max_length=500)


class Arrival(Given):
    lines: list[ReceivedUnits] | None = Field(
        default=None, max_length=LINES_MAX, description="Everything outstanding when absent."
    )


class Cancellation(Given):
    reason: str = Field(min_length=1, max_length=500, examples=["the lorry broke down"])


@router.post(
    "",
    status_code=201,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def create_transfer(body: Plan, uow: UowDep) -> TransferView:
    """Plan a transfer; nothing moves yet."""
    return await transfer.create(uow, body.source, body.target, body.lines, body.note)


@router.get("", responses=problems(Unauthenticated, Forbidden, NotFound, InvalidInput))
async def list_transfers(
    uow: UowDep,
    status: TransferStatus | None = None,
    source: Place = None,
    target: Place = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[TransferSummary]:
    """List transfers."""
    return await transfer.show(uow, status, source, target, sort, limit, cursor)


@router.get("/{transfer_id}", responses=problems(Unauthenticated, Forbidden, NotFound))
async def read_transfer(transfer_id: UUID, uow: UowDep) -> TransferView:
    """Show what was sent, received, lost and is outstanding."""
    return await transfer.get(uow, transfer_id)


@router.post(
    "/{transfer_id}/ship", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def ship_transfer(transfer_id: UUID, uow: UowDep) -> TransferView:
    """Let the units leave: off the source's shelf, incoming at the target."""
    return await transfer.ship(uow, transfer_id)


@router.post(
    "/{transfer_id}/receive",
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def receive_transfer(transfer_id: UUID, body: Arrival, uow: UowDep) -> TransferView:
    """Take in what arrived and write off what is lost. Needs an `Idempotency-Key`."""
    return await transfer.receive(uow, transfer_id, body.lines)


@router.post(
    "/{transfer_id}/cancel", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def cancel_transfer(transfer_id: UUID, body: Cancellation, uow: UowDep) -> TransferView:
    """Cancel: units still in transit go back to the source."""
    return await transfer.cancel(uow, transfer_id, body.reason)


@router.post(
    "/{transfer_id}/take-back",
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, InvalidInput),
)
async def take_back_arrival(transfer_id: UUID, body: Arrival, uow: UowDep) -> TransferView:
    """Take back an arrival that was none. Needs an `Idempotency-Key`."""
    return await transfer_back.take_back(uow, transfer_id, body.lines)


@router.post(
    "/{transfer_id}/reopen", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def reopen_transfer(transfer_id: UUID, uow: UowDep) -> TransferView:
    """Go on with a cancelled transfer; what had gone back to the source leaves again."""
    return await transfer_back.reopen(uow, transfer_id)
