"""Gift cards and store credit, as those see them who spend them. What was issued is owed until it
is spent or lapses: the ledger books the liability with every issue and expiry in
`tools.credit_desk`, with every purchase in `tools.payment`, with every refund in
`tools.refund_process`.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlmodel import col, select

from db.models.credit import CreditAccount, CreditKind, CreditMovement
from db.models.payment import StoredMethod
from db.types import UserId
from deps.core import Deps, UnitOfWork
from tools import credit_account, credit_code
from tools.errors import Conflict, InvalidInput, NotFound
from tools.events import CreditRedeemed
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import FromResult, Risk, operation
from tools.reversal import CreditHandedBack


class CreditView(BaseModel):
    """A gift card or store credit. Amounts are minor units of `currency`."""

    id: UUID
    kind: CreditKind
    last4: str = Field(description="Of the code; empty when there is none.")
    currency: str
    balance_amount: int
    available_amount: int = Field(description="Not held by a purchase under way.")
    expires_at: datetime | None
    is_active: bool
    has_code: bool
    created_at: datetime


class CreditBalance(BaseModel):
    """All a person can spend, and where it is."""

    currency: str
    available_amount: int
    accounts: list[CreditView]


class CreditMovementView(BaseModel):
    account_id: UUID
    balance_delta: int = Field(description="Minor units; positive is more to spend.")
    held_delta: int
    currency: str
    reason: str
    occurred_at: datetime


def view(row: CreditAccount) -> CreditView:
    return CreditView(
        id=row.id,
        kind=row.kind,
        last4=row.code_last4,
        currency=row.currency,
        balance_amount=row.balance_amount,
        available_amount=row.balance_amount - row.held_amount,
        expires_at=row.expires_at,
        is_active=row.is_active,
        has_code=row.code_sha256 is not None,
        created_at=row.created_at,
    )


async def unclaimed(uow: UnitOfWork, code: str) -> dict[str, Any] | None:
    """Return what hands a gift card back once it is redeemed, unless it is the person's already.

    It says nothing of a code that is not theirs: guesses are counted where the card is redeemed.
    """
    own = await credit_code.own(uow, code)
    return {"account_id": FromResult("id")} if own is None else None


@operation(
    scope="credit:use",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="credit.hand_back",
    restore=unclaimed,
    examples=(
        "redeem gift card {code}",
        "put gift card {code} into my account",
        "i have a gift card with the code {code}",
        "add the voucher {code} to my account",
    ),
)
async def redeem(deps: Deps, code: str) -> CreditView:
    """Put a gift card into the person's account: it is theirs alone from then on.

    Args:
        code: As printed on the card.

    Raises:
        NotFound: No such code, or it cannot be used.
        InvalidInput: Nobody is signed in.
        TooManyRequests: Too many codes were tried.
    """
    customer_id = deps.actor.user_id
    if customer_id is None:
        raise InvalidInput("Sign in to redeem a gift card.", field="code")
    await credit_code.count_lookup(deps)
    async with deps.begin() as uow:
        row = await credit_account.locked(uow, (await credit_code.by_code(uow, code)).id)
        if row.customer_id not in (None, customer_id):
            raise NotFound(credit_code.UNUSABLE, field="code")
        if row.customer_id is None:
            row.customer_id = UserId(customer_id)
            uow.publish(CreditRedeemed(credit_account_id=row.id, customer_id=UserId(customer_id)))
        await uow.session.flush()
        return view(row)


async def preview_hand_back(uow: UnitOfWork, account_id: UUID) -> CreditView:
    """Show the gift card that `hand_back` would give out of one's hands.

    Raises: As `hand_back`.
    """
    return view(await _returnable(uow, account_id))


@operation(
    scope="credit:use",
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_hand_back,
    examples=(
        "hand back gift card {account_id}",
        "take gift card {account_id} out of my account",
        "i redeemed gift card {account_id} by mistake, it is for somebody else",
        "gift card {account_id} shall be nobody's again",
    ),
)
async def hand_back(uow: UnitOfWork, account_id: UUID) -> CreditView:
    """Take a gift card out of the person's account: it is for whoever knows its code again.

    Only whoever has the code can redeem it anew; we do not know it.

    Args:
        account_id: The gift card, from `credit.balance`.

    Raises:
        NotFound: No such gift card in one's account.
        Conflict: It has no code, has been used, or is among one's payment methods.
    """
    row = await _returnable(uow, account_id)
    assert row.customer_id is not None
    uow.publish(CreditHandedBack(credit_account_id=row.id, customer_id=row.customer_id))
    row.customer_id = None
    await uow.session.flush()
    return view(row)


async def _returnable(uow: UnitOfWork, account_id: UUID) -> CreditAccount:
    row = await credit_account.access(uow, account_id, lock=True)
    if row.customer_id is None or row.customer_id != uow.actor.user_id:
        raise NotFound("No such credit.")
    if row.code_sha256 is None:
        raise Conflict("It has no code: nobody could use it any more.")
    moved = select(CreditMovement.id).where(
        CreditMovement.account_id == row.id, col(CreditMovement.key).not_like("issue:%")
    )
    if (await uow.session.exec(moved.limit(1))).first() is not None:
        raise Conflict("It has been used already.")
    # Whoever kept it on file could go on paying with it, and get refunds to it.
    kept = select(StoredMethod.id).where(StoredMethod.credit_account_id == row.id)
    if (await uow.session.exec(kept.limit(1))).first() is not None:
        raise Conflict("It is among your payment methods; remove it there first.")
    return row


@operation(
    scope="credit:use",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "how much store credit do i have",
        "show my gift cards",
        "what is my credit balance",
        "do i have any credit left",
    ),
)
async def balance(uow: UnitOfWork) -> CreditBalance:
    """Show the person's gift cards and store credit, and what they can spend in all."""
    rows = await credit_account.usable_of(uow)
    return CreditBalance(
        currency=uow.settings.currency,
        available_amount=sum(row.balance_amount - row.held_amount for row in rows),
        accounts=[view(row) for row in rows],
    )


@operation(
    scope="credit:use",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the history of my store credit",
        "what did i spend my gift card on",
        "where did my credit come from",
        "list the movements of my credit",
    ),
)
async def history(
    uow: UnitOfWork,
    account_id: UUID | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[CreditMovementView]:
    """List what changed the person's credit; staff may name any account.

    Args:
        account_id: One gift card or store credit; leave out for all one's own.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        NotFound: No such account, or someone else's.
    """
    query = select(CreditMovement, CreditAccount.currency).join(
        CreditAccount, col(CreditAccount.id) == CreditMovement.account_id
    )
    if account_id is not None:
        query = query.where(
            CreditMovement.account_id == (await credit_account.access(uow, account_id)).id
        )
    else:
        query = query.where(
            col(CreditAccount.customer_id).is_not(None),
            CreditAccount.customer_id == uow.actor.user_id,
        )
    return await read_page(
        uow,
        query,
        by_id(CreditMovement.id, sort),
        lambda row: CreditMovementView(**row[0].model_dump(), currency=row[1]),
        limit,
        cursor,
    )
