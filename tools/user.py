"""Sign-in: registration, login, rotating refresh tokens, and the signed-in person's profile."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.user import RefreshToken, Role, StaffUser, User
from db.types import new_id
from deps import security
from deps.core import Deps, UnitOfWork
from deps.untrusted import visible
from tools.errors import AlreadyExists, InvalidInput, NotFound, Unauthenticated
from tools.events import RefreshTokenReused, UserRegistered
from tools.page import Ordering, Page, read_page
from tools.registry import Risk, operation

PASSWORD_CHARS_MIN = 10
PASSWORD_CHARS_MAX = 200


class UserView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    name: str
    role: Role


class Tokens(BaseModel):
    access_token: str
    refresh_token: str
    token_type: str = "Bearer"
    expires_in: int = Field(description="Seconds the access token lives.")


def normalize_email(email: str) -> str:
    """Return the address lower-case and in normal form.

    Raises:
        InvalidInput: Not an address mail could be sent to.
    """
    try:
        valid = validate_email(email, check_deliverability=False, test_environment=True)
    except EmailNotValidError as error:
        raise InvalidInput(f"This is not an email address: {error}", field="email") from error
    return valid.normalized.lower()


async def register(
    deps: Deps, *, email: str, password: str, name: str, role: Role = Role.CUSTOMER
) -> UserView:
    """Create a sign-in. Everyone registers as a customer; staff are made by the CLI or an admin.

    Raises:
        InvalidInput: The email, name or password breaks a rule.
        AlreadyExists: The email is registered.
    """
    email, name = normalize_email(email), _checked_name(name)
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise InvalidInput(
            f"password must have {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters.",
            field="password",
        )
    password_hash = await security.hash_password(password)
    async with deps.begin() as uow:
        user = User(
            email=email, name=name, password_hash=password_hash, role=role, created_at=uow.now
        )
        claim = insert(User).values(**user.model_dump()).on_conflict_do_nothing()
        if (await uow.session.execute(claim.returning(col(User.id)))).first() is None:
            raise AlreadyExists("This email is already registered.", field="email")
        uow.publish(UserRegistered(user_id=user.id, role=role.value))
        return UserView.model_validate(user)


def _checked_name(name: str) -> str:
    name = " ".join(visible(name).split())
    if not 1 <= len(name) <= 200 or any(ord(c) < 32 for c in name):
        raise InvalidInput("name must have 1 to 200 printable characters.", field="name")
    return name


async def login(deps: Deps, *, email: str, password: str) -> Tokens:
    """Exchange email and password for tokens.

    Raises:
        Unauthenticated: Wrong email or password, or a disabled sign-in; which one is not said.
    """
    async with deps.begin() as uow:
        query = select(User).where(User.email == email.strip().lower())
        user = (await uow.session.exec(query)).first()
    matches = await security.verify_password(
        password[:PASSWORD_CHARS_MAX], user.password_hash if user else None
    )
    if user is None or not matches or not user.is_active:
        raise Unauthenticated("The email or the password is wrong.")
    async with deps.begin() as uow:
        return _issue(uow, user, family_id=new_id())


def _issue(uow: UnitOfWork, user: User, *, family_id: UUID) -> Tokens:
    secret = security.new_secret()
    uow.session.add(
        RefreshToken(
            family_id=family_id,
            user_id=user.id,
            token_sha256=security.sha256(secret),
            issued_at=uow.now,
            expires_at=uow.now + timedelta(seconds=uow.settings.refresh_token_ttl_s),
        )
    )
    return Tokens(
        access_token=security.issue_access(uow.settings, user.id, user.role, uow.now),
        refresh_token=secret,
        expires_in=uow.settings.access_token_ttl_s,
    )


@dataclass(frozen=True, slots=True)
class _Refused:
    """Kept apart from the exception so that a revocation commits before we say no."""


async def refresh(deps: Deps, *, refresh_token: str) -> Tokens:
    """Exchange a refresh token for new tokens; each works once.

    A second use means that two parties hold it, so the whole family is revoked.

    Raises:
        Unauthenticated: Unknown, used, revoked or expired.
    """
    async with deps.begin() as uow:
        outcome = await _rotate(uow, security.sha256(refresh_token))
    if isinstance(outcome, _Refused):
        raise Unauthenticated("The refresh token is not valid; sign in again.")
    return outcome


async def _rotate(uow: UnitOfWork, digest: str) -> Tokens | _Refused:
    query = select(RefreshToken).where(RefreshToken.token_sha256 == digest).with_for_update()
    token = (await uow.session.exec(query)).first()
    if token is None or token.revoked_at is not None or token.expires_at <= uow.now:
        return _Refused()
    if token.rotated_at is not None:
        await _revoke_family(uow, token.family_id)
        uow.publish(RefreshTokenReused(user_id=token.user_id, family_id=token.family_id))
        return _Refused()
    user = await uow.session.get_one(User, token.user_id)
    if not user.is_active:
        return _Refused()
    token.rotated_at = uow.now
    return _issue(uow, user, family_id=token.family_id)


async def logout(deps: Deps, *, refresh_token: str) -> None:
    """Revoke the token's whole family. An unknown token is no error: the result is the same."""
    async with deps.begin() as uow:
        digest = security.sha256(refresh_token)
        query = select(RefreshToken.family_id).where(RefreshToken.token_sha256 == digest)
        family_id = (await uow.session.exec(query)).first()
        if family_id is not None:
            await _revoke_family(uow, family_id)


async def _revoke_family(uow: UnitOfWork, family_id: UUID) -> None:
    await uow.session.execute(
        update(RefreshToken)
        .where(col(RefreshToken.family_id) == family_id, col(RefreshToken.revoked_at).is_(None))
        .values(revoked_at=uow.now)
    )


async def access(uow: UnitOfWork) -> User:
    """Load the signed-in user.

    Raises:
        Unauthenticated: A guest is asking.
    """
    user = await uow.session.get(User, uow.actor.user_id) if uow.actor.user_id else None
    if user is None or not user.is_active:
        raise Unauthenticated("Sign in first.")
    return user


@operation(
    scope="profile:read",
    risk=Risk.READ,
    idempotent=True,
    examples=("who am i", "what is my email", "show my profile", "which account is this"),
)
async def me(uow: UnitOfWork) -> UserView:
    """Show the signed-in person's profile.

    Raises:
        Unauthenticated: A guest is asking.
    """
    return UserView.model_validate(await access(uow))


async def named(uow: UnitOfWork, name: str) -> dict[str, Any]:
    """Return what `rename` takes to bring back the name as it is now."""
    return {"name": (await access(uow)).name}


@operation(
    scope="profile:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="user.rename",
    restore=named,
    examples=("change my name to {name}", "my name is now {name}", "call me {name}"),
)
async def rename(uow: UnitOfWork, name: str) -> UserView:
    """Change the signed-in person's name.

    Args:
        name: The new name, 1 to 200 characters.

    Raises:
        Unauthenticated: A guest is asking.
        InvalidInput: The name is empty or too long.
    """
    user = await access(uow)
    user.name = _checked_name(name)
    return UserView.model_validate(user)


class UserSort(StrEnum):
    NEWEST = "newest"
    OLDEST = "oldest"
    NAME = "name"
    EMAIL = "email"


SORTS: Mapping[UserSort, Ordering] = {
    UserSort.NEWEST: Ordering((StaffUser.id,)),
    UserSort.OLDEST: Ordering((StaffUser.id,), is_descending=False),
    UserSort.NAME: Ordering((StaffUser.name, StaffUser.id), is_descending=False),
    UserSort.EMAIL: Ordering((StaffUser.email,), is_descending=False),
}


@operation(
    scope="user:read_all",
    risk=Risk.READ,
    idempotent=True,
    examples=("list the customers", "find the customer {query}", "who registered with {query}"),
)
async def find(
    uow: UnitOfWork,
    query: str | None = None,
    kind: Role | None = None,
    sort: UserSort = UserSort.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[UserView]:
    """List people who have a sign-in.

    Args:
        query: Part of the name or email.
        kind: Only people who are customer, merchant, admin or system.
        sort: newest, oldest, name or email.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before, with the same sort.
    """
    search = select(StaffUser)
    if query:
        search = search.where(
            col(StaffUser.name).icontains(query, autoescape=True)
            | col(StaffUser.email).icontains(query, autoescape=True)
        )
    if kind is not None:
        search = search.where(StaffUser.role == kind)
    return await read_page(uow, search, SORTS[sort], UserView.model_validate, limit, cursor)


async def set_role(uow: UnitOfWork, *, email: str, role: Role) -> None:
    """Give a sign-in another role; used by the CLI and the demo, never by an agent.

    Raises:
        NotFound: No such email.
    """
    change = update(User).where(col(User.email) == normalize_email(email)).values(role=role)
    if (await uow.session.execute(change.returning(col(User.id)))).first() is None:
        raise NotFound("Nobody has registered with this address.", field="email")
