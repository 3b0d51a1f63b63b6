"""Mails after the sale: how to send things back, that a parcel has left, that an order changed."""

from collections.abc import Mapping

from db.models.order import Order
from db.types import Money
from deps.core import UnitOfWork
from tools import notification
from tools.events import (
    ExchangeRequested,
    OrderAddressChanged,
    OrderEdited,
    OrderPaymentChanged,
    OrderShipped,
    ReturnRequested,
)
from tools.reversal import OrderUnshipped


async def tell_return(uow: UnitOfWork, event: ReturnRequested) -> None:
    """Say how to send a return back, and what follows."""
    value = Money(event.amount, event.currency)
    body = (
        f"Please pack these and put this mail's number {event.return_id} in the parcel:\n\n"
        f"{_listed(event.units)}\n\nWhen it has arrived, {value} goes back to you."
    )
    await _queue(uow, event.order_id, f"return:{event.return_id}", "Your return", body)


async def tell_exchange(uow: UnitOfWork, event: ExchangeRequested) -> None:
    """Say how to send the old units of an exchange back, and what follows."""
    difference = Money(abs(event.difference_amount), event.currency)
    money = {
        1: f"{difference} is charged then.",
        -1: f"{difference} goes back to you then.",
        0: "It costs you nothing.",
    }[(event.difference_amount > 0) - (event.difference_amount < 0)]
    body = (
        f"Please pack these and put this mail's number {event.exchange_id} in the parcel:\n\n"
        f"{_listed(event.removed)}\n\nWhen they have arrived, we send:\n\n"
        f"{_listed(event.added)}\n\nWe keep them for you. {money}"
    )
    await _queue(uow, event.order_id, f"exchange:{event.exchange_id}", "Your exchange", body)


async def tell_shipped(uow: UnitOfWork, event: OrderShipped) -> None:
    by = f" with {event.carrier}" if event.carrier else ""
    tracking = f" Its tracking number is {event.tracking_number}." if event.tracking_number else ""
    await _queue(
        uow,
        event.order_id,
        f"shipped:{event.fulfillment_id}",
        "Your parcel has left",
        f"It is on its way{by}.{tracking}",
    )


async def tell_unshipped(uow: UnitOfWork, event: OrderUnshipped) -> None:
    await _queue(
        uow,
        event.order_id,
        f"unshipped:{event.fulfillment_id}",
        "Your parcel has not left yet",
        "We told you too early that it is on its way. You hear from us again when it leaves.",
    )


async def tell_change(
    uow: UnitOfWork, event: OrderEdited | OrderAddressChanged | OrderPaymentChanged
) -> None:
    """Confirm a change; whoever did not ask for it learns of it so."""
    said = {
        OrderEdited: "Its items were changed.",
        OrderAddressChanged: "It goes to another address now.",
        OrderPaymentChanged: "It is paid in another way now.",
    }[type(event)]
    body = f"{said} If that was not you, answer this mail at once."
    await _queue(uow, event.order_id, f"edit:{event.edit_id}", "Your order was changed", body)


def _listed(units: Mapping[str, int]) -> str:
    return "\n".join(f"  {quantity} x {sku}" for sku, quantity in units.items())


async def _queue(uow: UnitOfWork, order_id: object, key: str, subject: str, body: str) -> None:
    of = await uow.session.get_one(Order, order_id)
    await notification.queue(
        uow,
        key=key,
        template=key.partition(":")[0],
        recipient=of.email,
        subject=f"{subject}: order {of.number}",
        body=f"{body}\n\n{uow.settings.shop_name}\n",
        customer_id=of.customer_id,
    )
