"""Our rows in the benchmark's shape: orders and users as its own tools would show them.

Amounts stay whole cents; `names.dollars` is for what a tool answers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from db.models.order import FulfillmentStatus, OrderStatus
from deps.core import Deps
from evals.tau import names
from evals.tau.data import Json, Shop

_STATUS = {
    FulfillmentStatus.UNFULFILLED: "pending",
    FulfillmentStatus.FULFILLED: "processed",
    FulfillmentStatus.DELIVERED: "delivered",
}
_ORDERS = """
    SELECT o.id, o.number, o.customer_id, o.status, o.fulfillment_status, o.shipping_address,
           (SELECT e.payload->>'reason' FROM outbox e
             WHERE e.aggregate_id = o.id AND e.type = 'OrderCancelled') AS cancel_reason
      FROM orders o WHERE $1::bigint[] IS NULL OR o.number = ANY($1)
"""
_LINES = """
    SELECT l.order_id, l.sku, l.quantity, l.unit_price_amount, p.handle, p.title, v.options
      FROM order_line l JOIN product p ON p.id = l.product_id JOIN variant v ON v.sku = l.sku
     WHERE l.order_id = ANY($1) ORDER BY l.id
"""
_PARCELS = """
    SELECT f.order_id, f.id, f.tracking_number, l.sku, l.quantity
      FROM fulfillment f JOIN fulfillment_line l ON l.fulfillment_id = f.id
     WHERE f.order_id = ANY($1) ORDER BY f.id, l.line_id
"""
# A change of items that costs the same is a refund of nothing in the benchmark's history.
_MONEY = """
    SELECT order_id, 'payment' AS kind, captured_amount AS amount, provider, method_token,
           NULL::uuid AS method_id, NULL::uuid AS account_id, created_at, id
      FROM payment WHERE order_id = ANY($1) AND captured_amount > 0
    UNION ALL
    SELECT r.order_id, 'refund', part.amount, p.provider, p.method_token, part.method_id,
           part.credit_account_id, r.created_at, r.id
      FROM refund r JOIN refund_part part ON part.refund_id = r.id
      JOIN payment p ON p.id = part.payment_id
     WHERE r.order_id = ANY($1) AND part.state = 'succeeded'
    UNION ALL
    SELECT order_id, 'refund', 0, '', '', method_id, NULL, created_at, id
      FROM order_edit WHERE order_id = ANY($1) AND kind = 'items' AND state = 'applied'
                        AND difference_amount = 0
     ORDER BY created_at, id
"""
_EDITS = """
    SELECT DISTINCT order_id FROM order_edit
     WHERE order_id = ANY($1) AND kind = 'items' AND state = 'applied'
"""
_RETURNS = """
    SELECT r.order_id, r.method_id, l.sku, l.quantity FROM order_return r
      JOIN order_return_line l ON l.return_id = r.id
     WHERE r.order_id = ANY($1) AND r.state = 'requested'
"""
_EXCHANGES = """
    SELECT x.order_id, x.method_id, x.difference_amount, l.sku, l.new_sku, l.quantity
      FROM order_exchange x JOIN order_exchange_line l ON l.exchange_id = x.id
     WHERE x.order_id = ANY($1) AND x.state = 'requested'
"""
_USERS = """
    SELECT u.id, u.email, u.name, a.address,
           (SELECT coalesce(array_agg(number ORDER BY placed_at, number), '{}') FROM orders
             WHERE customer_id = u.id) AS numbers
      FROM app_user u LEFT JOIN customer_address a ON a.customer_id = u.id
     WHERE u.id = ANY($1)
"""
_METHODS = """
    SELECT m.id, m.customer_id, m.kind, m.brand, m.last4,
           c.balance_amount - c.held_amount AS balance
      FROM stored_method m LEFT JOIN credit_account c ON c.id = m.credit_account_id
     WHERE m.customer_id = ANY($1) ORDER BY m.created_at, m.id
"""
_SOURCES = {"card": "credit_card", "paypal": "paypal", "credit": "gift_card"}


@dataclass(slots=True)
class Names:
    """From our ids back to the benchmark's."""

    users: dict[UUID, str] = field(default_factory=dict)
    methods: dict[UUID, str] = field(default_factory=dict)
    accounts: dict[UUID, str] = field(default_factory=dict)

    @classmethod
    def of(cls, shop: Shop) -> "Names":
        found = cls()
        for user_id, user in shop.users.items():
            found.users[names.user_uuid(user_id)] = user_id
            for method_id in user["payment_methods"]:
                found.methods[names.method_uuid(method_id)] = method_id
                found.accounts[names.account_uuid(method_id)] = method_id
        return found

    def method(self, row: Mapping[str, Any]) -> str:
        if row["method_id"] is not None:
            return self.methods[row["method_id"]]
        if row["account_id"] is not None:
            return self.accounts[row["account_id"]]
        token: str = row["method_token"]
        return self.accounts[UUID(token)] if row["provider"] == "credit" else token


async def orders(deps: Deps, known: Names, numbers: Iterable[int] | None = None) -> dict[str, Json]:
    """Return orders by the benchmark's id: those numbered, or all."""
    async with deps.begin() as uow:
        rows = await uow.fetch(_ORDERS, None if numbers is None else list(numbers))
        ids = [row["id"] for row in rows]
        found = {row["id"]: _order(row, known) for row in rows}
        for line in await uow.fetch(_LINES, ids):
            found[line["order_id"]]["items"] += [_item(line) for _ in range(line["quantity"])]
        parcels: dict[UUID, Json] = {}
        for row in await uow.fetch(_PARCELS, ids):
            if row["id"] not in parcels:
                tracking = row["tracking_number"].split(", ") if row["tracking_number"] else []
                parcels[row["id"]] = {"tracking_id": tracking, "item_ids": []}
                found[row["order_id"]]["fulfillments"].append(parcels[row["id"]])
            parcels[row["id"]]["item_ids"] += [row["sku"]] * row["quantity"]
        for row in await uow.fetch(_MONEY, ids):
            found[row["order_id"]]["payment_history"].append(
                {
                    "transaction_type": row["kind"],
                    "amount": row["amount"],
                    "payment_method_id": known.method(row),
                }
            )
        for row in await uow.fetch(_EDITS, ids):
            order = found[row["order_id"]]
            if order["status"] == "pending":
                order["status"] = "pending (item modified)"
        for row in await uow.fetch(_RETURNS, ids):
            _add_return(found[row["order_id"]], row, known)
        for row in await uow.fetch(_EXCHANGES, ids):
            _add_exchange(found[row["order_id"]], row, known)
    for order in found.values():
        for key in ("return_items", "exchange_items", "exchange_new_items"):
            if order[key] is not None:
                order[key].sort()
    return {order["order_id"]: order for order in found.values()}


def _order(row: Mapping[str, Any], known: Names) -> Json:
    is_cancelled = row["status"] == OrderStatus.CANCELLED.value
    return {
        "order_id": names.order_id(row["number"]),
        "user_id": known.users[row["customer_id"]],
        "address": names.from_address(row["shipping_address"]),
        "items": [],
        "status": "cancelled"
        if is_cancelled
        else _STATUS[FulfillmentStatus(row["fulfillment_status"])],
        "fulfillments": [],
        "payment_history": [],
        "cancel_reason": row["cancel_reason"] or None,
        "exchange_items": None,
        "exchange_new_items": None,
        "exchange_payment_method_id": None,
        "exchange_price_difference": None,
        "return_items": None,
        "return_payment_method_id": None,
    }


def _item(line: Mapping[str, Any]) -> Json:
    return {
        "name": line["title"],
        "product_id": line["handle"],
        "item_id": line["sku"],
        "price": line["unit_price_amount"],
        "options": line["options"],
    }


def _add_return(order: Json, row: Mapping[str, Any], known: Names) -> None:
    order["status"] = "return requested"
    order["return_items"] = (order["return_items"] or []) + [row["sku"]] * row["quantity"]
    order["return_payment_method_id"] = known.methods.get(row["method_id"])


def _add_exchange(order: Json, row: Mapping[str, Any], known: Names) -> None:
    order["status"] = "exchange requested"
    for key, sku in (("exchange_items", "sku"), ("exchange_new_items", "new_sku")):
        order[key] = (order[key] or []) + [row[sku]] * row["quantity"]
    order["exchange_payment_method_id"] = known.methods.get(row["method_id"])
    order["exchange_price_difference"] = row["difference_amount"]


async def users(deps: Deps, known: Names, ids: Iterable[str] | None = None) -> dict[str, Json]:
    """Return users by the benchmark's id: those named, or all."""
    wanted = list(known.users) if ids is None else [names.user_uuid(user_id) for user_id in ids]
    async with deps.begin() as uow:
        found = {row["id"]: _user(row, known) for row in await uow.fetch(_USERS, wanted)}
        for row in await uow.fetch(_METHODS, list(found)):
            method_id = known.methods[row["id"]]
            method: Json = {"source": _SOURCES[row["kind"]], "id": method_id}
            if row["kind"] == "card":
                method |= {"brand": row["brand"], "last_four": row["last4"]}
            elif row["kind"] == "credit":
                method["balance"] = row["balance"]
            found[row["customer_id"]]["payment_methods"][method_id] = method
    return {user["user_id"]: user for user in found.values()}


def _user(row: Mapping[str, Any], known: Names) -> Json:
    first, _, last = row["name"].rpartition(" ")
    return {
        "user_id": known.users[row["id"]],
        "name": {"first_name": first, "last_name": last},
        "address": names.from_address(row["address"]),
        "email": row["email"],
        "payment_methods": {},
        "orders": [names.order_id(number) for number in row["numbers"]],
    }


_AMOUNTS = {"price", "amount", "balance", "exchange_price_difference"}


def shown(value: Any, key: str = "") -> Any:
    """Return an exported value as a tool of the benchmark shows it: amounts in dollars."""
    if isinstance(value, dict):
        return {name: shown(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [shown(item, key) for item in value]
    return names.dollars(value) if key in _AMOUNTS and value is not None else value


def normal(value: Any, key: str = "") -> Any:
    """Return a value of the benchmark's in a form that compares: whole cents, no absent fields,
    countries by code."""
    if isinstance(value, dict):
        return {name: normal(item, name) for name, item in value.items() if item not in (None, "")}
    if isinstance(value, list):
        return [normal(item, key) for item in value]
    if key in _AMOUNTS:
        return names.cents(value)
    if key == "country":
        return names.country_code(value)
    return value.lower() if key == "email" else value


def compact(value: Any, key: str = "") -> Any:
    """Return an exported value in the form of `normal`; its amounts are cents already."""
    if isinstance(value, dict):
        return {name: compact(item, name) for name, item in value.items() if item not in (None, "")}
    if isinstance(value, list):
        return [compact(item, key) for item in value]
    return names.country_code(value) if key == "country" else value
