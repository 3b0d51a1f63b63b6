"""Idempotency keys: claim, finish, abandon, and the fence that makes a repeat safe after a crash.

A request's effect and its key's answer commit apart, so a crash can fall between them. Then the
claim expires and a repeat runs the operation again, which is right for operations that are
idempotent themselves: completing a cart makes one order whatever races, cancelling a cancelled
order changes nothing, setting a value sets it again. An operation that is not, one that adds or
subtracts, calls `settle` inside its own transaction: the effect then commits together with the
fact that the key is spent, or neither does.
"""

import hashlib
import secrets
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import orjson
from sqlalchemy import CursorResult, text

from deps.core import Deps, UnitOfWork, Work
from tools.errors import IdempotencyInFlight, IdempotencyMismatch

LOCK_S: Final = 60.0
RETENTION_H: Final = 48
KEY_LENGTH_MAX: Final = 200
BODY_BYTES_MAX: Final = 1_048_576
PURGE_BATCH: Final = 5_000

_NO_CONTENT: Final = 204


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to act under a key. `token` tells this claim from one that took it over."""

    scope: str
    key: str
    token: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    status_code: int
    body: bytes
    content_type: str | None


current_claim: ContextVar[Claim | None] = ContextVar("current_claim", default=None)

# Taken when the row is new, when it outlived retention, or when its holder let the lock expire
# without an answer. Anything else leaves the row alone and returns nothing.
_CLAIM = text("""
    INSERT INTO idempotency_key AS k
           (scope, key, request_sha256, claim, locked_until, created_at)
    VALUES (:scope, :key, :request_sha256, :claim, :locked_until, :now)
    ON CONFLICT (scope, key) DO UPDATE
       SET request_sha256 = excluded.request_sha256, claim = excluded.claim,
           locked_until = excluded.locked_until, created_at = excluded.created_at,
           status_code = NULL, body = NULL, content_type = NULL
     WHERE k.created_at < :expired_before
        OR (k.status_code IS NULL AND k.locked_until < :now
            AND k.request_sha256 = excluded.request_sha256)
    RETURNING claim
""")
_READ = text("""
    SELECT request_sha256, locked_until > :now AS is_locked, status_code, body, content_type
      FROM idempotency_key WHERE scope = :scope AND key = :key
""")
_FINISH = text("""
    UPDATE idempotency_key
       SET status_code = :status_code, body = :body, content_type = :content_type,
           locked_until = NULL
     WHERE scope = :scope AND key = :key AND claim = :claim
""")
_ABANDON = text("""
    DELETE FROM idempotency_key
     WHERE scope = :scope AND key = :key AND claim = :claim AND status_code IS NULL
""")
_SETTLE = text("""
    UPDATE idempotency_key SET status_code = :status_code
     WHERE scope = :scope AND key = :key AND claim = :claim
""")
_PURGE = text("""
    DELETE FROM idempotency_key WHERE (scope, key) IN
       (SELECT scope, key FROM idempotency_key WHERE created_at < :before LIMIT :batch)
""")


def fingerprint(method: str, path: str, query: str, body: bytes) -> str:
    """Digest what a request asks for. JSON that differs in key order or spacing is the same."""
    with suppress(orjson.JSONDecodeError):  # Not JSON: the bytes are what they are.
        body = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    parts = (method.encode(), path.encode(), query.encode(), body)
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()


async def claim(
    deps: Deps, *, scope: str, key: str, request_sha256: str, lock_s: float = LOCK_S
) -> Claim | StoredAnswer:
    """Take the key for this request, or return the answer it already has.

    Of any number of callers at once, one gets a `Claim`; it must `finish` or `abandon` it.

    Args:
        scope: The caller, so that one caller's key never replays another's answer.
        request_sha256: From `fingerprint`.
        lock_s: How long until another may take over. Longer than any request may run.

    Raises:
        IdempotencyInFlight: The first request under this key has no answer yet.
        IdempotencyMismatch: The key was used for another request.
    """
    ours = Claim(scope=scope, key=key, token=secrets.token_hex(16))
    async with deps.begin() as uow:
        values: dict[str, Any] = {
            "scope": scope,
            "key": key,
            "request_sha256": request_sha256,
            "claim": ours.token,
            "locked_until": uow.now + timedelta(seconds=lock_s),
            "now": uow.now,
            "expired_before": uow.now - timedelta(hours=RETENTION_H),
        }
        connection = await uow.session.connection()
        if (await connection.execute(_CLAIM, values)).first() is not None:
            return ours
        row = (
            await connection.execute(_READ, {"scope": scope, "key": key, "now": uow.now})
        ).first()
    if row is None:
        # Its holder abandoned it between our two statements. Asking the caller to come back
        # is simpler than a loop, and as right.
        raise IdempotencyInFlight("The first request with this key just failed; send it again.")
    if row.request_sha256 != request_sha256:
        raise IdempotencyMismatch("This Idempotency-Key was used for a different request.")
    if row.status_code is None or row.is_locked:
        raise IdempotencyInFlight("A request with this Idempotency-Key is still being handled.")
    return StoredAnswer(row.status_code, row.body or b"", row.content_type)


async def finish(
    deps: Deps, held: Claim, *, status_code: int, body: bytes, content_type: str | None
) -> None:
    """Store the answer for replays. Does nothing when another request took the claim over."""
    async with deps.begin() as uow:
        connection = await uow.session.connection()
        await connection.execute(
            _FINISH,
            {
                "scope": held.scope,
                "key": held.key,
                "claim": held.token,
                "status_code": status_code,
                "body": body,
                "content_type": content_type,
            },
        )


async def abandon(deps: Deps, held: Claim) -> None:
    """Free the key for another try, unless its effect was settled already."""
    async with deps.begin() as uow:
        connection = await uow.session.connection()
        await connection.execute(
            _ABANDON, {"scope": held.scope, "key": held.key, "claim": held.token}
        )


async def settle(work: Work) -> None:
    """Spend the current request's key in this transaction, with the effect; no key, no effect here.

    If the answer is then lost, replays get 204: done, and what was said is not known any more.

    Raises:
        IdempotencyInFlight: Another request took the claim over; the caller's transaction must
            roll back, and does, by this exception passing through it.
    """
    held = current_claim.get()
    if held is None:
        return
    assert isinstance(work, UnitOfWork), "an operation that adds needs a transaction to settle in"
    connection = await work.session.connection()
    result: CursorResult[Any] = await connection.execute(
        _SETTLE,
        {
            "scope": held.scope,
            "key": held.key,
            "claim": held.token,
            "status_code": _NO_CONTENT,
        },
    )
    if result.rowcount == 0:
        raise IdempotencyInFlight("Another request with this Idempotency-Key took over.")


async def purge(deps: Deps) -> int:
    """Delete keys past their retention, a batch at a time. Return how many went."""
    purged = 0
    while True:
        async with deps.begin() as uow:
            connection = await uow.session.connection()
            result: CursorResult[Any] = await connection.execute(
                _PURGE,
                {"before": uow.now - timedelta(hours=RETENTION_H), "batch": PURGE_BATCH},
            )
        purged += result.rowcount
        if result.rowcount < PURGE_BATCH:
            return purged
