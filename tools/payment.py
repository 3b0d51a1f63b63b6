"""Payments: tenders, attempts and the double-entry ledger. `tools.sale` calls the gateways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.credit import CreditAccount, CreditKind
from db.models.order import Order, OrderStatus, PaymentStatus
from db.models.payment import (
    Account,
    AttemptKind,
    AttemptState,
    LedgerEntry,
    Payment,
    PaymentAttempt,
    PaymentState,
)
from db.types import OrderId, PaymentId, new_id
from deps.core import UnitOfWork
from tools import ledger, order
from tools.events import PaymentCaptured, PaymentRefunded
from tools.registry import Risk, operation

CREDIT_PROVIDER: Final = "credit"


class PaymentView(BaseModel):
    """A payment. Amounts are minor units of `currency`."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    provider: str
    state: PaymentState
    amount: int
    captured_amount: int
    refunded_amount: int
    currency: str
    decline_code: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Tender:
    """What one way to pay is to bring, in minor units. Its id becomes the payment's."""

    provider: str
    method_token: str
    amount: int
    id: PaymentId = field(default_factory=lambda: PaymentId(new_id()))


class AccountBalance(BaseModel):
    account: str
    currency: str
    balance_amount: int


@operation(
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the payments of order {number}",
        "was order {number} paid",
        "how was order {number} paid",
        "payment status of order {number}",
    ),
)
async def list_for_order(uow: UnitOfWork, number: int) -> list[PaymentView]:
    """List the payments of an order with their states.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order.
    """
    of = await order.access(uow, number)
    rows = await uow.session.exec(
        select(Payment).where(Payment.order_id == of.id).order_by(col(Payment.id))
    )
    return [PaymentView.model_validate(row) for row in rows]


@operation(
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=("show the ledger balances", "what is the balance of each account"),
)
async def balances(uow: UnitOfWork) -> list[AccountBalance]:
    """Show the ledger's balance by account: debits positive, credits negative; they sum to zero."""
    return [AccountBalance(**row) for row in await ledger.balances(uow)]


def attempt_key(payment_id: PaymentId, kind: AttemptKind, number: int = 1) -> str:
    """The key that goes on the wire: derived, so every retry and every process sends the same."""
    return f"{payment_id}:{kind.value}:{number}"


async def start_attempt(
    uow: UnitOfWork, payment_id: PaymentId, kind: AttemptKind, amount: int, number: int = 1
) -> str:
    """Write the intent to call the provider and return its key; repeating it changes nothing."""
    attempt = PaymentAttempt(
        payment_id=payment_id,
        kind=kind,
        number=number,
        key=attempt_key(payment_id, kind, number),
        amount=amount,
        started_at=uow.now,
    )
    await uow.session.execute(
        insert(PaymentAttempt).values(**attempt.model_dump()).on_conflict_do_nothing()
    )
    return attempt.key


async def finish_attempt(uow: UnitOfWork, key: str, state: AttemptState, detail: str = "") -> None:
    await uow.session.execute(
        update(PaymentAttempt)
        .where(col(PaymentAttempt.key) == key)
        .values(state=state, detail=detail[:500], finished_at=uow.now)
    )


async def last_attempt(
    uow: UnitOfWork, payment_id: PaymentId, kind: AttemptKind
) -> PaymentAttempt | None:
    """Load the latest call of a kind for a tender, if there was any."""
    query = (
        select(PaymentAttempt)
        .where(PaymentAttempt.payment_id == payment_id, PaymentAttempt.kind == kind)
        .order_by(col(PaymentAttempt.number).desc())
        .limit(1)
    )
    return (await uow.session.exec(query)).first()


async def locked(uow: UnitOfWork, payment_id: PaymentId) -> Payment:
    """Load a tender for update. Lock order: the order first, then its tenders by position."""
    return await uow.session.get_one(
        Payment, payment_id, with_for_update=True, populate_existing=True
    )


async def tenders(uow: UnitOfWork, order_id: OrderId) -> list[Payment]:
    """Load all tenders of an order for update, as they are charged."""
    query = (
        select(Payment)
        .where(Payment.order_id == order_id)
        .order_by(col(Payment.position), col(Payment.id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(await uow.session.exec(query))


async def read_tenders(uow: UnitOfWork, order_id: OrderId) -> list[Payment]:
    """Load all tenders of an order to look at, as they are charged."""
    query = (
        select(Payment)
        .where(Payment.order_id == order_id)
        .order_by(col(Payment.position), col(Payment.id))
    )
    return list(await uow.session.exec(query))


async def add_tender(
    uow: UnitOfWork, of: Order, provider: str, method_token: str, amount: int
) -> Payment:
    """Write one more tender of an order, to be charged by `sale.drive` or `sale.collect`."""
    last = await uow.session.scalar(
        select(func.max(Payment.position)).where(Payment.order_id == of.id)
    )
    tender = Payment(
        order_id=of.id,
        provider=provider,
        method_token=method_token,
        position=0 if last is None else last + 1,
        amount=amount,
        currency=of.currency,
        created_at=uow.now,
        updated_at=uow.now,
    )
    uow.session.add(tender)
    await uow.session.flush()
    return tender


def status_of(of: Order, all_tenders: Sequence[Payment]) -> PaymentStatus:
    """Derive a placed order's payment status from its tenders.

    A refund that follows a fallen total leaves it paid; one of the total's own money does not.
    """
    captured = sum(tender.captured_amount for tender in all_tenders)
    refunded = sum(tender.refunded_amount for tender in all_tenders)
    is_open = any(tender.state is PaymentState.AUTHORIZED for tender in all_tenders)
    if of.status is OrderStatus.CANCELLED:
        if captured == 0:
            return PaymentStatus.AUTHORIZED if is_open else PaymentStatus.VOIDED
        return PaymentStatus.REFUNDED if refunded == captured else PaymentStatus.REFUND_PENDING
    if not all_tenders:
        return PaymentStatus.CAPTURED  # There was nothing to pay.
    if captured == 0:
        return PaymentStatus.AUTHORIZED if is_open else PaymentStatus.VOIDED
    if refunded == captured:
        return PaymentStatus.REFUNDED
    if refunded and captured - refunded < of.total_amount:
        return PaymentStatus.PARTIALLY_REFUNDED
    return PaymentStatus.PARTIALLY_CAPTURED if is_open else PaymentStatus.CAPTURED


def derived(of: UUID, number: int) -> UUID:
    """Name the ledger transaction of the `number`-th thing that happened to `of`, once for all."""
    return UUID(int=of.int ^ number)


async def post(
    uow: UnitOfWork,
    transaction_id: UUID,
    order_id: OrderId | None,
    currency: str,
    amounts: Mapping[Account, int],
) -> None:
    """Write one balanced transaction; zero amounts are left out.

    A deferred trigger refuses a transaction that does not sum to zero; `(transaction, account)` is
    unique, so posting twice fails rather than doubles.
    """
    assert sum(amounts.values()) == 0, amounts
    for account, amount in sorted(amounts.items()):
        if amount:
            uow.session.add(
                LedgerEntry(
                    transaction_id=transaction_id,
                    account=account,
                    amount=amount,
                    currency=currency,
                    order_id=order_id,
                    occurred_at=uow.now,
                )
            )


async def account_of(uow: UnitOfWork, tender: Payment) -> Account:
    """Name the account a tender's money comes from: a provider's clearing, or what we owe."""
    if tender.provider != CREDIT_PROVIDER:
        return Account.CLEARING
    source = await uow.session.get_one(CreditAccount, UUID(tender.method_token))
    return {
        CreditKind.GIFT_CARD: Account.GIFT_CARD_LIABILITY,
        CreditKind.STORE_CREDIT: Account.STORE_CREDIT_LIABILITY,
    }[source.kind]


async def post_sale(uow: UnitOfWork, of: Order) -> None:
    """Book what the order sells; the customer owes it until the captures are booked."""
    await post(
        uow,
        of.id,
        OrderId(of.id),
        of.currency,
        {
            Account.RECEIVABLE: of.total_amount,
            Account.REVENUE: -(of.subtotal_amount - of.discount_amount),
            Account.SHIPPING_REVENUE: -of.shipping_amount,
            Account.TAX_PAYABLE: -of.tax_amount,
        },
    )


async def record_capture(
    uow: UnitOfWork,
    of: Order,
    tender: Payment,
    amount: int,
    *,
    transaction_id: UUID,
    is_final: bool = True,
) -> None:
    """Book money that a tender brought."""
    tender.captured_amount += amount
    if is_final:
        tender.state = PaymentState.CAPTURED
    tender.updated_at = uow.now
    await post(
        uow,
        transaction_id,
        OrderId(of.id),
        of.currency,
        {await account_of(uow, tender): amount, Account.RECEIVABLE: -amount},
    )
    uow.publish(
        PaymentCaptured(
            order_id=OrderId(of.id),
            payment_id=PaymentId(tender.id),
            amount=amount,
            currency=of.currency,
        )
    )


async def record_refund(
    uow: UnitOfWork, of: Order, tender: Payment, amount: int, *, transaction_id: UUID
) -> None:
    """Book money that went back to a tender of a sale that was never booked, only captured.
    `tools.refund` gives money of placed orders back."""
    tender.refunded_amount += amount
    tender.updated_at = uow.now
    await post(
        uow,
        transaction_id,
        OrderId(of.id),
        of.currency,
        {Account.RECEIVABLE: amount, await account_of(uow, tender): -amount},
    )
    uow.publish(
        PaymentRefunded(
            order_id=OrderId(of.id),
            payment_id=PaymentId(tender.id),
            amount=amount,
            currency=of.currency,
        )
    )
