"""The benchmark's shop as one of ours: people, methods, gift cards, catalogue, stock, past orders.

Everything is written as the shop itself would have left it, so that every invariant holds: balances
through movements, stock through movements, payments with their ledger, orders with their event.
What the benchmark calls unavailable has its units at a location that does not sell.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel

from db.models.aftersales import AftersalesPolicy
from db.models.credit import CreditAccount, CreditHold, CreditKind, CreditMovement
from db.models.customer import CustomerAddress
from db.models.fulfillment import Fulfillment, FulfillmentLine, FulfillmentState
from db.models.inventory import (
    Location,
    MovementKind,
    Reservation,
    ReservationLine,
    ReservationStatus,
    StockMovement,
)
from db.models.order import FulfillmentStatus, Order, OrderLine, OrderStatus, PaymentStatus
from db.models.outbox import AggregateCounter, OutboxMessage
from db.models.payment import (
    Account,
    LedgerEntry,
    MethodKind,
    Payment,
    PaymentState,
    StoredMethod,
)
from db.models.product import Product, Variant
from db.models.refund import Refund, RefundPart, RefundState
from db.models.user import User
from db.types import LocationId, OrderId, PaymentId, ProductId, UserId, new_id
from deps.core import SYSTEM, Deps, UnitOfWork
from evals.tau import names
from evals.tau.data import DataMissing, Json, Shop
from tools.events import OrderCancelled, OrderPlaced
from tools.refund_share import Breakdown

UNITS = 100_000  # Of what can be had: more than all the calls of a run take.
POLICY = AftersalesPolicy(
    item_edits_max=1,
    payment_changes_max=1,
    requests_max=1,
    item_edit_closes=True,
    refunds_to_any_method=True,
    return_window_days=None,
    cancel_reasons=["no longer needed", "ordered by mistake"],
)
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
_KINDS = {"credit_card": MethodKind.CARD, "paypal": MethodKind.PAYPAL}


async def load(deps: Deps, shop: Shop) -> None:
    """Write the shop into an empty, migrated database, in one transaction.

    Raises:
        DataMissing: An order is in a state, or was paid in a way, that is not known.
    """
    async with deps.acting_as(SYSTEM).begin() as uow:
        book = _Book(uow.now - timedelta(days=30))
        book.add(AftersalesPolicy(**POLICY.model_dump()))
        products = _catalogue(book, shop)
        _people(book, shop)
        _orders(book, shop, products)
        _stock(book, shop)
        await book.write(uow)


class _Book:
    """Rows by table, in an order that keys allow."""

    TABLES: Sequence[type[SQLModel]] = (
        AftersalesPolicy, User, CustomerAddress, CreditAccount, StoredMethod, Location, Product,
        Variant, Order, OrderLine, Payment, Refund, RefundPart, CreditHold, CreditMovement,
        LedgerEntry, Fulfillment, FulfillmentLine, Reservation, ReservationLine, StockMovement,
        AggregateCounter, OutboxMessage,
    )  # fmt: skip

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.units: dict[str, int] = {}  # Allocated, by SKU.
        self.spent: dict[UUID, int] = {}  # By credit account, less what came back.
        self.place = Location(code="SALES", name="Everything on sale")
        self.closed = Location(code="CLOSED", name="Not for sale", is_active=False)
        self._rows: dict[type[SQLModel], list[SQLModel]] = {table: [] for table in self.TABLES}
        self.add(self.place, self.closed)

    def add(self, *rows: SQLModel) -> None:
        for row in rows:
            self._rows[type(row)].append(row)

    def post(self, transaction_id: UUID, of: UUID | None, amounts: Mapping[Account, int]) -> None:
        assert sum(amounts.values()) == 0
        self.add(
            *(
                LedgerEntry(
                    transaction_id=transaction_id,
                    account=account,
                    amount=amount,
                    currency=names.CURRENCY,
                    order_id=None if of is None else OrderId(of),
                    occurred_at=self.at,
                )
                for account, amount in amounts.items()
                if amount
            )
        )

    def hold(self, hold_id: UUID) -> CreditHold:
        found = next(row for row in reversed(self._rows[CreditHold]) if row.id == hold_id)  # type: ignore[attr-defined]
        assert isinstance(found, CreditHold)
        return found

    async def write(self, uow: UnitOfWork) -> None:
        # The benchmark does not say when a card was topped up: what was added comes first.
        self._rows[CreditMovement].sort(key=lambda row: row.balance_delta < 0)  # type: ignore[attr-defined]
        for table, rows in self._rows.items():
            # The bare table: given the class, an absent value would become the column's default.
            bare = SQLModel.metadata.tables[str(table.__tablename__)]
            drawn = {c.name for c in bare.columns if c.identity is not None and c.identity.always}
            generated = drawn | {c.name for c in bare.columns if c.computed is not None}
            values = [row.model_dump(exclude=generated) for row in rows]
            if values:
                await uow.session.execute(insert(bare), values)
        await uow.session.execute(
            text(
                "SELECT setval(pg_get_serial_sequence('orders', 'number'), max(number)) FROM orders"
            )
        )


def _catalogue(book: _Book, shop: Shop) -> dict[str, UUID]:
    ids: dict[str, UUID] = {}
    for product_id, product in shop.products.items():
        ids[product_id] = new_id()
        book.add(
            Product(
                id=ProductId(ids[product_id]),
                handle=product_id,
                title=product["name"],
                created_at=book.at,
                updated_at=book.at,
            )
        )
        for position, (item_id, item) in enumerate(product["variants"].items()):
            book.add(
                Variant(
                    sku=item_id,
                    product_id=ProductId(ids[product_id]),
                    title=" / ".join(str(value) for value in item["options"].values()),
                    options=item["options"],
                    price_amount=names.cents(item["price"]),
                    currency=names.CURRENCY,
                    position=position,
                )
            )
    return ids


def _people(book: _Book, shop: Shop) -> None:
    for user_id, user in shop.users.items():
        owner = UserId(names.user_uuid(user_id))
        name = f"{user['name']['first_name']} {user['name']['last_name']}"
        book.add(
            User(
                id=owner,
                email=user["email"].strip().lower(),
                name=name,
                password_hash="!",
                created_at=book.at,
            )
        )
        address = names.to_address(user["address"], name)
        book.add(
            CustomerAddress(
                customer_id=owner,
                postal_code=address.postal_code,
                address=address.model_dump(),
                updated_at=book.at,
            )
        )
        for at, (method_id, method) in enumerate(user["payment_methods"].items()):
            _method(book, owner, method_id, method, at)


def _method(book: _Book, owner: UserId, method_id: str, method: Json, at: int) -> None:
    is_gift_card = method["source"] == "gift_card"
    if not is_gift_card and method["source"] not in _KINDS:
        raise DataMissing(f"{method_id} is a {method['source']}: no such way to pay is known.")
    account_id = names.account_uuid(method_id) if is_gift_card else None
    if account_id is not None:
        book.add(
            CreditAccount(
                id=account_id,
                kind=CreditKind.GIFT_CARD,
                customer_id=owner,
                code_last4=method_id[-4:],
                currency=names.CURRENCY,
                created_at=book.at,
            )
        )
        # What was on it before the orders were paid with it.
        book.spent.setdefault(account_id, 0)
    book.add(
        StoredMethod(
            id=names.method_uuid(method_id),
            customer_id=owner,
            provider="credit" if is_gift_card else "scripted",
            token=method_id,
            kind=MethodKind.CREDIT if is_gift_card else _KINDS[method["source"]],
            brand=method.get("brand") or "",
            last4=method.get("last_four") or "",
            credit_account_id=account_id,
            created_at=book.at + timedelta(microseconds=at),
        )
    )


def _orders(book: _Book, shop: Shop, products: Mapping[str, UUID]) -> None:
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
    book: _Book,
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


def _payments(book: _Book, of: Order, order: Json, at: datetime) -> None:
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


def _payment(book: _Book, of: Order, method_id: str, amount: int, at: datetime) -> Payment:
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


def _spend(book: _Book, account_id: UUID, hold_id: UUID, amount: int, at: datetime) -> None:
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


def _refund(book: _Book, of: Order, tender: Payment, at: datetime) -> None:
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


def _fund(book: _Book, method_id: str, balance: int) -> None:
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


def _parcels(book: _Book, of: Order, lines: Sequence[OrderLine], order: Json, at: datetime) -> None:
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
    book: _Book,
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


def _location(book: _Book, shop: Shop, sku: str) -> LocationId:
    is_sold = any(
        product["variants"].get(sku, {}).get("available") for product in shop.products.values()
    )
    return LocationId((book.place if is_sold else book.closed).id)


def _stock(book: _Book, shop: Shop) -> None:
    """Receive what is on sale and what the open orders have, then allocate the latter."""
    allocated = []
    for product in shop.products.values():
        for sku, item in product["variants"].items():
            taken = book.units.get(sku, 0)
            where = LocationId((book.place if item["available"] else book.closed).id)
            on_hand = taken + (UNITS if item["available"] else 0)
            if on_hand:
                book.add(
                    StockMovement(
                        sku=sku,
                        location_id=where,
                        kind=MovementKind.RECEIVE,
                        on_hand_delta=on_hand,
                        reason="opening stock",
                        occurred_at=book.at,
                    )
                )
            if taken:
                allocated.append(
                    StockMovement(
                        sku=sku,
                        location_id=where,
                        kind=MovementKind.ALLOCATE,
                        allocated_delta=taken,
                        reason="open orders",
                        occurred_at=book.at,
                    )
                )
    book.add(*allocated)


def _events(book: _Book, of: Order) -> None:
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
