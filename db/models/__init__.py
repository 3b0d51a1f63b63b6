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
    idempotency,
    inventory,
    notification,
    order,
    outbox,
    payment,
    product,
    refund,
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
    "idempotency",
    "inventory",
    "metadata",
    "notification",
    "order",
    "outbox",
    "payment",
    "product",
    "refund",
    "stock_count",
    "stock_rule",
    "transfer",
    "user",
]
