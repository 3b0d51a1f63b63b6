"""Orders: look up, list, follow and cancel. `tools.checkout` makes them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import product
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ARRAY, Text, func, literal
from sqlmodel import col, select, update

from db.models.order import (
    ORDER_TRANSITIONS,
    FulfillmentStatus,
    Order,
    OrderLine,
    OrderStatus,
    PaymentStatus,
)
from db.models.outbox import OutboxMessage
from db.models.payment import Payment, PaymentState
from db.types import Money, OrderId
from deps.core import Actor, UnitOfWork
from tools.errors import IllegalTransition, NotFound
from tools.page import Ordering, Page, aware, read_page, read_page_of_groups
from tools.registry import Risk, operation

TIMELINE_MAX = 200
BEFORE_SHIPPING = ("cancel", "change_items", "change_address", "change_payment")
_SCOPES = {
    "cancel": "order:cancel",
    **dict.fromkeys(("change_items", "change_address", "change_payment"), "order:edit"),
    **dict.fromkeys(("return", "exchange"), "order:return"),
}


class OrderLineView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    sku: str
    title: str
    quantity: int
    unit_price_amount: int
    total_amount: int


class OrderSummary(BaseModel):
    """An order in a list. Amounts are minor units of `currency`."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    number: int
    status: OrderStatus
    payment_status: PaymentStatus
    fulfillment_status: FulfillmentStatus
    currency: str
    total_amount: int
    email: str
    placed_at: datetime | None
    created_at: datetime


class OrderView(OrderSummary):
    subtotal_amount: int
    shipping_amount: int
    tax_amount: int
    discount_amount: int
    discount_code: str | None
    shipping_address: dict[str, Any]
    shipping_method: str
    lines: list[OrderLineView]
    allowed_actions: list[str] = Field(description="What may be asked of it next.")
    payment_action: dict[str, Any] | None = Field(
        default=None, description="What the shopper has to do before the payment can go on."
    )


class OrderSort(StrEnum):
    NEWEST = "newest"
    OLDEST = "oldest"
    LARGEST = "largest"
    SMALLEST = "smallest"


SORTS: Mapping[OrderSort, Ordering] = {
    OrderSort.NEWEST: Ordering((Order.created_at, Order.number)),
    OrderSort.OLDEST: Ordering((Order.created_at, Order.number), is_descending=False),
    OrderSort.LARGEST: Ordering((Order.total_amount, Order.number)),
    OrderSort.SMALLEST: Ordering((Order.total_amount, Order.number), is_descending=False),
}


class TimelineEntry(BaseModel):
    occurred_at: datetime
    type: str
    summary: str
    by: str = Field(description="Role of who caused it.")


async def access(uow: UnitOfWork, number: int, *, lock: bool = False) -> Order:
    """Load an order on the actor's behalf; no other code may load one for a person.

    Raises:
        NotFound: No such order, or it is someone else's. The two must be indistinguishable.
    """
    query = select(Order).where(Order.number == number)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    order = (await uow.session.exec(query)).first() if abs(number) < 2**63 else None
    if order is None or not _may_see(uow, order):
        raise NotFound("No such order.")
    return order


def _may_see(uow: UnitOfWork, order: Order) -> bool:
    if uow.actor.may("order:read_all"):
        return True
    if order.customer_id is not None:
        return order.customer_id == uow.actor.user_id
    secret = uow.actor.guest_secret_sha256
    return secret is not None and order.guest_secret_sha256 == secret


async def locked(uow: UnitOfWork, order_id: OrderId) -> Order:
    """Load an order for update. It is locked before all that belongs to it: tenders by position,
    then refunds, edits, returns and exchanges."""
    return await uow.session.get_one(Order, order_id, with_for_update=True, populate_existing=True)


async def view(uow: UnitOfWork, order: Order) -> OrderView:
    lines = await uow.session.exec(
        select(OrderLine).where(OrderLine.order_id == order.id).order_by(col(OrderLine.id))
    )
    return OrderView.model_validate(
        order.model_dump()
        | {
            "lines": [OrderLineView.model_validate(line) for line in lines],
            "allowed_actions": permitted(uow.actor, next_actions(order)),
            "payment_action": await _payment_action(uow, order),
        }
    )


async def _payment_action(uow: UnitOfWork, order: Order) -> dict[str, Any] | None:
    if order.payment_status is not PaymentStatus.REQUIRES_ACTION:
        return None
    waiting = select(Payment).where(
        Payment.order_id == order.id, Payment.state == PaymentState.REQUIRES_ACTION
    )
    tender = (await uow.session.exec(waiting)).first()
    return {"payment_id": str(tender.id), **(tender.action or {})} if tender else None


def permitted(actor: Actor, actions: Sequence[str]) -> list[str]:
    """Keep those that the actor may ask for at all; guests sign in first."""
    return [action for action in actions if actor.may(_SCOPES[action])]


def next_actions(order: Order) -> list[str]:
    """Return what may be asked of an order as it stands, by whoever may."""
    unshipped = order.fulfillment_status is FulfillmentStatus.UNFULFILLED
    if order.status is OrderStatus.PLACED and unshipped:
        return list(BEFORE_SHIPPING)
    is_delivered = order.fulfillment_status is FulfillmentStatus.DELIVERED
    is_live = order.status in (OrderStatus.PLACED, OrderStatus.COMPLETED)
    return ["return", "exchange"] if is_delivered and is_live else []


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "where is my order {number}",
        "show order {number}",
        "status of order {number}",
        "what is in order {number}",
        "has order {number} shipped",
        "track order {number}",
    ),
)
async def get(uow: UnitOfWork, number: int) -> OrderView:
    """Show one order with its lines and states.

    Args:
        number: The order's number, such as 1001.

    Raises:
        NotFound: No such order, or it is someone else's.
    """
    return await view(uow, await access(uow, number))


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=("show my orders", "list my orders", "what did i order", "my recent orders"),
)
async def list_mine(
    uow: UnitOfWork,
    status: OrderStatus | None = None,
    sort: OrderSort = OrderSort.NEWEST,
    limit: int = 10,
    cursor: str | None = None,
) -> Page[OrderSummary]:
    """List the shopper's own orders.

    Args:
        status: Only orders in this state: pending, placed, completed or cancelled.
        sort: newest, oldest, largest or smallest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before, with the same sort.
    """
    query = select(Order)
    if uow.actor.user_id is not None:
        query = query.where(Order.customer_id == uow.actor.user_id)
    else:
        query = query.where(
            col(Order.customer_id).is_(None),
            Order.guest_secret_sha256 == (uow.actor.guest_secret_sha256 or ""),
        )
    if status is not None:
        query = query.where(Order.status == status)
    return await read_page(uow, query, SORTS[sort], OrderSummary.model_validate, limit, cursor)


@operation(
    scope="order:read_all",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the latest orders",
        "list all orders",
        "which orders came in",
        "show {status} orders",
        "orders of {email}",
    ),
)
async def list_all(
    uow: UnitOfWork,
    status: OrderStatus | None = None,
    email: str | None = None,
    payment_status: PaymentStatus | None = None,
    fulfillment_status: FulfillmentStatus | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    sort: OrderSort = OrderSort.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[OrderSummary]:
    """List the shop's orders.

    Args:
        status: Only orders in this state: pending, placed, completed or cancelled.
        email: Only orders with this address.
        payment_status: Only orders paid so far, such as captured or refunded.
        fulfillment_status: Only orders shipped so far, such as unfulfilled or delivered.
        since: Only orders created at this time or later.
        until: Only orders created before this time.
        sort: newest, oldest, largest or smallest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before, with the same sort.
    """
    query = select(Order)
    if since is not None:
        query = query.where(col(Order.created_at) >= aware(since, "since"))
    if until is not None:
        query = query.where(col(Order.created_at) < aware(until, "until"))
    wanted = (status, payment_status, fulfillment_status)
    if email is not None:
        # One person's orders are few: their states need no index.
        query = query.where(Order.email == email.strip().lower())
        pairs = zip(_STATES, wanted, strict=True)
        query = query.where(*(state == value for state, value in pairs if value is not None))
    elif any(wanted):
        groups = _states(wanted)
        query = query.where(*(state == groups.c[state.key] for state in _STATES))
        return await read_page_of_groups(
            uow, groups, query, SORTS[sort], OrderSummary.model_validate, limit, cursor
        )
    return await read_page(uow, query, SORTS[sort], OrderSummary.model_validate, limit, cursor)


_STATES: Any = (col(Order.status), col(Order.payment_status), col(Order.fulfillment_status))


def _states(wanted: Sequence[StrEnum | None]) -> Any:
    """List every combination of states that is wanted; None is any state.

    There are 200 in all, each with a place of its own in the index, so that orders in states that
    are rare, or rare together, are found as fast as any.
    """
    any_of = (OrderStatus, PaymentStatus, FulfillmentStatus)
    choices = (each if one is None else (one,) for one, each in zip(wanted, any_of, strict=True))
    columns = zip(*product(*choices), strict=True)
    arrays = (literal(list(column), ARRAY(Text)) for column in columns)
    names = (state.key for state in _STATES)
    return func.unnest(*arrays).table_valued(*names).render_derived()


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what happened to order {number}",
        "show the timeline of order {number}",
        "history of order {number}",
    ),
)
async def timeline(uow: UnitOfWork, number: int) -> list[TimelineEntry]:
    """Tell what happened to an order, oldest first, from the event log.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order, or it is someone else's.
    """
    order = await access(uow, number)
    rows = await uow.session.exec(
        select(OutboxMessage)
        .where(OutboxMessage.aggregate_id == order.id)
        .order_by(col(OutboxMessage.aggregate_seq))
        .limit(TIMELINE_MAX)
    )
    return [
        TimelineEntry(
            occurred_at=row.occurred_at,
            type=row.type,
            summary=summarize(row.type, row.payload),
            by=row.actor_role,
        )
        for row in rows
    ]


def summarize(event_type: str, payload: dict[str, Any]) -> str:
    """Say an event of an order in one sentence."""
    amount = ""
    if "currency" in payload:
        value = payload.get("total_amount", payload.get("amount"))
        amount = f" {Money(int(value), payload['currency'])}" if value is not None else ""
    sentences = {
        "OrderCreated": f"Checkout started over{amount}.",
        "StockReserved": "Stock was held.",
        "StockReleased": f"Stock was released: {payload.get('reason', '')}.",
        "PaymentActionRequired": "The shopper has to authenticate the payment.",
        "PaymentAuthorized": f"Payment of{amount} was authorised.",
        "PaymentAuthorizationExpired": f"The authorisation of{amount} has lapsed.",
        "PaymentCaptured": f"Payment of{amount} was captured.",
        "PaymentFailed": f"Payment failed: {payload.get('code', '')}.",
        "RefundRequested": f"A refund of{amount} was requested: {payload.get('reason', '')}.",
        "PaymentRefunded": f"{amount.strip()} was refunded.",
        "RefundSucceeded": f"The refund of{amount} is complete.",
        "RefundFailed": f"A refund of{amount} failed: {payload.get('code', '')}.",
        "PaymentVoided": "The authorisation was voided.",
        "PaymentExpired": "The authorisation ran out.",
        "DisputeOpened": f"The buyer's bank disputes{amount}: {payload.get('reason', '')}.",
        "DisputeEvidenceSubmitted": "Evidence was sent to the bank.",
        "DisputeWon": f"The dispute over{amount} was won.",
        "DisputeLost": f"The dispute over{amount} was lost.",
        "OrderPlaced": f"Order {payload.get('number', '')} was placed over{amount}.",
        "OrderCancelled": f"Order was cancelled: {payload.get('reason', '')}.",
        "OrderEdited": f"Items were changed; the order is over{amount} now.",
        "OrderEditFailed": f"A change was not made: {payload.get('code', '')}.",
        "OrderPaymentChanged": f"The order is paid with another method:{amount}.",
        "OrderAddressChanged": "The shipping address was changed.",
        "OrderStockSwapped": "Stock was held for the new items and the old put back on sale.",
        "OrderShipped": f"The parcel left. {payload.get('tracking_number', '')}".strip(),
        "OrderUnshipped": "The parcel had not left; the order is to be sent.",
        "OrderDelivered": "The parcel arrived.",
        "OrderUndelivered": "The parcel had not arrived; it is on its way.",
        "ReturnRequested": f"A return over{amount} was asked for.",
        "ReturnReceived": "The returned parcel arrived.",
        "ReturnCancelled": "The return was withdrawn.",
        "ReturnReopened": "The return is wanted after all.",
        "ExchangeRequested": "An exchange was asked for; the replacements are kept.",
        "ExchangeReceived": "The exchanged parcel arrived.",
        "ExchangeCompleted": f"The replacements left; the order is over{amount} now.",
        "ExchangeCancelled": "The exchange was withdrawn.",
        "ExchangeReopened": "The exchange is wanted after all; the replacements are kept.",
    }
    return sentences.get(event_type, event_type)


async def transition(uow: UnitOfWork, order: Order, target: OrderStatus, **values: Any) -> None:
    """Move `order` to `target`, with `values`, unless someone moved it since we read it.

    Raises:
        IllegalTransition: `ORDER_TRANSITIONS` forbids the move, or we lost the race.
    """
    source = order.status
    if target not in ORDER_TRANSITIONS[source]:
        raise IllegalTransition("order", source, target)
    move = (
        update(Order)
        .where(col(Order.id) == order.id, col(Order.status) == source)
        .values(status=target, **values)
        .returning(col(Order.id))
    )
    if (await uow.session.execute(move)).first() is None:
        raise IllegalTransition("order", source, target)
    await uow.session.refresh(order)
