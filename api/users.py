"""REST: registration, sign-in, tokens and the signed-in person."""

from typing import Annotated

from fastapi import APIRouter, Query, status
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.user import Role
from deps import security
from deps.given import Given
from tools import cart, user
from tools.errors import AlreadyExists, Forbidden, Unauthenticated
from tools.page import Page
from tools.user import Tokens, UserSort, UserView

router = APIRouter(tags=["users"])


class Registration(Given):
    email: str = Field(max_length=254, examples=["ada@example.com"])
    password: str = Field(min_length=10, max_length=200, examples=["a long passphrase"])
    name: str = Field(min_length=1, max_length=200, examples=["Ada Lovelace"])


class Credentials(Given):
    email: str = Field(max_length=254, examples=["shopper@example.com"])
    password: str = Field(max_length=200, examples=["harbour-and-pine"])


class RefreshRequest(Given):
    refresh_token: str = Field(min_length=1, max_length=200)


class ProfileChange(Given):
    name: str = Field(min_length=1, max_length=200, examples=["Ada King"])


@router.post(
    "/auth/register", status_code=status.HTTP_201_CREATED, responses=problems(AlreadyExists)
)
async def register(body: Registration, deps: DepsDep) -> UserView:
    """Create a customer's sign-in."""
    return await user.register(deps, email=body.email, password=body.password, name=body.name)


@router.post("/auth/login", responses=problems(Unauthenticated))
async def login(body: Credentials, deps: DepsDep) -> Tokens:
    """Exchange email and password for an access and a refresh token.

    With the `X-Guest-Token` of before, what was put in a cart as a guest comes along.
    """
    tokens = await user.login(deps, email=body.email, password=body.password)
    if deps.actor.guest_secret_sha256 is not None:
        shopper = security.read_access(
            deps.settings,
            tokens.access_token,
            deps.clock(),
            guest_secret_sha256=deps.actor.guest_secret_sha256,
        )
        async with deps.acting_as(shopper).begin() as uow:
            await cart.adopt(uow)
    return tokens


@router.post("/auth/refresh", responses=problems(Unauthenticated))
async def refresh(body: RefreshRequest, deps: DepsDep) -> Tokens:
    """Exchange a refresh token for new tokens. Each works once; a second use revokes the family."""
    return await user.refresh(deps, refresh_token=body.refresh_token)


@router.post(
    "/auth/logout", status_code=status.HTTP_204_NO_CONTENT, responses=problems(Unauthenticated)
)
async def logout(body: RefreshRequest, deps: DepsDep) -> None:
    """Revoke a refresh token and all that came from the same sign-in."""
    await user.logout(deps, refresh_token=body.refresh_token)


@router.get("/me", responses=problems(Unauthenticated))
async def read_me(uow: UowDep) -> UserView:
    """Show the signed-in person."""
    return await user.me(uow)


@router.patch("/me", responses=problems(Unauthenticated))
async def change_me(body: ProfileChange, uow: UowDep) -> UserView:
    """Change the signed-in person's name."""
    return await user.rename(uow, body.name)


@router.get(
    "/users",
    dependencies=[needs("user:read_all")],
    responses=problems(Unauthenticated, Forbidden),
)
async def list_users(
    uow: UowDep,
    q: Annotated[str | None, Query(max_length=200, description="Part of a name or email.")] = None,
    role: Role | None = None,
    sort: UserSort = UserSort.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[UserView]:
    """List people who have a sign-in (staff)."""
    return await user.find(uow, q, role, sort, limit, cursor)
