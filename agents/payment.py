"""Payment agent: how orders were paid, stored methods, credit, and what providers say of it all."""

from agents.base import build_agent, operations_of

payment_agent = build_agent(
    "payment",
    operations_of("payment", "credit", "capture", "method", "dispute", "webhook", "reconciliation"),
)
