"""Payments: intents, attempts and the double-entry ledger. `tools.checkout` calls the gateways."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.order import Order
from db.models.payment import (
    Account,
    AttemptKind,
    AttemptState,
    LedgerEntry,
    Payment,
    PaymentAttempt,
    PaymentState,
)
from db.types import OrderId, PaymentId
from deps.core import UnitOfWork
from tools import order
from tools.registry import Risk, operation


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
    rows = await uow.session.execute(
        text("""
            SELECT account, currency, sum(amount)::bigint AS balance_amount
            FROM ledger_entry GROUP BY account, currency ORDER BY currency, account
        """)
    )
    return [AccountBalance.model_validate(row, from_attributes=True) for row in rows]


def attempt_key(payment_id: PaymentId, kind: AttemptKind) -> str:
    """The key that goes on the wire: derived, so every retry and every process sends the same."""
    return f"{payment_id}:{kind.value}"


async def start_attempt(uow: UnitOfWork, payment_id: PaymentId, kind: AttemptKind) -> None:
    """Write the intent to call the provider; repeating it changes nothing."""
    attempt = PaymentAttempt(
        payment_id=payment_id,
        kind=kind,
        key=attempt_key(payment_id, kind),
        started_at=uow.now,
    )
    await uow.session.execute(
        insert(PaymentAttempt).values(**attempt.model_dump()).on_conflict_do_nothing()
    )


async def finish_attempt(
    uow: UnitOfWork,
    payment_id: PaymentId,
    kind: AttemptKind,
    state: AttemptState,
    detail: str = "",
) -> None:
    await uow.session.execute(
        update(PaymentAttempt)
        .where(col(PaymentAttempt.payment_id) == payment_id, col(PaymentAttempt.kind) == kind)
        .values(state=state, detail=detail[:500], finished_at=uow.now)
    )


async def locked(uow: UnitOfWork, order_id: OrderId) -> Payment:
    """Load an order's latest payment for update. Lock order: order first, then payment."""
    query = (
        select(Payment)
        .where(Payment.order_id == order_id)
        .order_by(col(Payment.id).desc())
        .limit(1)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await uow.session.exec(query)).one()


async def post(
    uow: UnitOfWork, transaction_id: UUID, of: Order, amounts: dict[Account, int]
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
                    currency=of.currency,
                    order_id=of.id,
                    occurred_at=uow.now,
                )
            )


async def post_capture(uow: UnitOfWork, payment: Payment, of: Order) -> None:
    await post(
        uow,
        payment.id,
        of,
        {
            Account.CLEARING: of.total_amount,
            Account.REVENUE: -(of.subtotal_amount - of.discount_amount),
            Account.SHIPPING_REVENUE: -of.shipping_amount,
            Account.TAX_PAYABLE: -of.tax_amount,
        },
    )


async def post_refund(uow: UnitOfWork, transaction_id: UUID, of: Order, amount: int) -> None:
    await post(uow, transaction_id, of, {Account.REFUNDS: amount, Account.CLEARING: -amount})
