"""Risky operations that wait for a person: proposed by an agent, approved once or not at all.

Approving is not authorisation: the operation runs as the approver, in the agents' role, and checks
scope and ownership again. A row binds the operation, its arguments, the asker and the state that
the dry run saw; changing any of them voids it. Nothing a model or a client's message says approves:
only `approve`, called for an authenticated person.

An ordinary operation, the end of its action and the record of it are one transaction. A process has
transactions of its own, so its action is claimed first and finished afterwards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from pydantic_core import to_jsonable_python
from sqlalchemy import ColumnElement, and_, false, or_
from sqlmodel import col, func, select, update

from db.models.agent import AgentCall, CallOutcome
from db.models.conversation import ActionStatus, Approver, PendingAction
from db.models.user import Role, User
from db.types import ActionId, ConversationId, Money, new_id
from deps.core import ROLE_SCOPES, Actor, Deps, UnitOfWork
from tools import agent_run, cap, rehearsal
from tools import arguments as argument_json
from tools.errors import (
    Conflict,
    DomainError,
    Forbidden,
    InvalidInput,
    NotFound,
    StateChanged,
    TooManyRequests,
)
from tools.registry import OPERATIONS, Operation
from tools.rehearsal import Effects, Outcome

ACTION_TTL = timedelta(minutes=15)
# Longer than any operation runs: only then may someone else take over an unfinished one.
EXECUTION_LEASE = timedelta(seconds=120)
WAITING_MAX = 50


class ActionView(BaseModel):
    """A proposed action as the people see it who may decide on it."""

    id: UUID
    conversation_id: UUID | None
    operation: str
    summary: str = Field(description="What approving does, in one sentence.")
    arguments: dict[str, Any]
    preview: dict[str, Any] = Field(description="Outcome of the dry run.")
    effects: Effects = Field(description="Rows, money and events the dry run caused.")
    approver: Approver = Field(description="`other`: whoever asked may not approve it.")
    status: ActionStatus
    result: dict[str, Any] | None
    expires_at: datetime


def owner_id(actor: Actor) -> UUID:
    """Return the id actions are bound to: the user, or one derived from the guest's secret.

    Raises:
        InvalidInput: A guest without a token is asking; nobody could approve later.
    """
    if actor.key is None:
        raise InvalidInput("Send a guest token, or sign in.", field="X-Guest-Token")
    return actor.key


def digest(operation: str, actor_id: UUID, arguments: Mapping[str, Any]) -> str:
    """Return the sha256 of the canonical JSON of what is to be approved."""
    bound = {"operation": operation, "actor_id": str(actor_id), "arguments": dict(arguments)}
    return agent_run.sha256(bound)


async def propose(
    deps: Deps,
    operation: Operation,
    arguments: Mapping[str, Any],
    conversation_id: UUID | None = None,
) -> ActionView:
    """Store an action that waits for approval. Nothing else changes: the rest is a dry run.

    Args:
        deps: The actor becomes the asker.
        operation: What to run once approved.
        arguments: As JSON values or Python values; checked against the operation's signature.
        conversation_id: Where the question was asked.

    Raises:
        Forbidden: The actor could not run the operation at all.
        InvalidInput: The arguments do not fit.
        TooManyRequests: The asker has too many actions waiting.
        DomainError: Whatever the dry run already knows to fail, or a limit forbids.
    """
    if not deps.actor.may(operation.scope):
        raise Forbidden(f"This needs the permission {operation.scope}.", scope=operation.scope)
    actor_id = owner_id(deps.actor)
    deps = agent_run.within(deps, conversation_id=conversation_id)
    parsed = argument_json.parse(operation, arguments)
    outcome = await rehearsal.rehearse(deps, operation, parsed)
    stored = argument_json.dump(parsed)
    # What the person sees is what they approve: parameters left open take the preview's value,
    # so a purchase is bound to its cart and total, and an approval repeated after a crash finds
    # the same cart.
    preview = outcome.preview
    left_open = {n: preview[n] for n, v in stored.items() if v is None and n in preview}
    if left_open:
        stored |= left_open
        outcome = await rehearsal.rehearse(deps, operation, argument_json.parse(operation, stored))
    row = _row(deps, operation, actor_id, stored, outcome, conversation_id)
    async with deps.begin() as uow:
        await cap.check_discounts(uow, outcome.effects)
        waiting = await uow.session.exec(
            select(func.count())
            .select_from(PendingAction)
            .where(
                PendingAction.actor_id == actor_id,
                PendingAction.status == ActionStatus.PENDING,
                col(PendingAction.expires_at) > uow.now,
            )
        )
        if waiting.one() >= WAITING_MAX:
            raise TooManyRequests("Too many actions wait for you; decide on those first.")
        uow.session.add(row)
        await uow.session.flush()
        assert deps.turn is not None
        await agent_run.record(
            uow, deps.turn, operation, stored, CallOutcome.WAITING, action_id=row.id
        )
    return _view(row)


def _row(
    deps: Deps,
    operation: Operation,
    actor_id: UUID,
    stored: dict[str, Any],
    outcome: Outcome,
    conversation_id: UUID | None,
) -> PendingAction:
    now, money = deps.clock(), outcome.effects.money
    moved = max((abs(move.amount) for move in money), default=0)
    is_large = moved > deps.settings.agent_second_approver_amount
    needs_other = is_large and cap.is_staff(deps.actor.label)
    return PendingAction(
        id=ActionId(new_id()),
        conversation_id=ConversationId(conversation_id) if conversation_id else None,
        actor_id=actor_id,
        actor_role=deps.actor.label,
        operation=operation.key,
        arguments=stored,
        arguments_sha256=digest(operation.key, actor_id, stored),
        preview=outcome.preview,
        effects=outcome.effects.model_dump(mode="json"),
        state_sha256=outcome.state_sha256,
        approver=Approver.OTHER if needs_other else Approver.ASKER,
        refund_amount=outcome.effects.total("refund"),
        currency=money[0].currency if money else "",
        expires_at=now + ACTION_TTL,
        created_at=now,
    )


def summarize(
    operation: Operation, arguments: Mapping[str, Any], preview: Mapping[str, Any]
) -> str:
    """Say what an action does: the operation's own first line and the arguments given."""
    bound = {n for n, p in operation.parameters.items() if p.default is None and n in preview}
    line = (operation.run.__doc__ or operation.key).strip().splitlines()[0].rstrip(".")
    given = {
        name: value
        for name, value in arguments.items()
        if value is not None and name not in bound and value != operation.parameters[name].default
    }
    currency = str(arguments.get("currency") or preview.get("currency") or "")
    listed = ", ".join(_told(name, value, currency) for name, value in given.items())
    return f"{line} ({listed})." if listed else f"{line}."


def _told(name: str, value: Any, currency: str) -> str:
    """Say one argument as people write it: `amount: EUR 12.50`, `lines: 2 of MUG-1`."""
    words = name.removesuffix("_amount").replace("_", " ")
    if name.endswith("amount") and isinstance(value, int) and currency:
        return f"{words}: {Money(value, currency)}"
    if isinstance(value, list):
        return f"{words}: " + ", ".join(_told_item(item) for item in value)
    return f"{words}: {_told_item(value)}"


def _told_item(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if {"sku", "quantity"} <= value.keys():
        return f"{value['quantity']} of {value['sku']}"
    return " ".join(str(part) for part in value.values() if isinstance(part, str | int))


def _view(row: PendingAction) -> ActionView:
    operation = OPERATIONS.get(row.operation)
    return ActionView(
        summary=(summarize(operation, row.arguments, row.preview) if operation else row.operation),
        effects=Effects.model_validate(row.effects),
        **row.model_dump(exclude={"effects"}, include=set(ActionView.model_fields)),
    )


async def access(uow: UnitOfWork, action_id: UUID, *, lock: bool = False) -> PendingAction:
    """Load an action for its asker, or for staff who have to decide on a colleague's.

    Raises:
        NotFound: No such action, or not theirs to know of. The two must be indistinguishable.
    """
    query = select(PendingAction).where(PendingAction.id == action_id)
    if lock:
        query = query.with_for_update()
    row = (await uow.session.exec(query.execution_options(populate_existing=True))).first()
    if row is None or not (_asked(uow.actor, row) or _may_decide_for(uow.actor, row)):
        raise NotFound("No such action.")
    return row


def _asked(actor: Actor, row: PendingAction) -> bool:
    return actor.key is not None and row.actor_id == actor.key


def _decides(actor: Actor) -> bool:
    return actor.role in (Role.MERCHANT, Role.ADMIN)


def _may_decide_for(actor: Actor, row: PendingAction) -> bool:
    """Whether `actor` is staff who may run the operation, for a colleague who may not alone."""
    operation = OPERATIONS.get(row.operation)
    return (
        operation is not None
        and _decides(actor)
        and actor.key != row.actor_id
        and cap.is_staff(row.actor_role)
        and (row.approver is Approver.OTHER or row.refund_amount > 0)
        and actor.may(operation.scope)
    )


async def get(uow: UnitOfWork, action_id: UUID) -> ActionView:
    return _view(await access(uow, action_id))


async def waiting(uow: UnitOfWork) -> list[ActionView]:
    """List what waits for the actor's decision, oldest first: their own, and colleagues'."""
    rows = await uow.session.exec(
        select(PendingAction)
        .where(PendingAction.status == ActionStatus.PENDING)
        .where(col(PendingAction.expires_at) > uow.now)
        .where(or_(_own(uow.actor), _of_colleagues(uow.actor)))
        .order_by(col(PendingAction.id))
        .limit(WAITING_MAX)
    )
    return [_view(row) for row in rows]


def _own(actor: Actor) -> ColumnElement[bool]:
    own = col(PendingAction.approver) == Approver.ASKER
    return and_(own, col(PendingAction.actor_id) == actor.key)


def _of_colleagues(actor: Actor) -> ColumnElement[bool]:
    """Say in SQL what `_may_decide_for` says of one action that its asker may not decide alone."""
    if not _decides(actor):
        return false()
    return and_(
        col(PendingAction.approver) == Approver.OTHER,
        col(PendingAction.actor_id).is_distinct_from(actor.key),
        col(PendingAction.actor_role).in_(cap.STAFF),
        col(PendingAction.operation).in_(
            [key for key, operation in OPERATIONS.items() if actor.may(operation.scope)]
        ),
    )


@dataclass(slots=True)
class _Progress:
    """How far an approval came, for what has to be written down when it fails."""

    is_claimed: bool = False
    is_altered: bool = False


async def approve(deps: Deps, action_id: UUID) -> ActionView:
    """Carry out a proposed action, once. Approving again returns the first outcome.

    If the process dies while a process runs, the row stays `executing`; after `EXECUTION_LEASE` a
    further approval resumes it when the operation is idempotent, and otherwise says that the
    outcome is unknown rather than guess.

    Raises:
        NotFound: No such action, or not theirs to decide.
        Forbidden: Somebody else has to approve it.
        StateChanged: The shop is no longer as the dry run saw it. Nothing was done.
        LimitReached: A rolling limit forbids it for now. Nothing was done.
        Conflict: Rejected, expired, altered, being carried out, or its outcome is unknown.
        DomainError: The operation refused; the action is `failed` and cannot be approved again.
    """
    deps = agent_run.within(deps)
    async with deps.begin() as uow:
        row = await access(uow, action_id)
        if row.status is ActionStatus.EXECUTED:
            return _view(row)
    operation, progress = OPERATIONS.get(row.operation), _Progress()
    try:
        if operation is None or not operation.is_process:
            return await _carry_out(deps, action_id, progress)
        return await _carry_out_process(deps, action_id, operation, progress)
    except DomainError as error:
        if progress.is_claimed or progress.is_altered:
            failure = {"code": error.error_code(), "detail": str(error)}
            await _finish(deps, action_id, ActionStatus.FAILED, failure)
        raise


async def _carry_out(deps: Deps, action_id: UUID, progress: _Progress) -> ActionView:
    """Claim, run, compare and finish in one transaction; the row's lock makes others wait."""
    async with deps.begin() as uow:
        row = await _claimable(uow, action_id, progress)
        if row.status is ActionStatus.EXECUTED:
            return _view(row)
        operation = OPERATIONS[row.operation]
        parsed = argument_json.parse(operation, row.arguments)
        progress.is_claimed = True
        declared = row.preview if operation.preview is not None else None
        result, compensation, outcome = await rehearsal.perform(uow, operation, parsed, declared)
        if outcome.state_sha256 != row.state_sha256:
            raise StateChanged(_CHANGED)
        await _mark(uow, row, ActionStatus.EXECUTED, _as_result(result))
        await _record_end(uow, row, CallOutcome.DONE, result=result, compensation=compensation)
    return _view(row)


async def _carry_out_process(
    deps: Deps, action_id: UUID, operation: Operation, progress: _Progress
) -> ActionView:
    async with deps.begin() as uow:
        row = await _claimable(uow, action_id, progress)
        if row.status is ActionStatus.EXECUTED:
            return _view(row)
        is_resumed = row.status is ActionStatus.EXECUTING
        await _mark(uow, row, ActionStatus.EXECUTING, None)
    progress.is_claimed = True
    parsed = argument_json.parse(operation, row.arguments)
    if not is_resumed:  # What was begun has changed the state itself.
        now = await rehearsal.rehearse(deps, operation, parsed)
        if now.state_sha256 != row.state_sha256:
            raise StateChanged(_CHANGED)
    result, compensation = await agent_run.run_process(deps, operation, parsed)
    row = await _finish(deps, action_id, ActionStatus.EXECUTED, _as_result(result))
    async with deps.begin() as uow:
        await _record_end(uow, row, CallOutcome.DONE, result=result, compensation=compensation)
    return _view(row)


_CHANGED = "Something has changed since this was shown; nothing was done. Please ask again."


def _as_result(result: Any) -> dict[str, Any]:
    dumped = to_jsonable_python(result)
    return dumped if isinstance(dumped, dict) else {"outcome": dumped}


async def _claimable(uow: UnitOfWork, action_id: UUID, progress: _Progress) -> PendingAction:
    """Lock the action and make sure that it may be carried out now, by this actor.

    Raises: As `approve`.
    """
    row = await access(uow, action_id, lock=True)
    if row.status is ActionStatus.EXECUTED:
        return row
    is_taken_over = _may_resume(row, uow.now)
    if row.status is not ActionStatus.PENDING and not is_taken_over:
        raise _why_not(row, uow.now)
    if not is_taken_over and row.expires_at <= uow.now:
        raise Conflict("This approval has expired; please ask again.", current="expired")
    bound = digest(row.operation, row.actor_id, row.arguments)
    if row.operation not in OPERATIONS or row.arguments_sha256 != bound:
        # Kept as evidence: it must never become approvable.
        progress.is_altered = True
        raise Conflict("This action was altered and cannot be approved.", current="altered")
    is_other = not _asked(uow.actor, row)
    if row.approver is Approver.OTHER and not is_other:
        raise Forbidden("Someone else has to approve this: it moves more than you may alone.")
    await _check_asker(uow, row)
    await cap.check_refunds(uow, row, is_other=is_other)
    return row


def _may_resume(row: PendingAction, now: datetime) -> bool:
    operation = OPERATIONS.get(row.operation)
    return (
        row.status is ActionStatus.EXECUTING
        and operation is not None
        and operation.idempotent
        and row.decided_at is not None
        and row.decided_at <= now - EXECUTION_LEASE
    )


async def _check_asker(uow: UnitOfWork, row: PendingAction) -> None:
    """Whoever asked must still be allowed to: sign-ins are disabled and roles are taken away."""
    if row.actor_role == "guest" or _asked(uow.actor, row):
        return
    asker = await uow.session.get(User, row.actor_id)
    scope = OPERATIONS[row.operation].scope
    if asker is None or not asker.is_active or scope not in ROLE_SCOPES[asker.role]:
        raise Conflict("Whoever asked for this may not do it any more.", current="asker_gone")


def _why_not(row: PendingAction, now: datetime) -> Conflict:
    if row.status is ActionStatus.EXECUTING:
        if row.decided_at is not None and row.decided_at > now - EXECUTION_LEASE:
            return Conflict("This is being carried out already.", current="executing")
        return Conflict(
            "This was interrupted and its outcome is unknown; check before asking again.",
            current="unknown",
        )
    return Conflict(f"This action is {row.status.value}.", current=row.status.value)


async def _mark(
    uow: UnitOfWork, row: PendingAction, status: ActionStatus, result: dict[str, Any] | None
) -> None:
    row.status, row.result, row.decided_at = status, result, uow.now
    row.decided_by, row.trace_id = uow.actor.key, uow.trace_id
    await uow.session.flush()


async def _finish(
    deps: Deps, action_id: UUID, status: ActionStatus, result: dict[str, Any]
) -> PendingAction:
    async with deps.begin() as uow:
        row = await access(uow, action_id, lock=True)
        if row.status in (ActionStatus.PENDING, ActionStatus.EXECUTING):
            await _mark(uow, row, status, result)
            if status is ActionStatus.FAILED:
                await _record_end(uow, row, CallOutcome.FAILED, error=str(result["code"]))
    return row


async def _record_end(
    uow: UnitOfWork, row: PendingAction, outcome: CallOutcome, **details: Any
) -> None:
    """Complete the record of the call that proposed the action."""
    calls = await uow.session.exec(select(AgentCall.id).where(AgentCall.action_id == row.id))
    for call_id in calls:
        await agent_run.finish(uow, call_id, outcome, **details)


async def reject(deps: Deps, action_id: UUID) -> ActionView:
    """Decline a proposed action; it can no longer be approved. Safe to repeat.

    Raises:
        NotFound: No such action, or not theirs to decide.
        Conflict: It has been approved already.
    """
    async with deps.begin() as uow:
        row = await access(uow, action_id)
        decline = (
            update(PendingAction)
            .where(col(PendingAction.id) == row.id)
            .where(col(PendingAction.status).in_([ActionStatus.PENDING, ActionStatus.REJECTED]))
            .values(status=ActionStatus.REJECTED, decided_at=uow.now, decided_by=uow.actor.key)
            .execution_options(synchronize_session=False)
        )
        if (await uow.session.exec(decline)).rowcount == 0:
            raise Conflict(f"This action is {row.status.value}.", current=row.status.value)
        await uow.session.refresh(row)
        await _record_end(uow, row, CallOutcome.FAILED, error="rejected")
    return _view(row)
