"""REST: changes of placed orders, their parcels, and what the shop allows after the sale."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import OrderNumber
from api.problems import problems
from deps.given import Given
from tools import aftersales, fulfillment, order_edit
from tools.address import Address
from tools.aftersales import PolicyInput
from tools.errors import (
    AftersalesLimit,
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientCredit,
    NotFound,
    OutOfStock,
    PaymentDeclined,
    Unauthenticated,
)
from tools.fulfillment import ParcelView
from tools.line_change import CHANGES_MAX, LineChange
from tools.order import OrderView
from tools.order_change import EditedOrder, OrderEditView
from tools.order_edit import AddressPreview, ItemsPreview, PaymentPreview

router = APIRouter(tags=["orders"])
SIGNED_IN = (Unauthenticated, Forbidden, NotFound)
NOT_NOW = (IllegalTransition, AftersalesLimit, Conflict)
NOT_PAID = (InsufficientCredit, PaymentDeclined)


class ItemChanges(Given):
    changes: list[LineChange] = Field(
        min_length=1,
        max_length=CHANGES_MAX,
        examples=[[{"sku": "MUG-BLUE", "new_sku": "MUG-RED", "quantity": 1}]],
    )
    payment_method: UUID | None = Field(
        default=None, description="Stored method that pays, or gets, the difference."
    )
    edit_id: UUID | None = Field(
        default=None, description="Your key of this change: the same id is the same change."
    )


class PaymentChange(Given):
    payment_method: UUID = Field(description="Stored method that shall pay for the order.")
    edit_id: UUID | None = Field(
        default=None, description="Your key of this change: the same id is the same change."
    )


class Shipment(Given):
    carrier: str = Field(default="", max_length=64, examples=["DHL"])
    tracking_number: str = Field(default="", max_length=100, examples=["00340434161094042557"])


@router.get("/orders/{number}/edits", responses=problems(NotFound))
async def list_edits(number: OrderNumber, uow: UowDep) -> list[OrderEditView]:
    """List what was changed in an order after it was placed, oldest first."""
    return await order_edit.list_for_order(uow, number)


@router.post(
    "/orders/{number}/edits/preview",
    dependencies=[needs("order:edit")],
    responses=problems(*SIGNED_IN, *NOT_NOW, OutOfStock, InsufficientCredit),
)
async def preview_items(number: OrderNumber, body: ItemChanges, uow: UowDep) -> ItemsPreview:
    """Say what changing the items would cost or give back. Changes nothing."""
    return await order_edit.preview_modify_items(
        uow, number, body.changes, body.payment_method, body.edit_id
    )


@router.post(
    "/orders/{number}/edits",
    dependencies=[needs("order:edit")],
    responses=problems(*SIGNED_IN, *NOT_NOW, OutOfStock, *NOT_PAID, IdempotencyMismatch),
)
async def modify_items(number: OrderNumber, body: ItemChanges, deps: DepsDep) -> EditedOrder:
    """Change items of an unshipped order into other variants; the difference is settled at once."""
    return await order_edit.modify_items(
        deps, number, body.changes, body.payment_method, body.edit_id
    )


@router.post(
    "/orders/{number}/payment/preview",
    dependencies=[needs("order:edit")],
    responses=problems(*SIGNED_IN, *NOT_NOW, InsufficientCredit),
)
async def preview_payment(number: OrderNumber, body: PaymentChange, uow: UowDep) -> PaymentPreview:
    """Say what paying otherwise would charge and give back. Changes nothing."""
    return await order_edit.preview_modify_payment(uow, number, body.payment_method, body.edit_id)


@router.put(
    "/orders/{number}/payment",
    dependencies=[needs("order:edit")],
    responses=problems(*SIGNED_IN, *NOT_NOW, *NOT_PAID, IdempotencyMismatch),
)
async def modify_payment(number: OrderNumber, body: PaymentChange, deps: DepsDep) -> EditedOrder:
    """Pay an unshipped order with another stored method; the old one is given back."""
    return await order_edit.modify_payment(deps, number, body.payment_method, body.edit_id)


@router.post(
    "/orders/{number}/shipping-address/preview",
    dependencies=[needs("order:edit")],
    responses=problems(*SIGNED_IN, IllegalTransition),
)
async def preview_address(number: OrderNumber, body: Address, uow: UowDep) -> AddressPreview:
    """Show the address an order has and the one it would get. Changes nothing."""
    return await order_edit.preview_modify_address(uow, number, body)


@router.put(
    "/orders/{number}/shipping-address",
    dependencies=[needs("order:edit")],
    responses=problems(*SIGNED_IN, IllegalTransition),
)
async def modify_address(number: OrderNumber, body: Address, uow: UowDep) -> OrderView:
    """Send an unshipped order to another address."""
    return await order_edit.modify_address(uow, number, body)


@router.get("/orders/{number}/parcels", responses=problems(NotFound))
async def list_parcels(number: OrderNumber, uow: UowDep) -> list[ParcelView]:
    """List the parcels of an order with their tracking numbers."""
    return await fulfillment.parcels(uow, number)


@router.post(
    "/orders/{number}/ship",
    dependencies=[needs("order:manage")],
    responses=problems(*SIGNED_IN, IllegalTransition, Conflict),
)
async def ship_order(number: OrderNumber, body: Shipment, uow: UowDep) -> ParcelView:
    """Record that a placed order has left (staff)."""
    return await fulfillment.ship(uow, number, body.tracking_number, body.carrier)


@router.post(
    "/orders/{number}/deliver",
    dependencies=[needs("order:manage")],
    responses=problems(*SIGNED_IN, IllegalTransition, Conflict),
)
async def deliver_order(number: OrderNumber, uow: UowDep) -> ParcelView:
    """Record that an order's parcel arrived (staff)."""
    return await fulfillment.deliver(uow, number)


@router.post(
    "/orders/{number}/unship",
    dependencies=[needs("order:manage")],
    responses=problems(*SIGNED_IN, IllegalTransition, Conflict),
)
async def unship_order(number: OrderNumber, uow: UowDep) -> ParcelView:
    """Take back that an order has left: its units are allocated again (staff)."""
    return await fulfillment.unship(uow, number)


@router.post(
    "/orders/{number}/undeliver",
    dependencies=[needs("order:manage")],
    responses=problems(*SIGNED_IN, IllegalTransition, Conflict),
)
async def undeliver_order(number: OrderNumber, uow: UowDep) -> ParcelView:
    """Take back that an order's parcel arrived: it is on its way (staff)."""
    return await fulfillment.undeliver(uow, number)


@router.get("/aftersales-policy", responses=problems())
async def read_policy(uow: UowDep) -> PolicyInput:
    """Show what the shop allows after the sale."""
    return await aftersales.policy(uow)


@router.put(
    "/aftersales-policy",
    dependencies=[needs("order:manage")],
    responses=problems(Unauthenticated, Forbidden),
)
async def change_policy(body: PolicyInput, uow: UowDep) -> PolicyInput:
    """Change what the shop allows after the sale, as a whole (staff)."""
    return await aftersales.set_policy(uow, body)
