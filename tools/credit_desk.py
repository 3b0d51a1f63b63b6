"""Gift cards and store credit, as staff hand them out: issue, grant, switch off and on, list. The
ledger books the liability with every issue and expiry made here.
"""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import func
from sqlmodel import col, select

from db.models.credit import CreditAccount, CreditKind, CreditMovement
from db.models.payment import Account
from db.models.user import User
from db.types import UserId, new_id
from deps.core import Deps, UnitOfWork
from tools import credit_account, credit_code, idempotency, payment, remark
from tools.credit import CreditView, view
from tools.errors import InvalidInput, NotFound
from tools.events import CreditActivitySet, CreditExpired, CreditIssued
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import FromResult, Risk, operation
from tools.user import normalize_email

AMOUNT_MAX: Final = 10_000_000
LIFE_DAYS_MAX: Final = 3650
EXPIRE_BATCH: Final = 100


class IssuePreview(BaseModel):
    """What issuing would do. An approval binds `account_id`, so that repeating it issues once."""

    account_id: UUID
    amount: int
    refund_amount: int = Field(description="The same, by the name that limits on agents count.")
    currency: str
    expires_at: datetime | None


class GrantPreview(BaseModel):
    """What granting would do. An approval binds `grant_id`, so that repeating it grants once."""

    grant_id: UUID
    email: str
    amount: int
    refund_amount: int = Field(description="The same, by the name that limits on agents count.")
    currency: str


async def _issue(uow: UnitOfWork, row: CreditAccount, amount: int, reason: str, key: str) -> None:
    transaction_id = new_id()
    liability = await credit_account.add(
        uow, row.id, amount, key=key, reason=reason, reference_id=transaction_id
    )
    await payment.post(
        uow,
        transaction_id,
        None,
        row.currency,
        {Account.CREDIT_ISSUED: amount, liability: -amount},
    )
    uow.publish(
        CreditIssued(
            credit_account_id=row.id, kind=row.kind.value, amount=amount, currency=row.currency
        )
    )


def _checked_amount(amount: int) -> int:
    if not 1 <= amount <= AMOUNT_MAX:
        raise InvalidInput(f"amount must be 1 to {AMOUNT_MAX}, in minor units.", field="amount")
    return amount


def _expiry(uow: UnitOfWork, life_days: int | None) -> datetime | None:
    if life_days is None:
        return None
    if not 1 <= life_days <= LIFE_DAYS_MAX:
        raise InvalidInput(f"life_days must be 1 to {LIFE_DAYS_MAX}.", field="life_days")
    return uow.now + timedelta(days=life_days)


async def _customer(uow: UnitOfWork, email: str) -> User:
    query = select(User).where(User.email == normalize_email(email))
    person = (await uow.session.exec(query)).first()
    if person is None:
        raise NotFound("Nobody is registered with this address.", field="email")
    return person


async def preview_issue_gift_card(
    uow: UnitOfWork,
    amount: int,
    life_days: int | None = None,
    note: str = "",
    account_id: UUID | None = None,
) -> IssuePreview:
    """Say what issuing would do, without doing it.

    Raises:
        InvalidInput: The amount or the life is out of range.
    """
    return IssuePreview(
        account_id=account_id or new_id(),
        amount=_checked_amount(amount),
        refund_amount=amount,
        currency=uow.settings.currency,
        expires_at=_expiry(uow, life_days),
    )


async def unissued(
    uow: UnitOfWork, account_id: UUID | None = None, **_: Any
) -> dict[str, Any] | None:
    """Return what switches a gift card off once it is issued, if it is not yet."""
    if account_id is not None and await uow.session.get(CreditAccount, account_id) is not None:
        return None
    return {"account_id": FromResult("id")}


@operation(
    domain="credit",
    scope="payment:write",
    risk=Risk.MONEY,
    idempotent=True,
    inverse="credit.deactivate",
    restore=unissued,
    preview=preview_issue_gift_card,
    examples=(
        "issue a gift card over {amount}",
        "make a gift card of {amount}",
        "create a {amount} voucher",
        "we need a gift card worth {amount} for a raffle",
    ),
)
async def issue_gift_card(
    uow: UnitOfWork,
    amount: int,
    life_days: int | None = None,
    note: str = "",
    account_id: UUID | None = None,
) -> CreditView:
    """Issue a gift card. Its code is made and shown when staff reveal it over the API, once.

    Args:
        amount: What it is worth, in minor units of the shop's currency.
        life_days: How many days it can be used; leave out for ever.
        note: What it is for; kept in its history.
        account_id: Leave out: the card's id, bound when it is proposed, so that it is issued once.

    Raises:
        InvalidInput: The amount or the life is out of range.
    """
    # Issuing twice is not issuing once: the request's key is spent with the effect.
    await idempotency.settle(uow)
    row_id = account_id or new_id()
    known = await uow.session.get(CreditAccount, row_id)
    if known is not None:
        return view(known)
    row = CreditAccount(
        id=row_id,
        kind=CreditKind.GIFT_CARD,
        currency=uow.settings.currency,
        expires_at=_expiry(uow, life_days),
        created_at=uow.now,
    )
    uow.session.add(row)
    await uow.session.flush()
    await _issue(uow, row, _checked_amount(amount), note or "issued", key=f"issue:{row.id}")
    await uow.session.refresh(row)
    return view(row)


async def preview_grant(
    uow: UnitOfWork, email: str, amount: int, reason: str, grant_id: UUID | None = None
) -> GrantPreview:
    """Say what granting would do, without doing it.

    Raises:
        NotFound: Nobody is registered with this address.
        InvalidInput: The amount or reason breaks a rule.
    """
    person = await _customer(uow, email)
    remark.needed(reason)
    return GrantPreview(
        grant_id=grant_id or new_id(),
        email=person.email,
        amount=_checked_amount(amount),
        refund_amount=amount,
        currency=uow.settings.currency,
    )


@operation(
    domain="credit",
    scope="payment:write",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_grant,
    examples=(
        "give {email} {amount} store credit because {reason}",
        "credit {amount} to {email} for {reason}",
        "grant store credit of {amount} to {email}, {reason}",
        "compensate {email} with {amount} credit for {reason}",
    ),
)
async def grant(
    uow: UnitOfWork, email: str, amount: int, reason: str, grant_id: UUID | None = None
) -> CreditView:
    """Give a customer store credit.

    Args:
        email: Of the customer's sign-in.
        amount: Minor units of the shop's currency.
        reason: Why, for the history.
        grant_id: Leave out: bound when it is proposed, so that it is granted once.

    Raises:
        NotFound: Nobody is registered with this address.
        InvalidInput: The amount or reason breaks a rule.
    """
    await idempotency.settle(uow)
    person = await _customer(uow, email)
    row = await credit_account.store_account(uow, UserId(person.id), uow.settings.currency)
    key = f"grant:{grant_id or new_id()}"
    known = select(CreditMovement.id).where(CreditMovement.key == key)
    if (await uow.session.exec(known)).first() is None:
        await _issue(uow, row, _checked_amount(amount), remark.needed(reason), key=key)
    await uow.session.refresh(row)
    return view(row)


async def switched_on(uow: UnitOfWork, account_id: UUID) -> dict[str, Any] | None:
    """Return what switches a credit on again once it is off, if it is on."""
    is_active = (await credit_account.access(uow, account_id)).is_active
    return {"account_id": account_id} if is_active else None


async def switched_off(uow: UnitOfWork, account_id: UUID) -> dict[str, Any] | None:
    """Return what switches a credit off again once it is on, if it is off."""
    is_active = (await credit_account.access(uow, account_id)).is_active
    return None if is_active else {"account_id": account_id}


@operation(
    domain="credit",
    scope="payment:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="credit.activate",
    restore=switched_on,
    examples=(
        "deactivate gift card {account_id}",
        "block the gift card {account_id}",
        "switch off credit {account_id}",
        "stop gift card {account_id}, it was stolen",
    ),
)
async def deactivate(uow: UnitOfWork, account_id: UUID) -> CreditView:
    """Switch a gift card or store credit off: it cannot be spent until it is activated again.

    What a purchase under way holds is still taken.

    Args:
        account_id: The gift card or store credit.

    Raises:
        NotFound: No such credit.
    """
    return await _set_active(uow, account_id, False)


@operation(
    domain="credit",
    scope="payment:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="credit.deactivate",
    restore=switched_off,
    examples=(
        "activate gift card {account_id}",
        "unblock the gift card {account_id}",
        "switch credit {account_id} on again",
        "let gift card {account_id} be used again",
    ),
)
async def activate(uow: UnitOfWork, account_id: UUID) -> CreditView:
    """Let a gift card or store credit be spent again.

    Args:
        account_id: The gift card or store credit.

    Raises:
        NotFound: No such credit.
    """
    return await _set_active(uow, account_id, True)


async def _set_active(uow: UnitOfWork, account_id: UUID, is_active: bool) -> CreditView:
    row = await credit_account.access(uow, account_id, lock=True)
    if row.is_active is not is_active:
        row.is_active = is_active
        uow.publish(CreditActivitySet(credit_account_id=row.id, is_active=is_active))
        await uow.session.flush()
    return view(row)


@operation(
    domain="credit",
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "list the gift cards",
        "show all store credit",
        "which gift cards are out",
        "show gift cards ending in {last4}",
    ),
)
async def list_all(
    uow: UnitOfWork,
    kind: CreditKind | None = None,
    last4: str | None = None,
    is_active: bool | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[CreditView]:
    """List gift cards and store credit (staff).

    Args:
        kind: gift_card or store_credit.
        last4: The last four characters of the code.
        is_active: Only those that are switched on, or off.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(CreditAccount)
    if kind is not None:
        query = query.where(CreditAccount.kind == kind)
    if last4 is not None:
        query = query.where(CreditAccount.code_last4 == credit_code.normal_code(last4))
    if is_active is not None:
        query = query.where(CreditAccount.is_active == is_active)
    return await read_page(uow, query, by_id(CreditAccount.id, sort), view, limit, cursor)


async def expire_due(deps: Deps) -> int:
    """Take what is left of lapsed accounts off the books; return how many lapsed.

    What a purchase under way holds stays until it is spent or released.
    """
    async with deps.begin() as uow:
        spendable = CreditAccount.balance_amount - col(CreditAccount.held_amount)
        query = (
            select(CreditAccount)
            .where(col(CreditAccount.expires_at) <= uow.now, spendable > 0)
            .order_by(col(CreditAccount.id))
            .limit(EXPIRE_BATCH)
            .with_for_update(skip_locked=True)
        )
        rows = list(await uow.session.exec(query))
        for row in rows:
            assert row.expires_at is not None
            amount = row.balance_amount - row.held_amount
            # A refund may revive an account, so one may lapse more than once.
            lapses = select(func.count()).where(
                CreditMovement.account_id == row.id, col(CreditMovement.key).like("expire:%")
            )
            number = (await uow.session.exec(lapses)).one() + 1
            transaction_id = new_id()
            key = f"expire:{row.id}:{number}"
            liability = await credit_account.add(
                uow, row.id, -amount, key=key, reason="expired", reference_id=transaction_id
            )
            await payment.post(
                uow,
                transaction_id,
                None,
                row.currency,
                {liability: amount, Account.CREDIT_ISSUED: -amount},
            )
            uow.publish(
                CreditExpired(credit_account_id=row.id, amount=amount, currency=row.currency)
            )
    return len(rows)
