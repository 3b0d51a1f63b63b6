"""Refund agent: what could go back, what was asked for, and how far it came.

It may look up orders and payments because people name an order, not a refund.
"""

from agents.base import build_agent, operations_of
from tools import order as _orders  # noqa: F401  Registers the operations.
from tools import payment as _payments  # noqa: F401
from tools import refund_desk as _desk  # noqa: F401
from tools import refund_view as _views  # noqa: F401

refund_agent = build_agent(
    "refund",
    operations_of("refund", also=["order.get", "order.list_mine", "payment.list_for_order"]),
)
