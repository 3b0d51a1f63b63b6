"""Every table, imported here so that `SQLModel.metadata` is complete for Alembic."""

from sqlmodel import SQLModel

from db.models import (
    aftersales,
    agent,
    cart,
    conversation,
    credit,
    customer,
    fulfillment,
    handover,
    idempotency,
    inventory,
    notification,
    order,
    outbox,
    payment,
    product,
    refund,
    spend,
    stock_count,
    stock_rule,
    transfer,
    user,
)

metadata = SQLModel.metadata

__all__ = [
    "aftersales",
    "agent",
    "cart",
    "conversation",
    "credit",
    "customer",
    "fulfillment",
    "handover",
    "idempotency",
    "inventory",
    "metadata",
    "notification",
    "order",
    "outbox",
    "payment",
    "product",
    "refund",
    "spend",
    "stock_count",
    "stock_rule",
    "transfer",
    "user",
]
