"""Every table, imported here so that `SQLModel.metadata` is complete for Alembic."""

from sqlmodel import SQLModel

from db.models import (
    cart,
    conversation,
    credit,
    idempotency,
    inventory,
    notification,
    order,
    outbox,
    payment,
    product,
    refund,
    user,
)

metadata = SQLModel.metadata

__all__ = [
    "cart",
    "conversation",
    "credit",
    "idempotency",
    "inventory",
    "metadata",
    "notification",
    "order",
    "outbox",
    "payment",
    "product",
    "refund",
    "user",
]
