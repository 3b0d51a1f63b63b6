"""What agents did: undo it, and trace money back to the words that asked for it."""

from uuid import UUID

from fastapi import APIRouter

from api.deps import DepsDep, UowDep, needs
from api.problems import problems
from tools import provenance, undo
from tools.action import ActionView, waiting
from tools.errors import Forbidden, InvalidInput, NotFound
from tools.provenance import Provenance
from tools.undo import UndoReport

router = APIRouter(tags=["agent runs"])


@router.get("/actions")
async def list_waiting(uow: UowDep) -> list[ActionView]:
    """List the actions that wait for the caller: their own, and colleagues' that need another."""
    return await waiting(uow)


@router.get("/agent-runs/{run_id}/undo", responses=problems(NotFound))
async def preview_undo(run_id: UUID, uow: UowDep) -> UndoReport:
    """Say what undoing a run of the caller's would do."""
    return await undo.preview_undo(uow, run_id)


@router.post("/agent-runs/{run_id}/undo", responses=problems(NotFound))
async def undo_run(run_id: UUID, deps: DepsDep) -> UndoReport:
    """Undo a run of the caller's, last call first; what cannot be undone is named with why."""
    return await undo.undo(deps, run_id)


@router.get(
    "/provenance",
    responses=problems(NotFound, InvalidInput, Forbidden),
    dependencies=[needs("event:read")],
)
async def trace(
    uow: UowDep,
    number: int | None = None,
    refund_id: UUID | None = None,
    action_id: UUID | None = None,
) -> Provenance:
    """Trace an order's money, a refund or an approved action back to who asked for it, and how."""
    return await provenance.provenance(uow, number, refund_id, action_id)
