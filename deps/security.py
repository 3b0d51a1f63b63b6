"""Passwords, access tokens and opaque secrets."""

import asyncio
import hashlib
import secrets
from datetime import datetime, timedelta
from uuid import UUID

import jwt
from pwdlib import PasswordHash

from db.models.user import Role
from db.types import UserId, new_id
from deps.core import ROLE_SCOPES, Actor
from deps.settings import Settings

ALGORITHM = "HS256"
ISSUER = "shopkeeper"
SECRET_BYTES = 32
# Argon2 takes 64 MiB and a third of a second of CPU each: more at once would starve the server.
_slots = asyncio.Semaphore(2)
_hasher = PasswordHash.recommended()
# Verified when the email is unknown, so that an answer takes as long as for a wrong password.
_DUMMY_HASH = _hasher.hash("no such user")


class InvalidToken(Exception):
    """The token is malformed, expired, or not ours."""


async def hash_password(password: str) -> str:
    async with _slots:
        return await asyncio.to_thread(_hasher.hash, password)


async def verify_password(password: str, password_hash: str | None) -> bool:
    """Compare in a thread, at the same cost whether or not there is a hash to compare with."""
    async with _slots:
        matches = await asyncio.to_thread(_hasher.verify, password, password_hash or _DUMMY_HASH)
    return matches and password_hash is not None


def new_secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


def sha256(secret: str) -> str:
    """Return the digest under which a high-entropy secret is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issue_access(settings: Settings, user_id: UserId, role: Role, now: datetime) -> str:
    claims = {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": str(user_id),
        "role": role.value,
        "iat": now,
        "exp": now + timedelta(seconds=settings.access_token_ttl_s),
        "jti": str(new_id()),
    }
    return jwt.encode(claims, settings.secret.get_secret_value(), algorithm=ALGORITHM)


def read_access(
    settings: Settings, token: str, now: datetime, *, guest_secret_sha256: str | None = None
) -> Actor:
    """Return who the token speaks for.

    Raises:
        InvalidToken: Bad signature, wrong issuer, or past its expiry at `now`.
    """
    try:
        claims = jwt.decode(
            token,
            settings.secret.get_secret_value(),
            algorithms=[ALGORITHM],
            audience=ISSUER,
            issuer=ISSUER,
            # The injected clock decides, not the library's own.
            options={"require": ["exp", "sub", "role"], "verify_exp": False, "verify_iat": False},
        )
        role = Role(claims["role"])
        user_id = UserId(UUID(claims["sub"]))
        expires_at = int(claims["exp"])
    except (jwt.InvalidTokenError, ValueError, TypeError) as error:
        raise InvalidToken(str(error)) from error
    if now.timestamp() >= expires_at:
        raise InvalidToken("The token has expired.")
    return Actor(
        role=role,
        user_id=user_id,
        scopes=ROLE_SCOPES[role],
        guest_secret_sha256=guest_secret_sha256,
    )
