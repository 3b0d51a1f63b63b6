"""Who a request comes from, as the edge counts it: before routing, and without the database."""

from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from deps.core import Actor, Deps
from deps.security import InvalidToken, read_access, sha256

_MEMO = "shopkeeper.caller"


def deps_of(scope: Scope) -> Deps:
    deps = scope["app"].state.deps
    assert isinstance(deps, Deps)
    return deps


def address(scope: Scope) -> str:
    """Return the peer's address. Behind a proxy, uvicorn's `--forwarded-allow-ips` corrects it."""
    client = scope.get("client")
    return client[0] if client else "local"


def caller(scope: Scope) -> Actor:
    """Return the actor that the credentials speak for; bad credentials speak for nobody.

    Endpoints authenticate again and refuse bad ones: here they only choose a counter or a key's
    owner.
    """
    state = scope.setdefault("state", {})
    known = state.get(_MEMO)
    if isinstance(known, Actor):
        return known
    headers = Headers(scope=scope)
    cookies = cookie_parser(headers["cookie"]) if "cookie" in headers else {}
    guest = headers.get("x-guest-token") or cookies.get("guest")
    actor = Actor(guest_secret_sha256=sha256(guest) if guest else None)
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else cookies.get("access", "")
    if token:
        deps = deps_of(scope)
        # A bad token: the endpoint answers 401, and the request counts as a guest's.
        with suppress(InvalidToken):
            actor = read_access(deps.settings, token, deps.clock())
    state[_MEMO] = actor
    return actor


def owner_of_keys(scope: Scope) -> str:
    """Return whose idempotency keys these are: the user's, the guest's, or the address's."""
    actor = caller(scope)
    if actor.user_id is not None:
        return f"user:{actor.user_id}"
    if actor.guest_secret_sha256 is not None:
        return f"guest:{actor.guest_secret_sha256}"
    return f"ip:{address(scope)}"


def owner_of_limits(scope: Scope) -> str:
    """Return whose requests are counted. Guests count by address: a guest token costs nothing,
    so counting by it would limit nobody."""
    actor = caller(scope)
    return f"user:{actor.user_id}" if actor.user_id is not None else f"ip:{address(scope)}"
