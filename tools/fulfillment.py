"""Parcels: what leaves, and that it arrived. An order ships whole."""

from datetime import datetime
from typing import Any
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
from tools.reversal import OrderUndelivered, OrderUnshipped


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


async def to_send(uow: UnitOfWork, number: int, **_: Any) -> dict[str, Any] | None:
    """Return what takes a shipment back once it is made, if it is not yet."""
    return await _in(uow, number, FulfillmentStatus.UNFULFILLED)


async def on_its_way(uow: UnitOfWork, number: int) -> dict[str, Any] | None:
    """Return what takes a delivery back once it is made, if the parcel has just left."""
    return await _in(uow, number, FulfillmentStatus.FULFILLED)


async def sent_as(uow: UnitOfWork, number: int) -> dict[str, Any] | None:
    """Return what ships an order again as it was shipped, if it is."""
    of = await order.access(uow, number)
    if of.fulfillment_status is not FulfillmentStatus.FULFILLED:
        return None
    parcel = await _last(uow, of)
    if parcel is None:
        return None
    return {
        "number": number,
        "tracking_number": parcel.tracking_number,
        "carrier": parcel.carrier,
    }


async def arrived(uow: UnitOfWork, number: int) -> dict[str, Any] | None:
    """Return what delivers an order again, if it is delivered."""
    return await _in(uow, number, FulfillmentStatus.DELIVERED)


async def _in(uow: UnitOfWork, number: int, status: FulfillmentStatus) -> dict[str, Any] | None:
    of = await order.access(uow, number)
    return {"number": number} if of.fulfillment_status is status else None


@operation(
    scope="order:manage",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="order.unship",
    restore=to_send,
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
    tracking_number, carrier = marks(tracking_number, carrier)
    of = await order.access(uow, number, lock=True)
    if of.fulfillment_status is FulfillmentStatus.FULFILLED:
        return await _view(uow, await _live(uow, of))
    if not aftersales.may_edit(of):
        raise IllegalTransition("order", of.status.value, "shipped")
    await aftersales.refuse_pending_edit(uow, of)
    await inventory.ship(uow, order_id=OrderId(of.id))
    parcel = Fulfillment(
        order_id=of.id,
        carrier=carrier,
        tracking_number=tracking_number,
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
    inverse="order.ship",
    restore=sent_as,
    domain="order",
    examples=(
        "order {number} has not left after all",
        "order {number} was marked as shipped by mistake",
        "take back the shipment of order {number}",
        "mark order {number} as not shipped",
    ),
)
async def unship(uow: UnitOfWork, number: int) -> ParcelView:
    """Take back that an order was shipped: its units are allocated again and it can be changed.

    No money moves: shipping takes none. Repeating it changes nothing.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order.
        IllegalTransition: It has not been shipped, or was delivered.
        Conflict: It was shipped before parcels were recorded.
    """
    of = await order.access(uow, number, lock=True)
    if of.fulfillment_status is not FulfillmentStatus.FULFILLED:
        last = await _last(uow, of, is_live=False)
        if last is None or of.fulfillment_status is not FulfillmentStatus.UNFULFILLED:
            raise IllegalTransition("order", of.fulfillment_status.value, "unshipped")
        return await _view(uow, last)
    parcel = await _live(uow, of)
    await inventory.unship(uow, order_id=OrderId(of.id))
    _become(parcel, FulfillmentState.CANCELLED)
    of.fulfillment_status = FulfillmentStatus.UNFULFILLED
    uow.publish(OrderUnshipped(order_id=OrderId(of.id), fulfillment_id=parcel.id))
    await uow.session.flush()
    return await _view(uow, parcel)


@operation(
    scope="order:manage",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="order.undeliver",
    restore=on_its_way,
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
    _become(parcel, FulfillmentState.DELIVERED)
    parcel.delivered_at = uow.now
    of.fulfillment_status = FulfillmentStatus.DELIVERED
    if of.status is OrderStatus.PLACED:
        await uow.session.flush()
        await order.transition(uow, of, OrderStatus.COMPLETED)
    uow.publish(OrderDelivered(order_id=OrderId(of.id), fulfillment_id=parcel.id))
    await uow.session.flush()
    return await _view(uow, parcel)


@operation(
    scope="order:manage",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="order.deliver",
    restore=arrived,
    domain="order",
    examples=(
        "order {number} was not delivered after all",
        "order {number} was marked as delivered by mistake",
        "take back the delivery of order {number}",
        "mark order {number} as not delivered",
    ),
)
async def undeliver(uow: UnitOfWork, number: int) -> ParcelView:
    """Take back that an order's parcel arrived: it is on its way. Repeating it changes nothing.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order.
        IllegalTransition: It has not been delivered.
        Conflict: There is a return or an exchange of what was delivered.
    """
    of = await order.access(uow, number, lock=True)
    if of.fulfillment_status is FulfillmentStatus.FULFILLED:
        return await _view(uow, await _live(uow, of))
    if of.fulfillment_status is not FulfillmentStatus.DELIVERED:
        raise IllegalTransition("order", of.fulfillment_status.value, "undelivered")
    if await aftersales.requests_of(uow, of):
        raise Conflict("There is a return or an exchange of this order.", current="delivered")
    parcel = await _live(uow, of)
    _become(parcel, FulfillmentState.SHIPPED)
    parcel.delivered_at = None
    of.fulfillment_status = FulfillmentStatus.FULFILLED
    if of.status is OrderStatus.COMPLETED:
        await uow.session.flush()
        await order.transition(uow, of, OrderStatus.PLACED)
    uow.publish(OrderUndelivered(order_id=OrderId(of.id), fulfillment_id=parcel.id))
    await uow.session.flush()
    return await _view(uow, parcel)


def _become(parcel: Fulfillment, state: FulfillmentState) -> None:
    assert state in FULFILLMENT_TRANSITIONS[parcel.state], parcel.state
    parcel.state = state


def marks(tracking_number: str, carrier: str) -> tuple[str, str]:
    """Return what a parcel is known by, as it is kept.

    Raises:
        InvalidInput: A text is too long.
    """
    if len(tracking_number) > 100 or len(carrier) > 64:
        raise InvalidInput("tracking_number has 100 characters at most, carrier 64.")
    return tracking_number.strip(), carrier.strip()


async def _live(uow: UnitOfWork, of: Order) -> Fulfillment:
    """Return the parcel of a shipped order.

    Raises:
        Conflict: It was shipped before parcels were recorded.
    """
    parcel = await _last(uow, of)
    if parcel is None:
        raise Conflict("No parcel of this order is known.", current=of.fulfillment_status.value)
    return parcel


async def _last(uow: UnitOfWork, of: Order, *, is_live: bool = True) -> Fulfillment | None:
    """Return the newest parcel of an order, by default of those that were not cancelled."""
    query = select(Fulfillment).where(Fulfillment.order_id == of.id)
    if is_live:
        query = query.where(Fulfillment.state != FulfillmentState.CANCELLED)
    return (await uow.session.exec(query.order_by(col(Fulfillment.id).desc()).limit(1))).first()


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
