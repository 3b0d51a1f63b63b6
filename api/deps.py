"""FastAPI dependencies: who is calling, and the transaction their request runs in."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request, params
from fastapi.security import APIKeyHeader, HTTPBearer

from deps import security
from deps.core import ROLE_SCOPES, Actor, Deps, HotWork, UnitOfWork
from deps.telemetry import current_trace_id
from tools.errors import Forbidden, InvalidInput, Unauthenticated

GUEST_TOKEN_CHARS_MIN = 32
GUEST_TOKEN_CHARS_MAX = 200

# For the OpenAPI description; the header is read below, since pages send it as a cookie.
bearer = HTTPBearer(auto_error=False, description="Access token from `POST /v1/auth/login`.")
guest_token = APIKeyHeader(
    name="X-Guest-Token",
    auto_error=False,
    description="A secret of at least 32 characters that a guest makes up; it owns their carts.",
)


async def get_actor(request: Request) -> Actor:
    """Tell who is calling, from the bearer token, or as the guest who holds a secret.

    Raises:
        Unauthenticated: A token is sent and is not valid: never silently a guest.
        InvalidInput: The guest token is too short to be a secret.
    """
    guest = request.headers.get("x-guest-token") or request.cookies.get("guest")
    if guest is not None and not GUEST_TOKEN_CHARS_MIN <= len(guest) <= GUEST_TOKEN_CHARS_MAX:
        raise InvalidInput(
            f"A guest token has {GUEST_TOKEN_CHARS_MIN} to {GUEST_TOKEN_CHARS_MAX} characters.",
            field="X-Guest-Token",
        )
    digest = security.sha256(guest) if guest else None
    authorization = request.headers.get("authorization")
    if authorization is None:
        return Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256=digest)
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("Send the access token as `Authorization: Bearer …`.")
    deps: Deps = request.app.state.deps
    try:
        return security.read_access(
            deps.settings, token.strip(), deps.clock(), guest_secret_sha256=digest
        )
    except security.InvalidToken as error:
        raise Unauthenticated("The access token is not valid or has expired.") from error


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
