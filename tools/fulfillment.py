"""Parcels: what leaves, and that it arrived. An order ships whole."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlmodel import col, select

from db.models.fulfillment import (
    FULFILLMENT_TRANSITIONS,
    Fulfillment,
    FulfillmentLine,
    FulfillmentState,
)
from db.models.order import FulfillmentStatus, Order, OrderStatus
from db.types import OrderId
from deps.core import UnitOfWork
from tools import aftersales, inventory, line_change, order
from tools.errors import Conflict, IllegalTransition, InvalidInput
from tools.events import OrderDelivered, OrderShipped
from tools.registry import Risk, operation


class ParcelLine(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    sku: str
    quantity: int


class ParcelView(BaseModel):
    id: UUID
    state: FulfillmentState
    carrier: str
    tracking_number: str
    lines: list[ParcelLine]
    shipped_at: datetime
    delivered_at: datetime | None


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    domain="order",
    examples=(
        "where is the parcel of order {number}",
        "what is the tracking number of order {number}",
        "show the parcels of order {number}",
        "was order {number} delivered",
    ),
)
async def parcels(uow: UnitOfWork, number: int) -> list[ParcelView]:
    """List the parcels of an order with their tracking numbers.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order, or it is someone else's.
    """
    of = await order.access(uow, number)
    rows = await uow.session.exec(
        select(Fulfillment).where(Fulfillment.order_id == of.id).order_by(col(Fulfillment.id))
    )
    return [await _view(uow, row) for row in rows]


@operation(
    scope="order:manage",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    domain="order",
    examples=(
        "ship order {number} with {carrier}, tracking number {tracking_number}",
        "order {number} has left",
        "mark order {number} as shipped",
        "i handed order {number} to {carrier}",
    ),
)
async def ship(
    uow: UnitOfWork, number: int, tracking_number: str = "", carrier: str = ""
) -> ParcelView:
    """Record that a placed order has left: its units leave the stock. Safe to repeat.

    Args:
        number: The order's number.
        tracking_number: The carrier's number, if there is one.
        carrier: Who carries it.

    Raises:
        NotFound: No such order.
        IllegalTransition: It is not placed, or cancelled.
        Conflict: A change of it is being paid for, or it waits for units that are not here.
    """
    if len(tracking_number) > 100 or len(carrier) > 64:
        raise InvalidInput("tracking_number has 100 characters at most, carrier 64.")
    of = await order.access(uow, number, lock=True)
    if of.fulfillment_status is FulfillmentStatus.FULFILLED:
        return await _view(uow, await _live(uow, of))
    if not aftersales.may_edit(of):
        raise IllegalTransition("order", of.status.value, "shipped")
    await aftersales.refuse_pending_edit(uow, of)
    await inventory.ship(uow, order_id=OrderId(of.id))
    parcel = Fulfillment(
        order_id=of.id,
        carrier=carrier.strip(),
        tracking_number=tracking_number.strip(),
        shipped_at=uow.now,
    )
    uow.session.add(parcel)
    await uow.session.flush()
    for line in await line_change.lines_of(uow, OrderId(of.id)):
        uow.session.add(
            FulfillmentLine(
                fulfillment_id=parcel.id, line_id=line.id, sku=line.sku, quantity=line.quantity
            )
        )
    of.fulfillment_status = FulfillmentStatus.FULFILLED
    uow.publish(
        OrderShipped(
            order_id=OrderId(of.id),
            fulfillment_id=parcel.id,
            carrier=parcel.carrier,
            tracking_number=parcel.tracking_number,
        )
    )
    await uow.session.flush()
    return await _view(uow, parcel)


@operation(
    scope="order:manage",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    domain="order",
    examples=(
        "order {number} was delivered",
        "mark order {number} as delivered",
        "the parcel of order {number} has arrived",
        "the customer has got order {number}",
    ),
)
async def deliver(uow: UnitOfWork, number: int) -> ParcelView:
    """Record that an order's parcel arrived; it can be returned from then on. Safe to repeat.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order.
        IllegalTransition: It has not been shipped.
    """
    of = await order.access(uow, number, lock=True)
    if of.fulfillment_status is FulfillmentStatus.DELIVERED:
        return await _view(uow, await _live(uow, of))
    if of.fulfillment_status is not FulfillmentStatus.FULFILLED:
        raise IllegalTransition("order", of.fulfillment_status.value, "delivered")
    parcel = await _live(uow, of)
    assert FulfillmentState.DELIVERED in FULFILLMENT_TRANSITIONS[parcel.state], parcel.state
    parcel.state, parcel.delivered_at = FulfillmentState.DELIVERED, uow.now
    of.fulfillment_status = FulfillmentStatus.DELIVERED
    if of.status is OrderStatus.PLACED:
        await uow.session.flush()
        await order.transition(uow, of, OrderStatus.COMPLETED)
    uow.publish(OrderDelivered(order_id=OrderId(of.id), fulfillment_id=parcel.id))
    await uow.session.flush()
    return await _view(uow, parcel)


async def _live(uow: UnitOfWork, of: Order) -> Fulfillment:
    """Return the parcel of a shipped order.

    Raises:
        Conflict: It was shipped before parcels were recorded.
    """
    query = (
        select(Fulfillment)
        .where(Fulfillment.order_id == of.id)
        .where(Fulfillment.state != FulfillmentState.CANCELLED)
        .order_by(col(Fulfillment.id).desc())
        .limit(1)
    )
    parcel = (await uow.session.exec(query)).first()
    if parcel is None:
        raise Conflict("No parcel of this order is known.", current=of.fulfillment_status.value)
    return parcel


async def _view(uow: UnitOfWork, parcel: Fulfillment) -> ParcelView:
    lines = await uow.session.exec(
        select(FulfillmentLine)
        .where(FulfillmentLine.fulfillment_id == parcel.id)
        .order_by(col(FulfillmentLine.line_id))
    )
    return ParcelView(
        id=parcel.id,
        state=parcel.state,
        carrier=parcel.carrier,
        tracking_number=parcel.tracking_number,
        lines=[ParcelLine.model_validate(line) for line in lines],
        shipped_at=parcel.shipped_at,
        delivered_at=parcel.delivered_at,
    )
