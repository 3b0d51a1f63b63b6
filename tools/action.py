"""Risky operations that wait for a person: proposed by an agent, approved once or not at all.

Approving is not authorisation: the operation runs as the approver and checks scope and ownership
again. The row binds the operation, its arguments and the actor; changing any of them voids it.
"""

import hashlib
import inspect
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import orjson
from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python
from sqlmodel import col, select, update

from db.models.conversation import ActionStatus, PendingAction
from db.types import ActionId, ConversationId
from deps.core import Actor, Deps, UnitOfWork
from tools import arguments as argument_json
from tools.errors import Conflict, DomainError, Forbidden, InvalidInput, NotFound
from tools.registry import OPERATIONS, Operation

ACTION_TTL = timedelta(minutes=15)
# Longer than any operation runs: only then may someone else take over an unfinished one.
EXECUTION_LEASE = timedelta(seconds=120)
_GUESTS = UUID("6d1f9c1e-54c6-4a3e-9f55-0a8b3f6f2f10")


class ActionView(BaseModel):
    """A proposed action as its owner sees it."""

    id: UUID
    conversation_id: UUID | None
    operation: str
    summary: str = Field(description="What approving does, in one sentence.")
    arguments: dict[str, Any]
    preview: dict[str, Any] = Field(description="Outcome of the dry run, if there is one.")
    status: ActionStatus
    result: dict[str, Any] | None
    expires_at: datetime


def owner_id(actor: Actor) -> UUID:
    """Return the id actions are bound to: the user, or one derived from the guest's secret.

    Raises:
        InvalidInput: A guest without a token is asking; nobody could approve later.
    """
    if actor.user_id is not None:
        return actor.user_id
    if actor.guest_secret_sha256 is None:
        raise InvalidInput("Send a guest token, or sign in.", field="X-Guest-Token")
    return uuid5(_GUESTS, actor.guest_secret_sha256)


def digest(operation: str, actor_id: UUID, arguments: Mapping[str, Any]) -> str:
    """Return the sha256 of the canonical JSON of what is to be approved."""
    bound = {"operation": operation, "actor_id": str(actor_id), "arguments": dict(arguments)}
    return hashlib.sha256(orjson.dumps(bound, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def propose(
    deps: Deps,
    operation: Operation,
    arguments: Mapping[str, Any],
    conversation_id: UUID | None = None,
) -> ActionView:
    """Store an action that waits for its owner. Nothing else changes: the preview is a dry run.

    Args:
        deps: The actor becomes the owner: only they can approve.
        operation: What to run once approved.
        arguments: As JSON values or Python values; checked against the operation's signature.
        conversation_id: Where the question was asked.

    Raises:
        Forbidden: The actor could not run the operation at all.
        InvalidInput: The arguments do not fit.
        DomainError: Whatever the dry run already knows to fail.
    """
    if not deps.actor.may(operation.scope):
        raise Forbidden(f"This needs the permission {operation.scope}.", scope=operation.scope)
    actor_id = owner_id(deps.actor)
    parsed = argument_json.parse(operation, arguments)
    preview = await _dry_run(deps, operation, parsed)
    stored = argument_json.dump(parsed)
    # What the person sees is what they approve: parameters left open take the preview's value,
    # so a purchase is bound to its cart and total, and an approval repeated after a crash finds
    # the same cart.
    stored |= {
        name: preview[name] for name, value in stored.items() if value is None and name in preview
    }
    now = deps.clock()
    row = PendingAction(
        conversation_id=ConversationId(conversation_id) if conversation_id else None,
        actor_id=actor_id,
        actor_role=deps.actor.label,
        operation=operation.key,
        arguments=stored,
        arguments_sha256=digest(operation.key, actor_id, stored),
        preview=preview,
        expires_at=now + ACTION_TTL,
        created_at=now,
    )
    async with deps.begin() as uow:
        uow.session.add(row)
    return _view(row)


async def _dry_run(deps: Deps, operation: Operation, parsed: dict[str, Any]) -> dict[str, Any]:
    if operation.preview is None:
        return {}
    first = next(iter(inspect.signature(operation.preview).parameters.values()))
    if first.annotation is Deps:
        outcome = await operation.preview(deps, **parsed)
    else:
        async with deps.begin() as uow:
            outcome = await operation.preview(uow, **parsed)
    dumped = to_jsonable_python(outcome)
    return dumped if isinstance(dumped, dict) else {"outcome": dumped}


def summarize(
    operation: Operation, arguments: Mapping[str, Any], preview: Mapping[str, Any]
) -> str:
    """Say what an action does: the operation's own first line and the arguments given."""
    bound = {n for n, p in operation.parameters.items() if p.default is None and n in preview}
    line = (inspect.getdoc(operation.run) or operation.key).splitlines()[0].rstrip(".")
    given = {
        name: value
        for name, value in arguments.items()
        if value is not None and name not in bound and value != operation.parameters[name].default
    }
    listed = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in given.items())
    return f"{line} ({listed})." if listed else f"{line}."


def _view(row: PendingAction) -> ActionView:
    operation = OPERATIONS.get(row.operation)
    return ActionView(
        id=row.id,
        conversation_id=row.conversation_id,
        operation=row.operation,
        summary=(summarize(operation, row.arguments, row.preview) if operation else row.operation),
        arguments=row.arguments,
        preview=row.preview,
        status=row.status,
        result=row.result,
        expires_at=row.expires_at,
    )


async def access(uow: UnitOfWork, action_id: UUID) -> PendingAction:
    """Load an action on its owner's behalf.

    Raises:
        NotFound: No such action, or someone else's. The two must be indistinguishable.
    """
    query = (
        select(PendingAction)
        .where(PendingAction.id == action_id)
        .execution_options(populate_existing=True)
    )
    row = (await uow.session.exec(query)).first()
    has_identity = uow.actor.user_id or uow.actor.guest_secret_sha256
    if row is None or not has_identity or row.actor_id != owner_id(uow.actor):
        raise NotFound("No such action.")
    return row


async def get(uow: UnitOfWork, action_id: UUID) -> ActionView:
    return _view(await access(uow, action_id))


async def approve(deps: Deps, action_id: UUID) -> ActionView:
    """Run a proposed action, once. Approving again returns the first outcome.

    The claim commits before the operation starts. If the process dies in between, the row stays
    `executing`; after `EXECUTION_LEASE` a further approval resumes it when the operation is
    idempotent, and otherwise says that the outcome is unknown rather than guess.

    Raises:
        NotFound: No such action, or someone else's.
        Conflict: Rejected, expired, altered, being carried out, or its outcome is unknown.
        DomainError: The operation refused; the action is `failed` and cannot be approved again.
    """
    row = await _claim(deps, action_id)
    if row.status is ActionStatus.EXECUTED:
        return _view(row)
    operation = OPERATIONS[row.operation]
    try:
        outcome = await operation(deps, **argument_json.parse(operation, row.arguments))
    except DomainError as error:
        failure = {"code": error.error_code(), "detail": str(error)}
        await _finish(deps, row.id, ActionStatus.FAILED, failure)
        raise
    dumped = to_jsonable_python(outcome)
    result = dumped if isinstance(dumped, dict) else {"outcome": dumped}
    return _view(await _finish(deps, row.id, ActionStatus.EXECUTED, result))


async def _claim(deps: Deps, action_id: UUID) -> PendingAction:
    refusal: Conflict | None = None
    async with deps.begin() as uow:
        row = await access(uow, action_id)
        intact = row.operation in OPERATIONS and row.arguments_sha256 == digest(
            row.operation, row.actor_id, row.arguments
        )
        if row.status is ActionStatus.EXECUTED:
            return row
        if row.status is ActionStatus.PENDING and row.expires_at <= uow.now:
            raise Conflict("This approval has expired; please ask again.", current="expired")
        if not intact:
            # Kept as evidence, and committed before refusing: it must never become approvable.
            await _mark(uow, row, ActionStatus.FAILED, {"code": "altered"})
            refusal = Conflict("This action was altered and cannot be approved.", current="altered")
        elif not await _take(uow, row):
            refusal = _why_not(row, uow.now)
    if refusal is not None:
        raise refusal
    return row


async def _take(uow: UnitOfWork, row: PendingAction) -> bool:
    """Move the row to `executing`; of many callers exactly one succeeds."""
    claim = update(PendingAction).where(col(PendingAction.id) == row.id)
    if row.status is ActionStatus.PENDING:
        claim = claim.where(
            col(PendingAction.status) == ActionStatus.PENDING,
            col(PendingAction.expires_at) > uow.now,
            # The arguments just checked, not ones edited since.
            col(PendingAction.arguments_sha256) == row.arguments_sha256,
        )
    elif row.status is ActionStatus.EXECUTING and OPERATIONS[row.operation].idempotent:
        claim = claim.where(
            col(PendingAction.status) == ActionStatus.EXECUTING,
            col(PendingAction.decided_at) <= uow.now - EXECUTION_LEASE,
        )
    else:
        return False
    decided = claim.values(
        status=ActionStatus.EXECUTING, decided_at=uow.now, decided_by=row.actor_id
    ).execution_options(synchronize_session=False)
    taken = (await uow.session.exec(decided)).rowcount == 1
    await uow.session.refresh(row)
    return taken


def _why_not(row: PendingAction, now: datetime) -> Conflict:
    if row.status is ActionStatus.EXECUTING:
        waiting = row.decided_at is not None and row.decided_at > now - EXECUTION_LEASE
        if waiting:
            return Conflict("This is being carried out already.", current="executing")
        return Conflict(
            "This was interrupted and its outcome is unknown; check before asking again.",
            current="unknown",
        )
    return Conflict(f"This action is {row.status.value}.", current=row.status.value)


async def _mark(
    uow: UnitOfWork, row: PendingAction, status: ActionStatus, result: dict[str, Any]
) -> None:
    row.status, row.result, row.decided_at = status, result, uow.now
    await uow.session.flush()


async def _finish(
    deps: Deps, action_id: ActionId, status: ActionStatus, result: dict[str, Any]
) -> PendingAction:
    async with deps.begin() as uow:
        row = await access(uow, action_id)
        await _mark(uow, row, status, result)
    return row


async def reject(deps: Deps, action_id: UUID) -> ActionView:
    """Decline a proposed action; it can no longer be approved. Safe to repeat.

    Raises:
        NotFound: No such action, or someone else's.
        Conflict: It has been approved already.
    """
    async with deps.begin() as uow:
        row = await access(uow, action_id)
        decline = (
            update(PendingAction)
            .where(col(PendingAction.id) == row.id)
            .where(col(PendingAction.status).in_([ActionStatus.PENDING, ActionStatus.REJECTED]))
            .values(status=ActionStatus.REJECTED, decided_at=uow.now, decided_by=row.actor_id)
            .execution_options(synchronize_session=False)
        )
        if (await uow.session.exec(decline)).rowcount == 0:
            raise Conflict(f"This action is {row.status.value}.", current=row.status.value)
        await uow.session.refresh(row)
    return _view(row)
