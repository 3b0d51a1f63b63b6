"""Word a tool result from templates, one per kind. Every figure comes from the result."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from agents import planner_tell
from db.types import Money
from tools.registry import Operation

LISTED_MAX = 6


def money(amount: int, currency: str) -> str:
    return str(Money(amount, currency))


def _units(count: int) -> str:
    return f"{count} unit" if count == 1 else f"{count} units"


def choices(titles: list[str]) -> str:
    return " ".join(f"{place}. {title}." for place, title in enumerate(titles[:LISTED_MAX], 1))


def products(data: Any, operation: str) -> str:
    items = data["items"]
    if not items:
        return "I found no product like that. Try other words, or ask which categories there are."
    lines = [
        f"{place}. {item['title']}, {money(item['price_amount'], item['currency'])}, "
        + (f"{item['available']} in stock" if item["available"] > 0 else "sold out")
        for place, item in enumerate(items[:LISTED_MAX], 1)
    ]
    more = " There are more." if len(items) > LISTED_MAX or data.get("next_cursor") else ""
    return "Here is what I found: " + "; ".join(lines) + "." + more


def product(data: Any, operation: str) -> str:
    variants = "; ".join(
        f"{v['title'] or data['title']} ({v['sku']}) {money(v['price_amount'], v['currency'])}, "
        + (f"{v['available']} in stock" if v["available"] > 0 else "sold out")
        for v in data["variants"][:LISTED_MAX]
    )
    about = data["description"].strip()
    about = about if len(about) <= 300 else about[:299].rsplit(" ", 1)[0] + "…"
    return " ".join(part for part in (f"{data['title']}.", about, variants + ".") if part)


# How a shopper says what a cart lacks.
_TOLD_SO = {
    "shipping_address": "deliver to name, street, postal code and city, country",
    "email": "your email",
    "shipping_method": "standard, express or pickup",
}


def cart(data: Any, operation: str) -> str:
    if not data["lines"]:
        return "Your cart is empty."
    currency = data["currency"]
    lines = ", ".join(f"{line['quantity']} × {line['title']}" for line in data["lines"])
    text = f"Your cart: {lines}. Total {money(data['total_amount'], currency)}"
    if data["discount_amount"]:
        text += f", {money(data['discount_amount'], currency)} off by {data['discount_code']}"
    if data["shipping_amount"]:
        text += f", {money(data['shipping_amount'], currency)} of it for shipping"
    if data["tax_amount"]:
        text += f", {money(data['tax_amount'], currency)} of it tax"
    missing = [p["message"] for p in data["problems"]]
    if not missing:
        return f"{text}. Everything is there: say “check out” to buy."
    fields = {p["field"] for p in data["problems"] if p["code"] == "missing"}
    hints = [hint for field, hint in _TOLD_SO.items() if field in fields]
    hint = f" Tell me: {', '.join(hints)}." if hints else ""
    return f"{text}. {' '.join(missing)}{hint}"


def _state(value: str) -> str:
    return value.replace("_", " ")


def order(data: Any, operation: str) -> str:
    lines = ", ".join(f"{line['quantity']} × {line['title']}" for line in data["lines"])
    return (
        f"Order #{data['number']} is {_state(data['status'])}, "
        f"payment {_state(data['payment_status'])}, "
        f"delivery {_state(data['fulfillment_status'])}: {lines}. "
        f"Total {money(data['total_amount'], data['currency'])}."
    )


def orders(data: Any, operation: str) -> str:
    if not data["items"]:
        return "There are no orders."
    lines = [
        f"#{item['number']} {_state(item['status'])}, "
        f"{money(item['total_amount'], item['currency'])}"
        for item in data["items"][:LISTED_MAX]
    ]
    more = " There are more." if len(data["items"]) > LISTED_MAX or data["next_cursor"] else ""
    return "Newest first: " + "; ".join(lines) + "." + more


def stock(data: Any, operation: str) -> str:
    text = f"{data['title']} ({data['sku']}): {_units(data['available'])} available."
    levels = "; ".join(
        f"{level['location']} {level['available']} available of {level['on_hand']} on hand"
        for level in data["levels"]
    )
    return f"{text} {levels}." if levels else text


def sales(data: Any, operation: str) -> str:
    currency = data["currency"]
    period = "Today" if operation == "analytics.sales_today" else f"Since {data['start'][:10]}"
    text = (
        f"{period}: {data['orders']} orders, {_units(data['units'])}, "
        f"{money(data['revenue_amount'], currency)} revenue"
    )
    if data["orders"]:
        text += f", {money(data['aov_amount'], currency)} per order"
    top = ", ".join(f"{item['title']} ({item['units']})" for item in data["top_products"][:3])
    return f"{text}. Best sellers: {top}." if top else f"{text}."


def waiting(data: Any, operation: str) -> str:
    preview = data["preview"]
    cost = ""
    if "charge_amount" in preview:
        cost = f" {money(preview['charge_amount'], preview['currency'])} will be charged."
    elif "refund_amount" in preview and "currency" in preview:
        cost = f" {money(preview['refund_amount'], preview['currency'])} goes back."
    summary = _yours(data["summary"])
    return f"This waits for your approval: {summary}{cost} Nothing has happened yet."


def _movements(data: Any, operation: str) -> str:
    lines = [
        f"{item['occurred_at'][:10]} {_state(item['kind'])} at {item['location']}: "
        f"{item['on_hand_delta']:+d} on hand"
        + (f" ({item['reason']})" if item.get("reason") else "")
        for item in data["items"][:LISTED_MAX]
    ]
    return "Newest first: " + "; ".join(lines) + "." if lines else "There are no movements."


def _credit_movements(data: Any, operation: str) -> str:
    lines = [
        f"{item['occurred_at'][:10]} {_credit_change(item)}"
        + (f" ({item['reason']})" if item["reason"] else "")
        for item in data["items"][:LISTED_MAX]
    ]
    return "Newest first: " + "; ".join(lines) + "." if lines else "There are no movements."


def _credit_change(item: Any) -> str:
    """Say what a movement did to the credit; one that spends what was held moves both."""
    moved, held = item["balance_delta"], item["held_delta"]
    up, down = ("added", "taken off") if moved else ("set aside", "set free")
    change = moved or held
    return f"{money(abs(change), item['currency'])} {up if change > 0 else down}"


def _low(data: Any, operation: str) -> str:
    lines = [f"{item['title']} ({item['sku']}): {item['available']}" for item in data]
    listed = "; ".join(lines[:LISTED_MAX])
    return f"Running low: {listed}." if lines else "Nothing is running low."


def _timeline(data: Any, operation: str) -> str:
    told = " ".join(f"{e['occurred_at'][:16].replace('T', ' ')} {e['summary']}" for e in data)
    return told or "Nothing has been noted of it yet."


def _categories(data: Any, operation: str) -> str:
    listed = ", ".join(f"{item['name']} ({item['products']})" for item in data)
    return f"We have: {listed}." if listed else "There are no categories yet."


def _user(data: Any, operation: str) -> str:
    done = "Done. " if operation == "user.rename" else ""
    return f"{done}You are {data['name']}, {data['email']}, signed in as {data['role']}."


def _users(data: Any, operation: str) -> str:
    listed = "; ".join(f"{u['name']}, {u['email']}, {u['role']}" for u in data["items"])
    return f"{listed}." if listed else "Nobody matches."


def _notifications(data: Any, operation: str) -> str:
    listed = "; ".join(
        f"{n['created_at'][:10]} “{n['subject']}” {_state(n['status'])}"
        for n in data["items"][:LISTED_MAX]
    )
    return f"Newest first: {listed}." if listed else "No messages have been sent yet."


def _payments(data: Any, operation: str) -> str:
    listed = "; ".join(
        f"{_state(p['state'])}, {money(p['amount'], p['currency'])}, "
        f"captured {money(p['captured_amount'], p['currency'])}, "
        f"refunded {money(p['refunded_amount'], p['currency'])}"
        for p in data
    )
    return f"Payments: {listed}." if listed else "There are no payments."


def _balances(data: Any, operation: str) -> str:
    listed = "; ".join(f"{a['account']} {money(a['balance_amount'], a['currency'])}" for a in data)
    return f"Balances: {listed}." if listed else "The ledger is empty."


def _discount(data: Any, operation: str) -> str:
    currency = data["currency"]
    takes = f"{data['percent']} %" if data["percent"] else money(data["amount"] or 0, currency)
    least = data["minimum_amount"]
    parts = [f"{data['code']} takes {takes} off"]
    parts += [f"goods of {money(least, currency)} or more"] if least else ["the goods"]
    parts += [f"from {data['starts_at'][:10]}"] if data["starts_at"] else []
    parts += [f"until {data['ends_at'][:10]}"] if data["ends_at"] else []
    of = f" of {data['uses_max']}" if data["uses_max"] else ""
    ended = "" if data["is_active"] else " It is switched off."
    return f"{' '.join(parts)}; used {data['uses']}{of} times.{ended}"


def _discounts(data: Any, operation: str) -> str:
    told = " ".join(_discount(item, operation) for item in data["items"][:LISTED_MAX])
    return told or "There are no discount codes."


def _answer(data: Any, operation: str) -> str:
    return " ".join(data["statements"])


def _receipt(data: Any, operation: str) -> str:
    currency = data["currency"]
    lines = ", ".join(
        f"{line['quantity']} × {line['title']} {money(line['total_amount'], currency)}"
        for line in data["lines"]
    )
    ways = ", ".join(
        f"{money(t['captured_amount'], currency)} by {t['provider']}" for t in data["tenders"]
    )
    back = data["refunded_amount"]
    return (
        f"Order #{data['number']} of {data['ordered_at'][:10]}, {data['seller']}: {lines}; "
        f"shipping {money(data['shipping_amount'], currency)}, "
        f"tax {money(data['tax_amount'], currency)}. "
        f"Total {money(data['total_amount'], currency)}"
        + (f", paid {ways}" if ways else "")
        + (f", of which {money(back, currency)} went back" if back else "")
        + "."
    )


def _handover(data: Any, operation: str) -> str:
    if data["status"] == "resolved":
        return f"Case {data['number']} is closed."
    return (
        f"I have handed this over to a person, as case {data['number']}. They read all that was "
        f"said here and answer to {data['email']}."
    )


def _aftersales_policy(data: Any, operation: str) -> str:
    days = data["return_window_days"]
    window = "at any time" if days is None else f"within {days} days of delivery"
    edits = data["item_edits_max"]
    changed = "" if edits is None else f" The items of an order can be changed {edits} times."
    return (
        f"You can send things back {window}; the money goes back to the way you paid once they "
        "have arrived. Before an order ships you can cancel it, and all of it is refunded."
        f"{changed}"
    )


_BY_KIND: Mapping[str, Callable[[Any, str], str]] = {
    "products": products,
    "product": product,
    "cart": cart,
    "order": order,
    "orders": orders,
    "stock": stock,
    "sales": sales,
    "waiting": waiting,
    "Page[MovementView]": _movements,
    "Page[CreditMovementView]": _credit_movements,
    "list[LowStock]": _low,
    "list[TimelineEntry]": _timeline,
    "list[CategoryView]": _categories,
    "UserView": _user,
    "DiscountView": _discount,
    "Page[DiscountView]": _discounts,
    "Answer": _answer,
    "Receipt": _receipt,
    "HandoverView": _handover,
    "PolicyInput": _aftersales_policy,
    "Page[UserView]": _users,
    "Page[NotificationView]": _notifications,
    "list[PaymentView]": _payments,
    "list[AccountBalance]": _balances,
}
_DONE = {
    "cart.add_item": "Added.",
    "cart.change_item": "Changed.",
    "cart.remove_item": "Removed.",
    "cart.deliver_to": "Noted.",
    "cart.apply_discount": "Applied.",
    "cart.remove_discount": "Taken off.",
    "promotion.create_code": "Made.",
    "promotion.end_code": "Done.",
    "promotion.resume_code": "Done.",
    "inventory.adjust": "Booked.",
}
QUESTIONS = {
    "number": "Which order do you mean? Tell me its number.",
    "reason": "Why? I keep the reason with it.",
    "quantity": "How many?",
    "sku": "Which product do you mean?",
    "handle_or_sku": "Which product do you mean?",
    "query": "What are you looking for?",
    "days": "Of how many days?",
    "location": "At which location? Tell me its code, such as HAM.",
    "delta": "By how many units?",
    "counted": "How many did you count?",
    "source": "From which location? Tell me its code, such as HAM.",
    "target": "To which location? Tell me its code, such as ROT.",
    "name": "Which name?",
    "email": "Which email address should it go to?",
    "lines": "Which items, and how many of each?",
    "changes": "Which item should become which? Tell me both SKUs, such as MUG-BLUE to MUG-RED.",
    "address": "Which address? Tell me name, street, postal code and city, country.",
    "new_sku": "Which variant should it become? Tell me its SKU.",
    "case": "Which case? Tell me its number.",
    "note": "How was it resolved?",
    "code": "What is the code?",
    "at": "For which day? Such as 2026-01-31.",
    "line1": "Which street and number?",
    "postal_code": "Which postal code and city?",
    "city": "Which city?",
    "country_code": "Which country? Two letters, such as DE.",
}


def tell(kind: str, data: Any, operation: str) -> str:
    """Word one result."""
    if kind == "failed":
        return f"That did not work: {data}"
    word = _BY_KIND.get(kind)
    said = word(data, operation) if word else planner_tell.told(data) or "Done."
    done = _DONE.get(operation, "") if kind != "waiting" else ""
    return f"{done} {said}".strip()


_YOURS = (
    ("the shopper's own ", "your "), ("the shopper's current ", "your "),
    ("the shopper's ", "your "),
    ("the signed-in person's ", "your "), ("the person's ", "your "), ("one's own ", "your "),
)  # fmt: skip


def _yours(said: str) -> str:
    for theirs, yours in _YOURS:
        said = said.replace(theirs, yours)
    return said


def gist(operation: Operation) -> str:
    """Return what an operation does, from its own description, as the end of a sentence."""
    first = (inspect.getdoc(operation.run) or "").split("\n\n")[0].replace("\n", " ").rstrip(".")
    first = _yours(re.split(r"[;:]|\. ", first, maxsplit=1)[0])
    return first[:1].lower() + first[1:]


def about(slots: Mapping[str, Any], currency: str) -> str:
    """Name what something is to be done with, as far as it was made out: `order #7, EUR 5.00`."""
    return ", ".join(_named(name, value, currency) for name, value in slots.items())


def _named(name: str, value: Any, currency: str) -> str:
    if name == "number":
        return f"order #{value}"
    if name.endswith("amount") and isinstance(value, int):
        return money(value, currency)
    if name == "delta" and isinstance(value, int):
        return f"{value:+d}"
    if isinstance(value, list):
        return ", ".join(_named("", item, currency) for item in value)
    if isinstance(value, dict) and {"sku", "quantity"} <= value.keys():
        return f"{value['quantity']} × {value['sku']}"
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    if name in ("source", "target"):
        return f"{'from' if name == 'source' else 'to'} {value}"
    if name in ("quantity", "units", "counted"):
        return _units(value)
    return f"{name} {value}" if name in ("location", "reason") else str(value)


def offer(
    operation: Operation, slots: Mapping[str, Any], currency: str, *, is_certain: bool
) -> str:
    """Ask whether to do something that was asked about."""
    said = about({n: v for n, v in slots.items() if not n.endswith("_id")}, currency)
    with_it = f" ({said})" if said else ""
    if is_certain:
        return f"I can do that for you here: {gist(operation)}{with_it}. Shall I?"
    return f"Do you want me to {gist(operation)}{with_it}? Say yes, or put it in other words."


def question(missing: str, currency: str) -> str:
    """Ask for a parameter; amounts are answered in `currency`."""
    if missing.endswith("amount"):
        return f"How much, in {currency}?"
    known = QUESTIONS.get(missing)
    if known is not None:
        return known
    noun = missing.removesuffix("_id").removesuffix("_code").replace("_", " ")
    return f"Which {noun}?" if missing.endswith(("_id", "_code")) else f"What is the {noun}?"
