"""Which agent serves which domain."""

from collections.abc import Mapping
from enum import StrEnum

from pydantic_ai import Agent

from agents.aftersales import aftersales_agent
from agents.analytics import analytics_agent
from agents.desk import desk_of
from agents.inventory import inventory_agent
from agents.notification import notification_agent
from agents.order import order_agent
from agents.payment import payment_agent
from agents.product import product_agent
from agents.promotion import promotion_agent
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
    PROMOTION = "promotion"
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
    Domain.PROMOTION: promotion_agent,
    Domain.ANALYTICS: analytics_agent,
    Domain.NOTIFICATION: notification_agent,
    Domain.USER: user_agent,
    Domain.SUPPORT: support_agent,
}
assert AGENTS.keys() == set(Domain)


def domain_of(operation: Operation) -> Domain:
    return Domain(desk_of(operation.domain))


def operations_in(domain: Domain) -> list[Operation]:
    return [operation for operation in OPERATIONS.values() if domain_of(operation) is domain]
