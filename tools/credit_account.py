"""Credit accounts: who may see and spend one, and the one way its balance changes.

A balance changes by movements only (`credit_movement`; a trigger keeps the account), each under a
unique key, and whoever adds one books what we owe for it.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import or_, text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from db.models.credit import CreditAccount, CreditKind, CreditMovement
from db.models.payment import Account
from db.types import UserId
from deps.core import UnitOfWork
from tools.errors import NotFound

REFUND_LIFE: Final = timedelta(days=90)
LIABILITY: Final = {
    CreditKind.GIFT_CARD: Account.GIFT_CARD_LIABILITY,
    CreditKind.STORE_CREDIT: Account.STORE_CREDIT_LIABILITY,
}


def is_usable(row: CreditAccount, now: datetime) -> bool:
    return row.is_active and (row.expires_at is None or row.expires_at > now)


async def access(uow: UnitOfWork, account_id: UUID, *, lock: bool = False) -> CreditAccount:
    """Load an account on the actor's behalf: one's own, or any for staff.

    Raises:
        NotFound: No such account, or someone else's. The two must be indistinguishable.
    """
    row = await uow.session.get(
        CreditAccount, account_id, with_for_update=True if lock else None, populate_existing=True
    )
    is_own = row is not None and row.customer_id is not None
    is_own = is_own and row is not None and row.customer_id == uow.actor.user_id
    if row is None or not (is_own or uow.actor.may("payment:read")):
        raise NotFound("No such credit.")
    return row


async def locked(uow: UnitOfWork, account_id: UUID) -> CreditAccount:
    return await uow.session.get_one(
        CreditAccount, account_id, with_for_update=True, populate_existing=True
    )


async def add(
    uow: UnitOfWork,
    account_id: UUID,
    amount: int,
    *,
    key: str,
    reason: str,
    reference_id: UUID | None = None,
) -> Account:
    """Add to a balance, once per key; return the liability account the caller posts it to."""
    row = await uow.session.get_one(CreditAccount, account_id)
    movement = CreditMovement(
        account_id=account_id,
        balance_delta=amount,
        key=key,
        reason=reason[:500],
        reference_id=reference_id,
        actor_id=uow.actor.user_id,
        occurred_at=uow.now,
    )
    await uow.session.execute(insert(CreditMovement).values(**movement.model_dump(exclude={"id"})))
    return LIABILITY[row.kind]


async def store_account(uow: UnitOfWork, customer_id: UserId, currency: str) -> CreditAccount:
    """Return the customer's store credit account, opening it if there is none."""
    # Two refunds at once must not open two.
    await uow.session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:owner, 5))"),
        {"owner": f"{customer_id}:{currency}"},
    )
    query = select(CreditAccount).where(
        CreditAccount.customer_id == customer_id,
        CreditAccount.kind == CreditKind.STORE_CREDIT,
        CreditAccount.currency == currency,
    )
    found = (await uow.session.exec(query)).first()
    if found is None:
        found = CreditAccount(
            kind=CreditKind.STORE_CREDIT,
            customer_id=customer_id,
            currency=currency,
            created_at=uow.now,
        )
        uow.session.add(found)
        await uow.session.flush()
    return found


async def prolong(uow: UnitOfWork, account_id: UUID) -> None:
    """Let an account that is to be refunded live long enough for the money to be spent."""
    row = await uow.session.get_one(CreditAccount, account_id)
    until = uow.now + REFUND_LIFE
    if row.expires_at is not None and row.expires_at < until:
        row.expires_at = until


async def usable_of(uow: UnitOfWork) -> list[CreditAccount]:
    """Return the actor's own accounts that can be spent, those that lapse first first."""
    if uow.actor.user_id is None:
        return []
    query = (
        select(CreditAccount)
        .where(
            CreditAccount.customer_id == uow.actor.user_id,
            CreditAccount.currency == uow.settings.currency,
            col(CreditAccount.is_active),
            or_(col(CreditAccount.expires_at).is_(None), col(CreditAccount.expires_at) > uow.now),
        )
        .order_by(col(CreditAccount.expires_at).nulls_last(), col(CreditAccount.id))
        .execution_options(populate_existing=True)
    )
    return list(await uow.session.exec(query))
