"""REST: disputes (staff)."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.dispute import DisputeState
from deps.given import Given
from tools import dispute
from tools.dispute import DisputeView
from tools.errors import Conflict, Forbidden, NotFound, Unauthenticated
from tools.page import ByTime, Page

router = APIRouter(prefix="/disputes", tags=["disputes"])
readers = [needs("payment:read")]


class EvidenceInput(Given):
    evidence: dict[str, str] = Field(
        min_length=1,
        max_length=20,
        examples=[{"carrier": "DHL", "tracking_number": "00340434161094000000"}],
    )


@router.get("", dependencies=readers, responses=problems(Unauthenticated, Forbidden, NotFound))
async def list_disputes(
    uow: UowDep,
    state: DisputeState | None = None,
    number: Annotated[int | None, Query(ge=1, lt=2**63, description="An order's.")] = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[DisputeView]:
    """List disputes."""
    return await dispute.list_disputes(uow, state, number, sort, limit, cursor)


@router.get(
    "/{dispute_id}", dependencies=readers, responses=problems(Unauthenticated, Forbidden, NotFound)
)
async def read_dispute(dispute_id: UUID, uow: UowDep) -> DisputeView:
    """Show a dispute with its evidence and its deadline."""
    return await dispute.get(uow, dispute_id)


@router.post(
    "/{dispute_id}/evidence",
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def submit_evidence(dispute_id: UUID, body: EvidenceInput, deps: DepsDep) -> DisputeView:
    """Send evidence to the provider, once and for all. Needs an `Idempotency-Key`."""
    return await dispute.submit_evidence(deps, dispute_id, body.evidence)
