"""Which agent serves which domain."""

from collections.abc import Mapping
from enum import StrEnum

from pydantic_ai import Agent

from agents.aftersales import aftersales_agent
from agents.analytics import analytics_agent
from agents.inventory import inventory_agent
from agents.notification import notification_agent
from agents.order import order_agent
from agents.payment import payment_agent
from agents.product import product_agent
from agents.refund import refund_agent
from agents.support import support_agent
from agents.user import user_agent
from deps.core import Deps
from tools.registry import OPERATIONS, Operation


class Domain(StrEnum):
    PRODUCT = "product"
    ORDER = "order"
    AFTERSALES = "aftersales"
    INVENTORY = "inventory"
    PAYMENT = "payment"
    REFUND = "refund"
    ANALYTICS = "analytics"
    NOTIFICATION = "notification"
    USER = "user"
    SUPPORT = "support"


AGENTS: Mapping[Domain, Agent[Deps, str]] = {
    Domain.PRODUCT: product_agent,
    Domain.ORDER: order_agent,
    Domain.AFTERSALES: aftersales_agent,
    Domain.INVENTORY: inventory_agent,
    Domain.PAYMENT: payment_agent,
    Domain.REFUND: refund_agent,
    Domain.ANALYTICS: analytics_agent,
    Domain.NOTIFICATION: notification_agent,
    Domain.USER: user_agent,
    Domain.SUPPORT: support_agent,
}
assert AGENTS.keys() == set(Domain)

# Cart and checkout are one desk with orders: a sale is one conversation.
_SERVED_BY = {
    "order_edit": Domain.AFTERSALES,
    "return": Domain.AFTERSALES,
    "exchange": Domain.AFTERSALES,
    "address": Domain.USER,
    "cart": Domain.ORDER,
    "checkout": Domain.ORDER,
    "credit": Domain.PAYMENT,
    "capture": Domain.PAYMENT,
    "help": Domain.SUPPORT,
    "handover": Domain.SUPPORT,
    "receipt": Domain.SUPPORT,
    "transfer": Domain.INVENTORY,
    "stock_count": Domain.INVENTORY,
    "bundle": Domain.INVENTORY,
    "stock_rule": Domain.INVENTORY,
    "location": Domain.INVENTORY,
}


def domain_of(operation: Operation) -> Domain:
    return _SERVED_BY.get(operation.domain) or Domain(operation.domain)


def operations_in(domain: Domain) -> list[Operation]:
    return [operation for operation in OPERATIONS.values() if domain_of(operation) is domain]
