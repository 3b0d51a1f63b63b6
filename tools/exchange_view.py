"""Exchanges as people see them: one, those of an order, and what one would do."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from db.models.aftersales import OrderExchange, OrderExchangeLine, RequestState
from db.models.order import Order
from deps.core import UnitOfWork
from tools import order
from tools.registry import Risk, operation


class ExchangeLineView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    sku: str
    unit_price_amount: int
    new_sku: str
    new_unit_price_amount: int
    quantity: int


class ExchangeView(BaseModel):
    """An exchange. `difference_amount` is charged, or given back when negative, on arrival."""

    id: UUID
    number: int = Field(description="Of the order.")
    state: RequestState
    lines: list[ExchangeLineView]
    difference_amount: int
    currency: str
    payment_method: UUID | None
    reason: str
    refund_id: UUID | None
    created_at: datetime
    finished_at: datetime | None


class ExchangePreview(BaseModel):
    """What asking for an exchange would do. No money moves before the parcel has arrived."""

    number: int
    exchange_id: UUID
    lines: list[ExchangeLineView]
    charge_amount: int
    refund_amount: int
    currency: str


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    domain="exchange",
    examples=(
        "what became of my exchange of order {number}",
        "show the exchanges of order {number}",
        "has the exchange of order {number} been sent",
        "list exchanges for order {number}",
    ),
)
async def list_for_order(uow: UnitOfWork, number: int) -> list[ExchangeView]:
    """List the exchanges of an order, oldest first.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order, or it is someone else's.
    """
    of = await order.access(uow, number)
    query = select(OrderExchange).where(OrderExchange.order_id == of.id)
    rows = await uow.session.exec(query.order_by(col(OrderExchange.id)))
    return [await view(uow, found, of) for found in rows]


async def lines_of(uow: UnitOfWork, exchange_id: UUID) -> list[OrderExchangeLine]:
    query = select(OrderExchangeLine).where(OrderExchangeLine.exchange_id == exchange_id)
    return list(await uow.session.exec(query.order_by(col(OrderExchangeLine.position))))


async def view(uow: UnitOfWork, found: OrderExchange, of: Order) -> ExchangeView:
    assert of.number is not None
    lines = await lines_of(uow, found.id)
    return ExchangeView(
        id=found.id,
        number=of.number,
        state=found.state,
        lines=[ExchangeLineView.model_validate(line) for line in lines],
        difference_amount=found.difference_amount,
        currency=found.currency,
        payment_method=found.method_id,
        reason=found.reason,
        refund_id=found.refund_id,
        created_at=found.created_at,
        finished_at=found.finished_at,
    )
