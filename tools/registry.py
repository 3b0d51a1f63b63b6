"""Every operation a person, program or agent may ask for, with what a caller must know of it."""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from deps.core import Deps, UnitOfWork
from tools.errors import Forbidden

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


class Risk(StrEnum):
    """What could go wrong. From `MONEY` on, an agent's call waits for a person's approval.

    `RECORD` writes down what somebody else knows, such as a provider: whoever asks again is told
    the same, so there is nothing to approve and nothing to take back. `REVERSIBLE` has an inverse.
    """

    READ = "read"
    RECORD = "record"
    REVERSIBLE = "reversible"
    MONEY = "money"
    BULK = "bulk"
    IRREVERSIBLE = "irreversible"

    @property
    def needs_approval(self) -> bool:
        return self not in (Risk.READ, Risk.RECORD, Risk.REVERSIBLE)


@dataclass(frozen=True, slots=True)
class FromResult:
    """An argument of an inverse that only the call's result tells: its field `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """`run` takes a `UnitOfWork`, or `Deps` when `is_process`: processes open their own
    transactions because they call vendors between them."""

    domain: str
    name: str
    run: Callable[..., Awaitable[Any]]
    scope: str
    risk: Risk
    idempotent: bool
    inverse: str | None
    examples: tuple[str, ...]
    preview: Callable[..., Awaitable[Any]] | None
    restore: Callable[..., Awaitable[dict[str, Any] | None]] | None
    is_process: bool

    @property
    def key(self) -> str:
        return f"{self.domain}.{self.name}"

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What a caller supplies: the signature without `uow` or `deps`."""
        return dict(list(inspect.signature(self.run).parameters.items())[1:])

    async def __call__(self, deps: Deps, /, **arguments: Any) -> Any:
        """Run in a transaction of its own (or several, for a process), as `deps.actor`.

        Raises:
            Forbidden: The actor lacks `scope`. The operation checks ownership itself.
        """
        if not deps.actor.may(self.scope):
            raise Forbidden(f"This needs the permission {self.scope}.", scope=self.scope)
        if self.is_process:
            return await self.run(deps, **arguments)
        async with deps.begin() as uow:
            return await self.run(uow, **arguments)


OPERATIONS: dict[str, Operation] = {}


def operation(
    *,
    scope: str,
    risk: Risk,
    idempotent: bool,
    examples: tuple[str, ...],
    inverse: str | None = None,
    preview: Callable[..., Awaitable[Any]] | None = None,
    restore: Callable[..., Awaitable[dict[str, Any] | None]] | None = None,
    domain: str | None = None,
) -> Callable[[F], F]:
    """Register an operation under `<module>.<function>`.

    Args:
        scope: Permission the actor needs, as in `deps.core.ROLE_SCOPES`.
        risk: See `Risk`.
        idempotent: Whether repeating it with the same arguments changes nothing more.
        examples: Utterances that ask for it; the offline planner and the evals read them. Slots
            are written in braces: `put {quantity} of {sku} in my cart`.
        inverse: Key of the operation that undoes it, if one does.
        preview: A dry run with the same arguments that returns a model of what would happen.
        restore: Takes a `UnitOfWork` and the same arguments and returns those with which `inverse`
            brings back what is there now, or None when it cannot. Asked before and after each call
            by an agent: undoing uses the first answer, if the second still holds. Parameters of
            the inverse that it leaves out are taken from the call's result, where `FromResult` says
            under which other name. What it names beside the parameters is part of what has to hold.
        domain: Agent that offers it, when that is not the module's own.
    """

    def register(run: F) -> F:
        name = run.__name__
        of = domain or run.__module__.rpartition(".")[2]
        first = next(iter(inspect.signature(run).parameters.values()))
        assert first.annotation in (UnitOfWork, Deps), f"{of}.{name}: first parameter"
        entry = Operation(
            domain=of,
            name=name,
            run=run,
            scope=scope,
            risk=risk,
            idempotent=idempotent,
            inverse=inverse,
            examples=examples,
            preview=preview,
            restore=restore,
            is_process=first.annotation is Deps,
        )
        assert restore is None or inverse is not None, f"{entry.key}: nothing to restore with"
        assert inverse is not None or risk is not Risk.REVERSIBLE, f"{entry.key}: no way back"
        assert entry.key not in OPERATIONS, f"{entry.key} is registered twice"
        OPERATIONS[entry.key] = entry
        return run

    return register
