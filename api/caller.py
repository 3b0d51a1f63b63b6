"""Who a request comes from: its credentials, read once and in one place.

The edge asks before routing, to count and to tell keys apart, and makes nobody of bad credentials;
endpoints ask `authenticated`, which refuses them. Neither asks the database.
"""

from dataclasses import dataclass
from typing import Final

from starlette.requests import cookie_parser
from starlette.types import Scope

from api.headers import header
from deps.core import ROLE_SCOPES, Actor, Deps
from deps.security import InvalidToken, read_access, sha256
from tools.errors import DomainError, InvalidInput, Unauthenticated

GUEST_TOKEN_CHARS_MIN: Final = 32
GUEST_TOKEN_CHARS_MAX: Final = 200
_MEMO: Final = "shopkeeper.actor"
_NOBODY: Final = Actor(scopes=ROLE_SCOPES[None])


@dataclass(frozen=True, slots=True)
class Credentials:
    """As sent, unchecked. `scheme` is lower-case, and empty without an Authorization header."""

    scheme: str
    token: str
    guest: str


def deps_of(scope: Scope) -> Deps:
    deps = scope["app"].state.deps
    assert isinstance(deps, Deps)
    return deps


def address(scope: Scope) -> str:
    """Return the peer's address. Behind a proxy, uvicorn's `--forwarded-allow-ips` corrects it."""
    client = scope.get("client")
    return client[0] if client else "local"


def credentials(scope: Scope) -> Credentials:
    """Read the bearer token, and the guest's secret from its header or the pages' cookie."""
    scheme, _, token = header(scope, b"authorization").partition(" ")
    guest = header(scope, b"x-guest-token")
    if not guest:
        cookie = header(scope, b"cookie")
        guest = cookie_parser(cookie).get("guest", "") if cookie else ""
    return Credentials(scheme.lower(), token.strip(), guest)


def authenticated(scope: Scope) -> Actor:
    """Tell who is calling, from the bearer token, or as the guest who holds a secret.

    Raises:
        Unauthenticated: A token is sent and is not valid: never silently a guest.
        InvalidInput: The guest token is too short to be a secret.
    """
    state = scope.setdefault("state", {})
    known = state.get(_MEMO)
    if isinstance(known, Actor):
        return known
    state[_MEMO] = actor = actor_of(credentials(scope), scope)
    return actor


def actor_of(sent: Credentials, scope: Scope) -> Actor:
    """Tell who sends these credentials; raises as `authenticated`."""
    digest = None
    if sent.guest:
        if not GUEST_TOKEN_CHARS_MIN <= len(sent.guest) <= GUEST_TOKEN_CHARS_MAX:
            raise InvalidInput(
                f"A guest token has {GUEST_TOKEN_CHARS_MIN} to {GUEST_TOKEN_CHARS_MAX} characters.",
                field="X-Guest-Token",
            )
        digest = sha256(sent.guest)
    if not sent.scheme:
        return Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256=digest) if digest else _NOBODY
    if sent.scheme != "bearer":
        raise Unauthenticated("Send the access token as `Authorization: Bearer …`.")
    deps = deps_of(scope)
    try:
        return read_access(deps.settings, sent.token, deps.clock(), guest_secret_sha256=digest)
    except InvalidToken as error:
        raise Unauthenticated("The access token is not valid or has expired.") from error


def caller(scope: Scope) -> Actor:
    """Return the actor that the credentials speak for; bad credentials speak for nobody."""
    try:
        return authenticated(scope)
    except DomainError:  # The endpoint says so; here it only chooses a counter or a key's owner.
        return _NOBODY


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
