"""Undo what an agent did for one message: each call's inverse, last call first, with proof.

A call is undone when its operation says how (`inverse` and `restore`), when what it left is still
there, and once. What cannot be undone stays, and the report says why.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlmodel import col, select

from db.models.agent import AgentCall, AgentRun, CallOutcome
from deps.core import Deps, UnitOfWork
from tools import agent_run
from tools import arguments as argument_json
from tools.errors import DomainError, NotFound
from tools.registry import OPERATIONS, Operation, Risk, operation

RUNS_LOOKED_BACK = 20
_FINAL = {
    Risk.RECORD: "It wrote down what others know; there is nothing to take back.",
    Risk.IRREVERSIBLE: "This is final: nothing takes it back.",
}


class UndoStep(BaseModel):
    """One call. `proof` is the sha256 of what its inverse returned."""

    operation: str
    arguments: dict[str, Any]
    is_undone: bool = False
    inverse: str | None = None
    inverse_arguments: dict[str, Any] | None = None
    proof: str | None = None
    why_not: str = Field(default="", description="Empty when it is, or can be, undone.")


class UndoReport(BaseModel):
    """Calls of a run, last first; calls that only read are left out."""

    run_id: UUID
    words: str = Field(description="What the person had asked for.")
    steps: list[UndoStep]


async def access(uow: UnitOfWork, run_id: UUID | None) -> AgentRun:
    """Load a run of the actor's own; without an id, the latest that changed something.

    Raises:
        NotFound: No such run, or someone else's.
    """
    if uow.actor.key is None:
        raise NotFound("There is nothing to undo.")
    query = select(AgentRun).where(AgentRun.actor_id == uow.actor.key)
    if run_id is not None:
        query = query.where(AgentRun.id == run_id)
    query = query.order_by(col(AgentRun.id).desc()).limit(RUNS_LOOKED_BACK)
    for run in await uow.session.exec(query):
        if run_id is not None or await _changes(uow, run.id, only_done=True):
            return run
    raise NotFound("There is nothing to undo.")


async def _changes(
    uow: UnitOfWork, run_id: UUID, *, only_done: bool = False
) -> Sequence[AgentCall]:
    """Return the run's calls that changed something, last first."""
    rows = await uow.session.exec(
        select(AgentCall).where(AgentCall.run_id == run_id).order_by(col(AgentCall.id).desc())
    )
    outcomes = (CallOutcome.DONE,) if only_done else (CallOutcome.DONE, CallOutcome.UNDONE)
    return [
        row
        for row in rows
        if row.outcome in outcomes
        and (known := OPERATIONS.get(row.operation)) is not None
        and known.risk is not Risk.READ
    ]


def _step(call: AgentCall) -> UndoStep:
    known = OPERATIONS[call.operation]
    step = UndoStep(
        operation=call.operation,
        arguments=call.arguments,
        inverse=known.inverse,
        inverse_arguments=call.inverse_arguments,
    )
    if call.outcome is CallOutcome.UNDONE:
        step.why_not = "It has been undone."
    elif known.inverse is None:
        step.why_not = why_final(known)
    elif call.inverse_arguments is None:
        changed_nothing = call.state_sha256 == agent_run.NOTHING
        unknown = "What was there before is not known."
        step.why_not = "It had changed nothing." if changed_nothing else unknown
    return step


def why_final(known: Operation) -> str:
    """Say why an operation without an inverse has none."""
    return _FINAL.get(known.risk, "Nothing undoes this.")


async def preview_undo(uow: UnitOfWork, run_id: UUID | None = None) -> UndoReport:
    """Say what undoing would do, without doing it.

    Raises:
        NotFound: No such run, or someone else's.
    """
    run = await access(uow, run_id)
    steps = [_step(call) for call in await _changes(uow, run.id)]
    return UndoReport(run_id=run.id, words=run.words, steps=steps)


@operation(
    scope="profile:read",
    risk=Risk.BULK,
    idempotent=True,
    domain="user",
    preview=preview_undo,
    examples=(
        "undo that",
        "undo what you just did",
        "take back your last change",
        "revert your last action",
    ),
)
async def undo(deps: Deps, run_id: UUID | None = None) -> UndoReport:
    """Take back what was done for the person's last message, as far as it can be.

    Repeating it changes nothing more.

    Args:
        run_id: Leave out: the latest that changed something, bound when it is proposed.

    Raises:
        NotFound: There is nothing to undo.
    """
    # The record is not the agent's to write; each inverse runs in the agents' role by itself.
    plain = replace(deps, as_agent=False)
    async with plain.begin() as uow:
        run = await access(uow, run_id)
        calls = await _changes(uow, run.id)
    steps = [await _undo_one(plain, call.id, _step(call)) for call in calls]
    return UndoReport(run_id=run.id, words=run.words, steps=steps)


async def _undo_one(deps: Deps, call_id: UUID, step: UndoStep) -> UndoStep:
    if step.why_not or step.inverse is None or step.inverse_arguments is None:
        return step
    known, inverse = OPERATIONS[step.operation], OPERATIONS[step.inverse]
    try:
        given = argument_json.parse(inverse, step.inverse_arguments)
        async with deps.begin() as uow:
            call = await _locked(uow, call_id)
            if call.outcome is not CallOutcome.DONE:
                return step.model_copy(update={"why_not": "It has been undone."})
            if await _has_changed(uow, known, call):
                return step.model_copy(update={"why_not": "It was changed since."})
            if not inverse.is_process:
                result, _ = await agent_run.run_confined(uow, inverse, given)
                call.outcome, call.finished_at = CallOutcome.UNDONE, uow.now
        if inverse.is_process:  # Idempotent by rule: two at once do it once.
            result, _ = await agent_run.run_process(deps, inverse, given)
            async with deps.begin() as uow:
                call = await _locked(uow, call_id)
                call.outcome, call.finished_at = CallOutcome.UNDONE, uow.now
    except DomainError as error:
        return step.model_copy(update={"why_not": str(error)})
    return step.model_copy(update={"is_undone": True, "proof": agent_run.sha256(result)})


async def _locked(uow: UnitOfWork, call_id: UUID) -> AgentCall:
    return await uow.session.get_one(
        AgentCall, call_id, with_for_update=True, populate_existing=True
    )


async def _has_changed(uow: UnitOfWork, known: Operation, call: AgentCall) -> bool:
    """Whether what the call left is no longer there: then undoing would undo someone else's."""
    arguments = argument_json.parse(known, call.arguments)
    now = await agent_run.restoring(uow, known, arguments)
    return agent_run.sha256(now) != call.state_sha256
