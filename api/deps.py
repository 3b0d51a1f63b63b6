"""FastAPI dependencies: who is calling, and the transaction their request runs in."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request, params

from api.caller import authenticated
from deps.core import Actor, Deps, HotWork, UnitOfWork
from deps.telemetry import current_trace_id
from tools.errors import Forbidden, Unauthenticated


async def get_actor(request: Request) -> Actor:
    """Tell who is calling. Raises as `authenticated`."""
    return authenticated(request.scope)


async def get_deps(request: Request, actor: Annotated[Actor, Depends(get_actor)]) -> Deps:
    deps: Deps = request.app.state.deps
    return replace(deps, actor=actor, trace_id=current_trace_id())


async def get_uow(deps: Annotated[Deps, Depends(get_deps)]) -> AsyncGenerator[UnitOfWork, None]:
    async with deps.begin() as uow:
        yield uow


async def get_hot_work(deps: Annotated[Deps, Depends(get_deps)]) -> HotWork:
    return deps.hot_work()


def needs(scope: str) -> params.Depends:
    """Refuse callers without `scope`, before a transaction is opened."""

    async def check(actor: Annotated[Actor, Depends(get_actor)]) -> None:
        if actor.may(scope):
            return
        if actor.user_id is None:
            raise Unauthenticated("Sign in first.")
        raise Forbidden(f"This needs the permission {scope}.", scope=scope)

    dependency = Depends(check)
    assert isinstance(dependency, params.Depends)
    return dependency


ActorDep = Annotated[Actor, Depends(get_actor)]
DepsDep = Annotated[Deps, Depends(get_deps)]
# Function scope: commit before the response is sent, so a failed commit is never reported as 200.
UowDep = Annotated[UnitOfWork, Depends(get_uow, scope="function")]
# For operations of one statement, which is its own transaction.
HotDep = Annotated[HotWork, Depends(get_hot_work)]
