"""What pays for a change after the sale, and what its money goes back to: a customer's stored
methods, and the tenders that were charged to them."""

from collections.abc import Mapping
from uuid import UUID

from sqlmodel import col, select

from db.models.credit import CreditAccount
from db.models.order import Order
from db.models.payment import MethodKind, Payment, StoredMethod
from db.models.refund import RefundKind
from db.types import OrderId, PaymentId
from deps.core import UnitOfWork
from tools import aftersales, credit_account, payment, refund
from tools.errors import InsufficientCredit, InvalidInput, NotFound
from tools.refund_plan import refundable


async def settling_method(
    uow: UnitOfWork, of: Order, method_id: UUID | None, difference_amount: int
) -> StoredMethod | None:
    """Load the method that is to pay, or to get, what a change makes an order dearer or cheaper.

    Raises:
        NotFound: No such method, or another customer's.
        InvalidInput: None is named though there is something to pay, or the money may not go there.
        InsufficientCredit: A gift card or store credit does not cover it.
    """
    if method_id is None:
        if difference_amount > 0:
            raise InvalidInput(
                f"{difference_amount} minor units more are to be paid; name a stored payment "
                "method.",
                field="payment_method",
            )
        return None
    method = await method_of(uow, of, method_id)
    if difference_amount < 0:
        rules = await aftersales.current_policy(uow)
        if not rules.refunds_to_any_method:
            await refuse_foreign_refund(uow, of, method)
    await refuse_uncovered(uow, method, difference_amount)
    return method


async def method_of(uow: UnitOfWork, of: Order, method_id: UUID) -> StoredMethod:
    """Load a stored method of the customer who placed the order.

    Raises:
        NotFound: No such method, or another customer's. The two must be indistinguishable.
    """
    method = await uow.session.get(StoredMethod, method_id)
    if method is None or of.customer_id is None or method.customer_id != of.customer_id:
        raise NotFound("No such payment method.", field="payment_method")
    return method


async def refuse_uncovered(uow: UnitOfWork, method: StoredMethod, amount: int) -> None:
    """Raises:
    InsufficientCredit: A gift card or store credit holds less than `amount`, or cannot be used.
    """
    if method.kind is not MethodKind.CREDIT or amount <= 0:
        return
    assert method.credit_account_id is not None
    account = await uow.session.get_one(CreditAccount, method.credit_account_id)
    is_usable = credit_account.is_usable(account, uow.now)
    free = account.balance_amount - account.held_amount if is_usable else 0
    if free < amount:
        raise InsufficientCredit(
            "There is not enough on this gift card or store credit.",
            field="payment_method",
            required_amount=amount,
            available_amount=free,
        )


async def holding_tenders(uow: UnitOfWork, order_id: OrderId) -> list[Payment]:
    """Return the tenders that still hold money of an order, as they were charged."""
    query = (
        select(Payment)
        .where(Payment.order_id == order_id)
        .where(col(Payment.captured_amount) > col(Payment.refunded_amount))
        .order_by(col(Payment.position), col(Payment.id))
    )
    return list(await uow.session.exec(query))


def token_of(method: StoredMethod) -> str:
    """Return what a tender is charged to: the provider's token, or the account of a credit."""
    return str(method.credit_account_id) if method.kind is MethodKind.CREDIT else method.token


def paid_with(tender: Payment, method: StoredMethod) -> bool:
    """Whether a stored method is what a tender was charged to."""
    return (tender.provider, tender.method_token) == (method.provider, token_of(method))


async def refuse_foreign_refund(uow: UnitOfWork, of: Order, method: StoredMethod) -> None:
    """Raises:
    InvalidInput: The method neither paid for the order nor is the customer's own credit.
    """
    tenders = await holding_tenders(uow, OrderId(of.id))
    if method.credit_account_id is None and not any(paid_with(t, method) for t in tenders):
        raise InvalidInput(
            "Money goes back to what paid for the order, or to a gift card or store credit.",
            field="payment_method",
        )


async def give_back(
    uow: UnitOfWork,
    of: Order,
    method_id: UUID | None,
    *,
    reason: str,
    amount: int | None = None,
    lines: Mapping[str, int] | None = None,
) -> UUID:
    """Write a refund to the method a customer chose; `refund_process.drive` sends it.

    Args:
        method_id: None, or one that paid: back the way it came, the chosen one first. A credit is
            topped up. Any other is paid out to; whether that is allowed was decided before. One
            that has got back all it paid meanwhile is such another only where the policy allows it.
        amount: What the order costs less since an edit; else give `lines`.
    """
    to: refund.Target = "original"
    first: list[PaymentId] = []
    method = await uow.session.get(StoredMethod, method_id) if method_id else None
    if method is not None:
        tenders = await payment.read_tenders(uow, OrderId(of.id))
        paid = [t for t in tenders if t.captured_amount and paid_with(t, method)]
        first = [PaymentId(tender.id) for tender in paid if refundable(tender)]
        if not first:
            to = await _instead(uow, method, has_paid=bool(paid))
    made = await refund.request(
        uow,
        of,
        reason=reason,
        amount=amount,
        lines=lines,
        to=to,
        first=first,
        kind=RefundKind.REFUND if amount is None else RefundKind.ADJUSTMENT,
    )
    return made.id


async def _instead(uow: UnitOfWork, method: StoredMethod, *, has_paid: bool) -> refund.Target:
    """Say where money goes that a chosen method did not bring, or has got back already."""
    if method.credit_account_id is not None:
        return method.credit_account_id
    if has_paid and not (await aftersales.current_policy(uow)).refunds_to_any_method:
        return "original"
    return method
