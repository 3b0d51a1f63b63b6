"""The benchmark's past orders as ours: paid, allocated, sent, cancelled, as their history says."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from db.models.credit import CreditHold, CreditMovement
from db.models.fulfillment import Fulfillment, FulfillmentLine, FulfillmentState
from db.models.inventory import (
    Reservation,
    ReservationLine,
    ReservationStatus,
)
from db.models.order import FulfillmentStatus, Order, OrderLine, OrderStatus, PaymentStatus
from db.models.outbox import AggregateCounter, OutboxMessage
from db.models.payment import (
    Account,
    Payment,
    PaymentState,
)
from db.models.refund import Refund, RefundPart, RefundState
from db.types import LocationId, OrderId, PaymentId, UserId, new_id
from evals.tau import names
from evals.tau.book import Book
from evals.tau.data import DataMissing, Json, Shop
from tools.events import OrderCancelled, OrderPlaced
from tools.refund_share import Breakdown

_STATES = {
    "pending": (OrderStatus.PLACED, FulfillmentStatus.UNFULFILLED, ReservationStatus.ALLOCATED),
    "processed": (OrderStatus.PLACED, FulfillmentStatus.FULFILLED, ReservationStatus.SHIPPED),
    "delivered": (OrderStatus.COMPLETED, FulfillmentStatus.DELIVERED, ReservationStatus.SHIPPED),
    "cancelled": (
        OrderStatus.CANCELLED,
        FulfillmentStatus.UNFULFILLED,
        ReservationStatus.RELEASED,
    ),
}
_PARCELS = {
    "processed": FulfillmentState.SHIPPED,
    "delivered": FulfillmentState.DELIVERED,
    "cancelled": FulfillmentState.CANCELLED,
}


def write(book: Book, shop: Shop, products: Mapping[str, UUID]) -> None:
    """Add all orders, and what each gift card had before it paid for some of them.

    Args:
        products: Our ids by the benchmark's.

    Raises:
        DataMissing: An order is in a state, or was paid in a way, that is not known.
    """
    # Each customer's orders were placed in the order in which the customer lists them.
    place = {
        order_id: at for user in shop.users.values() for at, order_id in enumerate(user["orders"])
    }
    for order_id, order in sorted(shop.orders.items(), key=lambda row: place.get(row[0], 0)):
        number = names.order_number(order_id)
        if number is None or order["status"] not in _STATES:
            raise DataMissing(f"{order_id} is {order['status']}: the shop cannot start from there.")
        at = book.at + timedelta(minutes=place.get(order_id, 0))
        _order(book, shop, order, number, at, products)
    for user in shop.users.values():
        for method_id, method in user["payment_methods"].items():
            if method["source"] == "gift_card":
                _fund(book, method_id, names.cents(method["balance"]))


def _order(
    book: Book,
    shop: Shop,
    order: Json,
    number: int,
    at: datetime,
    products: Mapping[str, UUID],
) -> None:
    user = shop.users[order["user_id"]]
    status, fulfillment, reserved = _STATES[order["status"]]
    total = sum(names.cents(item["price"]) for item in order["items"])
    name = f"{user['name']['first_name']} {user['name']['last_name']}"
    is_cancelled = status is OrderStatus.CANCELLED
    made = Order(
        number=number,
        customer_id=UserId(names.user_uuid(order["user_id"])),
        email=user["email"].strip().lower(),
        status=status,
        payment_status=PaymentStatus.REFUNDED if is_cancelled else PaymentStatus.CAPTURED,
        fulfillment_status=fulfillment,
        currency=names.CURRENCY,
        subtotal_amount=total,
        total_amount=total,
        shipping_address=names.to_address(order["address"], name).model_dump(),
        shipping_method="standard",
        created_at=at,
        placed_at=at,
        cancelled_at=at if is_cancelled else None,
    )
    book.add(made)
    lines = [
        OrderLine(
            order_id=made.id,
            sku=item["item_id"],
            product_id=products[item["product_id"]],
            title=" – ".join([item["name"], " / ".join(str(v) for v in item["options"].values())]),
            quantity=1,
            unit_price_amount=names.cents(item["price"]),
            total_amount=names.cents(item["price"]),
        )
        for item in order["items"]
    ]
    book.add(*lines)
    _payments(book, made, order, at)
    _parcels(book, made, lines, order, at)
    _reservation(book, made, lines, reserved, shop)
    _events(book, made)


def _payments(book: Book, of: Order, order: Json, at: datetime) -> None:
    book.post(
        of.id,
        of.id,
        {Account.RECEIVABLE: of.total_amount, Account.REVENUE: -of.subtotal_amount},
    )
    tender: Payment | None = None
    for row in order["payment_history"]:
        amount, method_id = names.cents(row["amount"]), row["payment_method_id"]
        if row["transaction_type"] == "payment":
            tender = _payment(book, of, method_id, amount, at)
        elif tender is not None and amount == tender.captured_amount:
            _refund(book, of, tender, at)
        else:
            raise DataMissing(f"{order['order_id']} was refunded in a way that is not known.")
    assert tender is not None
    assert tender.captured_amount == of.total_amount


def _payment(book: Book, of: Order, method_id: str, amount: int, at: datetime) -> Payment:
    is_gift_card = method_id.startswith("gift_card")
    account_id = names.account_uuid(method_id)
    hold_id = new_id()
    made = Payment(
        order_id=of.id,
        provider="credit" if is_gift_card else "scripted",
        method_token=str(account_id) if is_gift_card else method_id,
        amount=amount,
        captured_amount=amount,
        currency=names.CURRENCY,
        state=PaymentState.CAPTURED,
        provider_reference=str(hold_id) if is_gift_card else f"auth_{hold_id}",
        created_at=at,
        updated_at=at,
    )
    book.add(made)
    source = Account.CLEARING
    if is_gift_card:
        source = Account.GIFT_CARD_LIABILITY
        _spend(book, account_id, hold_id, amount, at)
    book.post(made.id, of.id, {source: amount, Account.RECEIVABLE: -amount})
    return made


def _spend(book: Book, account_id: UUID, hold_id: UUID, amount: int, at: datetime) -> None:
    book.spent[account_id] += amount
    book.add(
        CreditHold(
            id=hold_id,
            account_id=account_id,
            authorized_amount=amount,
            captured_amount=amount,
            currency=names.CURRENCY,
            created_at=at,
        ),
        _movement(account_id, -amount, f"spent:{hold_id}", "spent", hold_id, at),
    )


def _refund(book: Book, of: Order, tender: Payment, at: datetime) -> None:
    """Everything back to the tender, as a cancellation leaves it."""
    amount = tender.captured_amount
    tender.refunded_amount = amount
    made = Refund(
        order_id=OrderId(of.id),
        amount=amount,
        currency=names.CURRENCY,
        reason="the order was cancelled",
        state=RefundState.SUCCEEDED,
        breakdown=Breakdown(goods_amount=amount).model_dump(mode="json"),
        created_at=at,
        finished_at=at,
    )
    part = RefundPart(
        refund_id=made.id,
        payment_id=PaymentId(tender.id),
        amount=amount,
        state=RefundState.SUCCEEDED,
        provider_reference=tender.provider_reference,
    )
    book.add(made, part)
    source = Account.CLEARING
    if tender.provider == "credit":
        source = Account.GIFT_CARD_LIABILITY
        account_id, hold_id = UUID(tender.method_token), UUID(tender.provider_reference)
        book.spent[account_id] -= amount
        book.hold(hold_id).refunded_amount = amount
        book.add(_movement(account_id, amount, f"back:{hold_id}", "refunded", hold_id, at))
    book.post(part.id, of.id, {Account.REFUNDS: amount, source: -amount})


def _fund(book: Book, method_id: str, balance: int) -> None:
    """Issue what the card had before it paid for anything, so that its balance is today's."""
    account_id = names.account_uuid(method_id)
    issued = balance + book.spent[account_id]
    if not issued:
        return
    transaction_id = new_id()
    book.add(
        _movement(account_id, issued, f"issue:{account_id}", "issued", transaction_id, book.at)
    )
    book.post(
        transaction_id,
        None,
        {Account.CREDIT_ISSUED: issued, Account.GIFT_CARD_LIABILITY: -issued},
    )


def _parcels(book: Book, of: Order, lines: Sequence[OrderLine], order: Json, at: datetime) -> None:
    for parcel in order["fulfillments"]:
        state = _PARCELS[order["status"]]
        left = list(parcel["item_ids"])
        sent = []
        for line in lines:
            if line.sku in left:
                left.remove(line.sku)
                sent.append(line)
        if left:
            raise DataMissing(f"{order['order_id']} sent {left}, which it does not sell.")
        made = Fulfillment(
            order_id=OrderId(of.id),
            state=state,
            tracking_number=", ".join(parcel["tracking_id"]),
            shipped_at=at,
            delivered_at=at if state is FulfillmentState.DELIVERED else None,
        )
        book.add(made)
        book.add(
            *(
                FulfillmentLine(fulfillment_id=made.id, line_id=line.id, sku=line.sku, quantity=1)
                for line in sent
            )
        )


def _reservation(
    book: Book,
    of: Order,
    lines: Sequence[OrderLine],
    status: ReservationStatus,
    shop: Shop,
) -> None:
    book.add(Reservation(id=of.id, status=status, expires_at=book.at, created_at=book.at))
    units: dict[str, int] = {}
    for line in lines:
        units[line.sku] = units.get(line.sku, 0) + line.quantity
    for sku, quantity in sorted(units.items()):
        if status is ReservationStatus.ALLOCATED:
            book.units[sku] = book.units.get(sku, 0) + quantity
        book.add(
            ReservationLine(
                reservation_id=of.id,
                sku=sku,
                location_id=_location(book, shop, sku),
                quantity=quantity,
            )
        )


def _location(book: Book, shop: Shop, sku: str) -> LocationId:
    is_sold = any(
        product["variants"].get(sku, {}).get("available") for product in shop.products.values()
    )
    return LocationId((book.place if is_sold else book.closed).id)


def _events(book: Book, of: Order) -> None:
    assert of.number is not None
    placed = OrderPlaced(
        order_id=OrderId(of.id),
        number=of.number,
        customer_id=of.customer_id,
        total_amount=of.total_amount,
        currency=of.currency,
    )
    events: list[Any] = [placed]
    if of.status is OrderStatus.CANCELLED:
        events.append(OrderCancelled(order_id=OrderId(of.id), reason=""))
    book.add(AggregateCounter(aggregate_id=of.id, last_seq=len(events)))
    for seq, event in enumerate(events, 1):
        book.add(
            OutboxMessage(
                type=type(event).__name__,
                aggregate_type=event.aggregate,
                aggregate_id=of.id,
                aggregate_seq=seq,
                payload=event.model_dump(mode="json"),
                actor_role="system",
                occurred_at=book.at,
            )
        )


def _movement(
    account_id: UUID, amount: int, key: str, reason: str, reference_id: UUID, at: datetime
) -> CreditMovement:
    return CreditMovement(
        account_id=account_id,
        balance_delta=amount,
        key=key,
        reason=reason,
        reference_id=reference_id,
        occurred_at=at,
    )
