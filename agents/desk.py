"""Which agent serves an operation, where its domain has none of its own."""

from collections.abc import Mapping

from tools.registry import OPERATIONS

# Cart and checkout are one desk with orders: a sale is one conversation.
SERVED_BY: Mapping[str, str] = {
    "address": "user",
    "bundle": "inventory",
    "capture": "payment",
    "cart": "order",
    "checkout": "order",
    "credit": "payment",
    "dispute": "payment",
    "exchange": "aftersales",
    "handover": "support",
    "help": "support",
    "location": "inventory",
    "method": "payment",
    "order_edit": "aftersales",
    "receipt": "support",
    "reconciliation": "payment",
    "return": "aftersales",
    "stock": "inventory",
    "stock_count": "inventory",
    "stock_ledger": "inventory",
    "stock_rule": "inventory",
    "transfer": "inventory",
    "webhook": "payment",
}


def desk_of(domain: str) -> str:
    return SERVED_BY.get(domain, domain)


def tool_of(key: str) -> str:
    return key.replace(".", "_")


def key_of(tool: str) -> str:
    """Return the key of the operation a tool stands for; unknown tools keep their name."""
    return next((key for key in OPERATIONS if tool_of(key) == tool), tool)
