"""Refund agent: what could go back, what was asked for, and how far it came.

It may look up orders and payments because people name an order, not a refund.
"""

from agents.base import build_agent, operations_of

refund_agent = build_agent(
    "refund",
    operations_of("refund", also=["order.get", "order.list_mine", "payment.list_for_order"]),
)
