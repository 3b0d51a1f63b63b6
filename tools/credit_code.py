"""Codes of gift cards. A code is worth its card's balance to whoever holds it, so it is never
stored: it is made when staff ask to see it, shown in that one answer, and kept as its digest and
last four characters. Codes have 100 random bits, lookups are limited per caller, and a code that
does not exist cannot be told from one that may not be used.
"""

import secrets
from datetime import timedelta
from typing import Final
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import text
from sqlmodel import col, select

from db.models.credit import CreditAccount, CreditKind
from deps import security
from deps.core import Deps, UnitOfWork
from tools import credit_account
from tools.errors import Conflict, NotFound, TooManyRequests

# Crockford's base 32: no letter that looks like another. https://www.crockford.com/base32.html
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CODE_CHARS: Final = 20
LOOKUPS_MAX: Final = 20
LOOKUP_WINDOW: Final = timedelta(minutes=10)
UNUSABLE: Final = "No such gift card, or it cannot be used."


class CodeView(BaseModel):
    """A code, shown this once."""

    account_id: UUID
    code: str
    last4: str


async def reveal(uow: UnitOfWork, account_id: UUID) -> CodeView:
    """Make a gift card's code and show it: the only time, for only its digest is kept.

    Not an operation: a code must not pass through a model, a transcript or a stored answer.

    Raises:
        NotFound: No such gift card.
        Conflict: The code was shown before. Deactivate the card and issue another.
    """
    row = await credit_account.access(uow, account_id, lock=True)
    if row.kind is not CreditKind.GIFT_CARD:
        raise NotFound("No such credit.")
    if row.code_sha256 is not None:
        raise Conflict("The code was shown before and cannot be shown again.", current="revealed")
    if row.customer_id is not None:
        raise Conflict("The card belongs to an account and needs no code.", current="redeemed")
    code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_CHARS))
    row.code_sha256, row.code_last4 = security.sha256(code), code[-4:]
    shown = "-".join(code[at : at + 4] for at in range(0, CODE_CHARS, 4))
    return CodeView(account_id=row.id, code=shown, last4=row.code_last4)


def normal_code(code: str) -> str:
    """Return a code as it is hashed: what a person might misread or type around it is put right."""
    plain = "".join(code.upper().split()).replace("-", "")
    return plain.translate(str.maketrans("OIL", "011"))


async def count_lookup(deps: Deps, codes: int = 1) -> None:
    """Count tries of codes, in a transaction of its own, so that a failed try counts too.

    Raises:
        TooManyRequests: The caller tries codes too often.
    """
    actor = deps.actor
    caller = str(actor.user_id or actor.guest_secret_sha256 or "nobody")[:100]
    async with deps.begin() as uow:
        tries = await uow.session.scalar(
            text("""
                INSERT INTO credit_lookup AS l (caller, window_start, count)
                VALUES (:caller, :now, :codes)
                ON CONFLICT (caller) DO UPDATE SET
                    count = CASE WHEN l.window_start > :since THEN l.count + :codes ELSE :codes END,
                    window_start = CASE WHEN l.window_start > :since THEN l.window_start
                                        ELSE :now END
                RETURNING count
            """),
            {
                "caller": caller,
                "codes": codes,
                "now": uow.now,
                "since": uow.now - LOOKUP_WINDOW,
            },
        )
    if (tries or 0) > LOOKUPS_MAX:
        raise TooManyRequests("Too many codes were tried; wait a few minutes.")


async def own(uow: UnitOfWork, code: str) -> CreditAccount | None:
    """Find the gift card of a code in the actor's own account, if it is there."""
    query = select(CreditAccount).where(
        CreditAccount.code_sha256 == security.sha256(normal_code(code)),
        CreditAccount.customer_id == uow.actor.user_id,
        col(CreditAccount.customer_id).is_not(None),
    )
    return (await uow.session.exec(query)).first()


async def by_code(uow: UnitOfWork, code: str) -> CreditAccount:
    """Find the gift card of a code the actor may spend. Call `count_lookup` first.

    Raises:
        NotFound: No such code, or lapsed, switched off, or in another person's account.
    """
    query = select(CreditAccount).where(
        CreditAccount.code_sha256 == security.sha256(normal_code(code))
    )
    row = (await uow.session.exec(query)).first()
    if (
        row is None
        or not credit_account.is_usable(row, uow.now)
        or (row.customer_id is not None and row.customer_id != uow.actor.user_id)
    ):
        raise NotFound(UNUSABLE, field="code")
    return row
