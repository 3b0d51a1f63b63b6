"""Idempotency keys: claim, finish, abandon, and the fence that makes a repeat safe after a crash.

A request's effect and its key's answer commit apart, so a crash can fall between them. Then the
claim expires and a repeat runs the operation again, which is right for operations that are
idempotent themselves: completing a cart makes one order whatever races, cancelling a cancelled
order changes nothing, setting a value sets it again. An operation that is not, one that adds or
subtracts, calls `settle` inside its own transaction: the effect then commits together with the
fact that the key is spent, or neither does.

Claim and finish are one statement each and do not wait for the disk. The log keeps its order, so a
claim is on disk no later than the effect that follows it. A finish that a crash of the server loses
is the crash between effect and answer, which is provided for above.
"""

import hashlib
import secrets
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import orjson

from deps.core import Deps, UnitOfWork, Work
from deps.hot import WITHOUT_WAITING
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
# without an answer. Anything else leaves the row alone and reads what it says; a row committed
# since this statement began is not visible to it, and then nothing comes back.
_CLAIM: Final = f"""
    WITH taken AS (
        INSERT INTO idempotency_key AS k
               (scope, key, request_sha256, claim, locked_until, created_at)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (scope, key) DO UPDATE
           SET request_sha256 = excluded.request_sha256, claim = excluded.claim,
               locked_until = excluded.locked_until, created_at = excluded.created_at,
               status_code = NULL, body = NULL, content_type = NULL
         WHERE k.created_at < $7
            OR (k.status_code IS NULL AND k.locked_until < $6
                AND k.request_sha256 = excluded.request_sha256)
        RETURNING {WITHOUT_WAITING}
    )
    SELECT true AS is_ours, NULL AS request_sha256, NULL AS is_locked, NULL AS status_code,
           NULL AS body, NULL AS content_type FROM taken
    UNION ALL
    SELECT false, request_sha256, locked_until > $6, status_code, body, content_type
      FROM idempotency_key
     WHERE scope = $1 AND key = $2 AND NOT EXISTS (SELECT FROM taken)
"""
_FINISH: Final = f"""
    UPDATE idempotency_key
       SET status_code = $4, body = $5, content_type = $6, locked_until = NULL
     WHERE scope = $1 AND key = $2 AND claim = $3
    RETURNING {WITHOUT_WAITING}
"""
_ABANDON: Final = """
    DELETE FROM idempotency_key
     WHERE scope = $1 AND key = $2 AND claim = $3 AND status_code IS NULL
"""
_SETTLE: Final = """
    UPDATE idempotency_key SET status_code = $4
     WHERE scope = $1 AND key = $2 AND claim = $3 RETURNING true
"""
_PURGE: Final = """
    DELETE FROM idempotency_key WHERE (scope, key) IN
       (SELECT scope, key FROM idempotency_key WHERE created_at < $1 LIMIT $2)
"""


def fingerprint(method: str, path: str, query: str, body: bytes) -> str:
    """Digest what a request asks for. JSON that differs in key order or spacing is the same."""
    # Not JSON, or nested deeper than it writes: the bytes are what they are.
    with suppress(orjson.JSONDecodeError, orjson.JSONEncodeError):
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
    now, token = deps.clock(), secrets.token_hex(16)
    row = await deps.hot.fetchrow(
        _CLAIM,
        scope,
        key,
        request_sha256,
        token,
        now + timedelta(seconds=lock_s),
        now,
        now - timedelta(hours=RETENTION_H),
    )
    if row is not None and row["is_ours"]:
        return Claim(scope=scope, key=key, token=token)
    if row is not None and row["request_sha256"] != request_sha256:
        raise IdempotencyMismatch("This Idempotency-Key was used for a different request.")
    if row is None or row["status_code"] is None or row["is_locked"]:
        raise IdempotencyInFlight("A request with this Idempotency-Key is still being handled.")
    return StoredAnswer(row["status_code"], row["body"] or b"", row["content_type"])


async def finish(
    deps: Deps, held: Claim, *, status_code: int, body: bytes, content_type: str | None
) -> None:
    """Store the answer for replays. Does nothing when another request took the claim over."""
    await deps.hot.fetchval(
        _FINISH, held.scope, held.key, held.token, status_code, body, content_type
    )


async def abandon(deps: Deps, held: Claim) -> None:
    """Free the key for another try, unless its effect was settled already."""
    await deps.hot.execute(_ABANDON, held.scope, held.key, held.token)


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
    if not await work.fetchval(_SETTLE, held.scope, held.key, held.token, _NO_CONTENT):
        raise IdempotencyInFlight("Another request with this Idempotency-Key took over.")


async def purge(deps: Deps) -> int:
    """Delete keys past their retention, a batch at a time. Return how many went."""
    purged = 0
    while True:
        before = deps.clock() - timedelta(hours=RETENTION_H)
        deleted = await deps.hot.execute(_PURGE, before, PURGE_BATCH)
        purged += deleted
        if deleted < PURGE_BATCH:
            return purged
