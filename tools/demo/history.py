"""A year of the demo shop's trade: who bought what and when, and the rows that record it.

The sales are the same on every machine; only their dates hang on the day of loading, so that
"today" and "last week" always have something to show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlmodel import SQLModel

from db.models.inventory import Reservation, ReservationLine, StockMovement
from db.models.order import Order, OrderLine
from db.models.payment import LedgerEntry, Payment
from tools.catalog_clean import slug
from tools.catalog_entry import ProductEntry, VariantEntry
from tools.demo import catalog
from tools.product import full_title
from tools.shipping import shipping_methods

ORDERS = 1500
CUSTOMERS = 60
SPAN = timedelta(days=366)
# Younger orders wait in the warehouse, with their stock allocated; older ones have left.
UNSHIPPED = timedelta(days=2)
# The youngest orders are of today. Loaded earlier in the day than this, they lie closer together.
TODAY = timedelta(minutes=440)
CURRENCY = "EUR"

_FIRST = (
    *("Anna", "Bram", "Clara", "Daan", "Elif", "Finn", "Greta", "Hugo", "Ines", "Jonas"),
    *("Kasia", "Lars", "Maja", "Nils", "Olga", "Piotr", "Rosa", "Sven", "Tessa", "Willem"),
)
_LAST = (
    *("Albers", "Bakker", "Claussen", "Dijkstra", "Ehlers"),
    *("Fischer", "Gorski", "Hansen", "Kowalska", "Petersen"),
)
_CITIES = (
    ("Hamburg", "20457", "DE"), ("Bremen", "28195", "DE"), ("Berlin", "10115", "DE"),
    ("Rotterdam", "3011 AA", "NL"), ("Utrecht", "3511 CE", "NL"), ("Gdansk", "80-831", "PL"),
    ("Aarhus", "8000", "DK"), ("Antwerp", "2000", "BE"), ("Vienna", "1010", "AT"),
)  # fmt: skip
_STREETS = ("Quay Street", "Mill Lane", "Lindenweg", "Kerkstraat", "Dockside", "Alte Gasse")

# The outbox keeps the sale; HANDLED says that everyone reacted to it then, so that no mail goes out
# for it now.
PUBLISHED = text("""
    WITH placed AS (
        INSERT INTO outbox (id, type, schema_version, aggregate_type, aggregate_id, aggregate_seq,
                            payload, actor_id, actor_role, occurred_at, published_at)
        SELECT md5(o.id::text || 'OrderPlaced')::uuid, 'OrderPlaced', 1, 'order', o.id, 1,
               jsonb_build_object('order_id', o.id, 'number', o.number,
                                  'customer_id', o.customer_id, 'total_amount', o.total_amount,
                                  'currency', o.currency),
               o.customer_id, 'customer', o.placed_at, :now
        FROM orders o WHERE o.id = ANY(:ids) ORDER BY o.number
        RETURNING aggregate_id)
    INSERT INTO aggregate_counter (aggregate_id, last_seq) SELECT aggregate_id, 1 FROM placed
""")

HANDLED = text("""
    INSERT INTO inbox (event_id, handler, handled_at)
    SELECT o.id, handler, o.occurred_at
    FROM outbox o CROSS JOIN unnest(CAST(:handlers AS text[])) AS handler
    WHERE o.aggregate_id = ANY(:ids) AND o.type = 'OrderPlaced'
    ON CONFLICT DO NOTHING
""")


@dataclass(frozen=True, slots=True)
class Item:
    product: ProductEntry
    variant: VariantEntry
    quantity: int


@dataclass(frozen=True, slots=True)
class Sale:
    order_id: UUID
    payment_id: UUID
    email: str
    ago: timedelta
    method: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class People:
    """Ids and names by email."""

    ids: Mapping[str, UUID]
    names: Mapping[str, str]


@cache
def customers() -> tuple[tuple[str, str], ...]:
    """Return (email, name) of every customer but the demo's own shopper."""
    rng = Random(f"{catalog.SEED}/customers")
    names = rng.sample([f"{first} {last}" for first in _FIRST for last in _LAST], CUSTOMERS)
    return tuple((f"{slug(name).replace('-', '.')}@example.com", name) for name in names)


@cache
def sales() -> tuple[Sale, ...]:
    """Return every sale, oldest first."""
    rng = Random(f"{catalog.SEED}/sales")
    emails = [email for email, _ in customers()]
    # A few buy often and most seldom, as in any shop.
    weights = [1 / (place + 2) for place in range(len(emails))]
    shelves = sorted({product.category or "" for product in catalog.products()})
    tastes = {email: rng.sample(shelves, 2) for email in emails}
    tastes["shopper@example.com"] = ["Kitchen", "Tea & Coffee"]
    agos = sorted((_ago(rng) for _ in range(ORDERS - 5)), reverse=True)
    agos += [timedelta(minutes=minutes) for minutes in (430, 245, 130, 55, 12)]
    made = []
    for place, ago in enumerate(agos):
        email = rng.choices(emails, weights)[0]
        if place % 150 == 75 or place == len(agos) - 3:
            email = "shopper@example.com"
        made.append(
            Sale(
                order_id=UUID(int=rng.getrandbits(128), version=4),
                payment_id=UUID(int=rng.getrandbits(128), version=4),
                email=email,
                ago=ago,
                method=rng.choices(("standard", "express", "pickup"), (7, 2, 1))[0],
                items=_basket(rng, tastes[email]),
            )
        )
    return tuple(made)


def _ago(rng: Random) -> timedelta:
    # The square root leans towards today: the shop has been growing.
    days = 364 * (1 - rng.random() ** 0.7) + 0.4
    return timedelta(days=days)


@cache
def _shelf(name: str) -> tuple[list[tuple[ProductEntry, VariantEntry]], list[float]]:
    found = [
        (product, variant)
        for product in catalog.products()
        if product.category == name
        for variant in product.variants
        if _plenty(variant)
    ]
    Random(f"{catalog.SEED}/popular/{name}").shuffle(found)
    return found, [1 / (place + 3) for place in range(len(found))]


def _plenty(variant: VariantEntry) -> bool:
    """Mirror the draw of `load.opening_stock`: what it calls scarce has not been selling."""
    return Random(f"{catalog.SEED}/stock/{variant.sku}").random() >= 0.08


def _basket(rng: Random, taste: Sequence[str]) -> tuple[Item, ...]:
    items: dict[str, Item] = {}
    everything = sorted({product.category or "" for product in catalog.products()})
    for _ in range(rng.choices((1, 2, 3, 4), (5, 4, 2, 1))[0]):
        shelf = rng.choice(taste) if rng.random() < 0.7 else rng.choice(everything)
        found, weights = _shelf(shelf)
        product, variant = rng.choices(found, weights)[0]
        quantity = rng.choices((1, 2, 4), (8, 2, 1))[0] if variant.price_amount < 5000 else 1
        items[variant.sku] = Item(product, variant, quantity)
    return tuple(items.values())


Table = tuple[type[SQLModel], list[dict[str, Any]]]


def rows(
    wanted: Sequence[Sale],
    people: People,
    product_ids: Mapping[str, UUID],
    location_id: UUID,
    now: datetime,
) -> list[Table]:
    """Return the rows that record the sales, table by table in an order keys allow."""
    tables: dict[type[SQLModel], list[dict[str, Any]]] = {
        model: []
        for model in (
            Order, OrderLine, Payment, LedgerEntry, Reservation, ReservationLine, StockMovement,
        )
    }  # fmt: skip
    for sale in wanted:
        at = _placed_at(sale, now)
        shipped = sale.ago > UNSHIPPED
        order = _order(sale, people, at, shipped)
        tables[Order].append(order)
        tables[OrderLine] += _lines(sale, product_ids)
        tables[Payment].append(_payment(sale, order, at))
        tables[LedgerEntry] += _ledger(sale, order, at)
        tables[Reservation].append(
            {
                "id": sale.order_id,
                "status": "shipped" if shipped else "allocated",
                "expires_at": at + timedelta(minutes=15),
                "created_at": at,
            }
        )
        for item in sale.items:
            held = {"sku": item.variant.sku, "location_id": location_id}
            tables[ReservationLine].append(
                {"reservation_id": sale.order_id, "quantity": item.quantity, **held}
            )
            if not shipped:
                tables[StockMovement] += _movements(sale, item, held, at)
    return list(tables.items())


def _placed_at(sale: Sale, now: datetime) -> datetime:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if sale.ago > TODAY:
        return now - sale.ago
    return now - sale.ago * min(1.0, (now - midnight) / TODAY)


def _order(sale: Sale, people: People, at: datetime, shipped: bool) -> dict[str, Any]:
    rng = Random(f"{catalog.SEED}/address/{sale.email}")
    city, postal_code, country_code = rng.choice(_CITIES)
    subtotal = sum(item.variant.price_amount * item.quantity for item in sale.items)
    method = shipping_methods(CURRENCY)[sale.method]
    free = method.free_from_amount is not None and subtotal >= method.free_from_amount
    shipping = 0 if free else method.amount
    return {
        "id": sale.order_id,
        "customer_id": people.ids[sale.email],
        "email": sale.email,
        "status": "completed" if shipped else "placed",
        "payment_status": "captured",
        "fulfillment_status": "fulfilled" if shipped else "unfulfilled",
        "currency": CURRENCY,
        "subtotal_amount": subtotal,
        "shipping_amount": shipping,
        "tax_amount": 0,
        "discount_amount": 0,
        "total_amount": subtotal + shipping,
        "shipping_address": {
            "name": people.names[sale.email],
            "line1": f"{rng.choice(_STREETS)} {rng.randint(1, 99)}",
            "line2": None,
            "city": city,
            "region": None,
            "postal_code": postal_code,
            "country_code": country_code,
        },
        "shipping_method": sale.method,
        "created_at": at,
        "placed_at": at,
    }


def _lines(sale: Sale, product_ids: Mapping[str, UUID]) -> list[dict[str, Any]]:
    return [
        {
            "id": UUID(int=sale.order_id.int ^ (place + 1)),
            "order_id": sale.order_id,
            "sku": item.variant.sku,
            "product_id": product_ids[item.product.handle],
            "title": full_title(item.product.title, item.variant.title),
            "quantity": item.quantity,
            "unit_price_amount": item.variant.price_amount,
            "total_amount": item.variant.price_amount * item.quantity,
        }
        for place, item in enumerate(sale.items)
    ]


def _payment(sale: Sale, order: Mapping[str, Any], at: datetime) -> dict[str, Any]:
    return {
        "id": sale.payment_id,
        "order_id": sale.order_id,
        "provider": "scripted",
        "method_token": "tok_visa",
        "amount": order["total_amount"],
        "captured_amount": order["total_amount"],
        "refunded_amount": 0,
        "currency": CURRENCY,
        "state": "captured",
        "provider_reference": f"auth_{sale.payment_id}",
        "created_at": at,
        "updated_at": at,
    }


def _ledger(sale: Sale, order: Mapping[str, Any], at: datetime) -> list[dict[str, Any]]:
    amounts = {
        "clearing": order["total_amount"],
        "revenue": -order["subtotal_amount"],
        "shipping_revenue": -order["shipping_amount"],
    }
    return [
        {
            "transaction_id": sale.payment_id,
            "account": account,
            "amount": amount,
            "currency": CURRENCY,
            "order_id": sale.order_id,
            "occurred_at": at,
        }
        for account, amount in amounts.items()
        if amount
    ]


def _movements(
    sale: Sale, item: Item, held: Mapping[str, Any], at: datetime
) -> list[dict[str, Any]]:
    quantity = item.quantity
    deltas = (("reserve", quantity, 0), ("allocate", -quantity, quantity))
    return [
        {
            **held,
            "kind": kind,
            "on_hand_delta": 0,
            "reserved_delta": reserved,
            "allocated_delta": allocated,
            "reason": "",
            "reference_id": sale.order_id,
            "occurred_at": at,
        }
        for kind, reserved, allocated in deltas
    ]
