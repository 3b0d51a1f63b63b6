"""What agents do: every call runs under row-level security and leaves a row that says so.

A call of an ordinary operation and its record are one transaction: neither is without the other.
A process is recorded before it starts and again when it ends, since it has transactions of its own.
The records cannot be written by the role that agents' statements run in.
"""

import hashlib
import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import asyncpg
from pydantic_core import from_json, to_json, to_jsonable_python
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, update

from db.models.agent import AgentCall, CallOutcome
from db.types import ActionId, new_id
from deps.core import AgentRoleMissing, AgentTurn, Deps, UnitOfWork, confined
from tools.errors import DomainError, Forbidden, NotFound, Unavailable
from tools.registry import OPERATIONS, FromResult, Operation, Risk

log = logging.getLogger(__name__)

WORDS_CHARS_MAX = 4000
_NOT_PERMITTED = "42501"  # Also what a row-level policy answers to a write.


def canonical(value: Any) -> bytes:
    """Return JSON that is the same for equal values, whatever the order of their keys."""
    # Not orjson: a model may write a number of more than 64 bits, and it is recorded as any other.
    return json.dumps(to_jsonable_python(value), sort_keys=True, separators=(",", ":")).encode()


def sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def within(
    deps: Deps, *, words: str = "", conversation_id: UUID | None = None, route: str = ""
) -> Deps:
    """Return `deps` for a run: the one under way, or a new one if there is none."""
    trace_id = deps.trace_id or secrets.token_hex(16)
    turn = deps.turn or AgentTurn(
        id=new_id(), conversation_id=conversation_id, words=words[:WORDS_CHARS_MAX]
    )
    return replace(deps, turn=replace(turn, route=route or turn.route), trace_id=trace_id)


_RECORD = """
    WITH run AS (
        INSERT INTO agent_run (id, conversation_id, actor_id, actor_role, words, trace_id,
                               started_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
    )
    INSERT INTO agent_call (id, run_id, route, operation, arguments, arguments_sha256, outcome,
                            error_code, result_sha256, action_id, inverse_arguments, state_sha256,
                            trace_id, started_at, finished_at)
    VALUES ($8, $1, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $6, $7, $19)
"""


@dataclass(frozen=True, slots=True)
class Compensation:
    """What undoing a call takes: the inverse's arguments, and how to know the state it undoes."""

    arguments: dict[str, Any] | None = None
    state_sha256: str | None = None


async def call(deps: Deps, operation: Operation, arguments: Mapping[str, Any]) -> Any:
    """Run an operation for an agent, as `deps.actor` and in the agents' role, and record it.

    Args:
        deps: From `within`.
        operation: One that needs no approval; the others go through `tools.action`.
        arguments: Parsed.

    Raises:
        Forbidden: The actor lacks the scope.
        Unavailable: The database has no role for agents.
        DomainError: As the operation; the failure is recorded.
    """
    assert deps.turn is not None
    if operation.is_process and deps.actor.may(operation.scope):
        return await _process(deps, operation, arguments)
    try:
        if not deps.actor.may(operation.scope):
            raise Forbidden(f"This needs the permission {operation.scope}.", scope=operation.scope)
        async with deps.begin() as uow:
            result, compensation = await run_confined(uow, operation, arguments)
            await record(
                uow, deps.turn, operation, arguments, CallOutcome.DONE,
                result=result, compensation=compensation,
            )  # fmt: skip
        return result
    except DomainError as error:
        async with deps.begin() as uow:
            code = error.error_code()
            await record(uow, deps.turn, operation, arguments, CallOutcome.FAILED, error=code)
        raise


async def run_confined(
    uow: UnitOfWork, operation: Operation, arguments: Mapping[str, Any]
) -> tuple[Any, Compensation]:
    """Run an ordinary operation in the agents' role, within the caller's transaction."""
    try:
        async with confined(uow) as own:
            before = await restoring(own, operation, arguments)
            result = await operation.run(own, **arguments)
            after = await restoring(own, operation, arguments)
    except AgentRoleMissing as error:
        raise Unavailable(f"{error} The shop's staff has to see to it.") from error
    except (DBAPIError, asyncpg.PostgresError) as error:
        raise _denied(operation, error) from error
    return result, compensation_of(operation, before, after, result)


async def _process(deps: Deps, operation: Operation, arguments: Mapping[str, Any]) -> Any:
    assert deps.turn is not None
    async with deps.begin() as uow:
        call_id = await record(uow, deps.turn, operation, arguments, CallOutcome.STARTED)
    try:
        result, compensation = await run_process(deps, operation, arguments)
    except DomainError as error:
        async with deps.begin() as uow:
            await finish(uow, call_id, CallOutcome.FAILED, error=error.error_code())
        raise
    async with deps.begin() as uow:
        await finish(uow, call_id, CallOutcome.DONE, result=result, compensation=compensation)
    return result


async def run_process(
    deps: Deps, operation: Operation, arguments: Mapping[str, Any]
) -> tuple[Any, Compensation]:
    """Run a process whose every transaction is in the agents' role."""
    own = replace(deps, as_agent=True)
    try:
        async with own.begin() as uow:
            before = await restoring(uow, operation, arguments)
        result = await operation.run(own, **arguments)
        async with own.begin() as uow:
            after = await restoring(uow, operation, arguments)
    except AgentRoleMissing as error:
        raise Unavailable(f"{error} The shop's staff has to see to it.") from error
    except (DBAPIError, asyncpg.PostgresError) as error:
        raise _denied(operation, error) from error
    return result, compensation_of(operation, before, after, result)


def _denied(operation: Operation, error: Exception) -> Exception:
    """Turn a refusal by row-level security into what somebody else's thing looks like."""
    cause = getattr(error, "orig", None) or error
    if getattr(cause, "sqlstate", None) != _NOT_PERMITTED:
        return error
    # The operation's own check should have refused: this line is a bug to find.
    log.error("row-level security stopped %s: %s", operation.key, cause)
    return NotFound("No such thing.")


async def restoring(
    uow: UnitOfWork, operation: Operation, arguments: Mapping[str, Any]
) -> dict[str, Any] | None:
    return await operation.restore(uow, **arguments) if operation.restore is not None else None


# What a call leaves that found nothing to change: neither before nor after could it be undone.
NOTHING: Final = sha256(None)


def compensation_of(
    operation: Operation, before: dict[str, Any] | None, after: dict[str, Any] | None, result: Any
) -> Compensation:
    """Say what undoes a call; parameters that `restore` left out come from the call's result, and
    what it names beside them is only compared."""
    if operation.restore is None or operation.inverse is None:
        return Compensation()
    if before is None:
        return Compensation(state_sha256=sha256(after))
    told = to_jsonable_python(result)
    told = told if isinstance(told, dict) else {}
    wanted = OPERATIONS[operation.inverse].parameters
    given = {
        name: told[value.name] if isinstance(value, FromResult) else value
        for name, value in before.items()
        if name in wanted
    }
    from_result = {name: told[name] for name in wanted if name not in before and name in told}
    arguments = to_jsonable_python(given | from_result)
    return Compensation(arguments=arguments, state_sha256=sha256(after))


async def record(
    uow: UnitOfWork,
    turn: AgentTurn,
    operation: Operation,
    arguments: Mapping[str, Any],
    outcome: CallOutcome,
    *,
    result: Any = None,
    error: str | None = None,
    action_id: ActionId | None = None,
    compensation: Compensation | None = None,
) -> UUID:
    """Write one call into the caller's transaction, and the run if it is the first; return its id.

    A run's row is written once: the calls of one message may be in transactions at once.
    """
    # JSON has no word for what is not a number, which a model may write all the same.
    call_id, given = new_id(), from_json(to_json(dict(arguments), inf_nan_mode="strings"))
    undoing = compensation or Compensation()
    inverse = undoing.arguments if operation.risk is not Risk.READ else None
    finished_at = None if outcome is CallOutcome.STARTED else uow.now
    await uow.fetch(
        _RECORD,
        *(turn.id, turn.conversation_id, uow.actor.key, uow.actor.label, turn.words),
        *(uow.trace_id, uow.now, call_id, turn.route, operation.key),
        json.dumps(given),  # As `canonical`: numbers of any size.
        *(sha256(given), outcome.value, error, None if result is None else sha256(result)),
        *(action_id, to_jsonable_python(inverse), undoing.state_sha256),
        finished_at,
    )
    return call_id


async def finish(
    uow: UnitOfWork,
    call_id: UUID,
    outcome: CallOutcome,
    *,
    result: Any = None,
    error: str | None = None,
    compensation: Compensation | None = None,
) -> None:
    """Complete the record of a process or of an approved action."""
    undoing = compensation or Compensation()
    await uow.session.execute(
        update(AgentCall)
        .where(col(AgentCall.id) == call_id)
        .values(
            outcome=outcome,
            error_code=error,
            result_sha256=None if result is None else sha256(result),
            inverse_arguments=undoing.arguments,
            state_sha256=undoing.state_sha256,
            finished_at=uow.now,
        )
    )
