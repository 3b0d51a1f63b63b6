"""REST: carts and checkout."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, status
from pydantic import Field

from api.deps import DepsDep, HotDep, UowDep
from api.problems import problems
from deps.given import Given
from tools import cart, cart_delivery, checkout
from tools.address import Address
from tools.cart import QUANTITY_MAX, CartView
from tools.errors import (
    CheckoutIncomplete,
    Conflict,
    NotFound,
    OutOfStock,
    PaymentDeclined,
    TotalChanged,
)
from tools.idempotency import current_claim
from tools.order import OrderView
from tools.shipping import ShippingMethod, shipping_methods

router = APIRouter(tags=["carts"])
Sku = Annotated[str, Path(max_length=64)]


class LineInput(Given):
    sku: str = Field(min_length=1, max_length=64, examples=["MUG-BLUE"])
    quantity: int = Field(default=1, ge=1, le=QUANTITY_MAX)


class QuantityInput(Given):
    quantity: int = Field(ge=0, le=QUANTITY_MAX, description="0 removes the line.")


class DetailsInput(Given):
    """What is left out stays as it is."""

    email: str | None = Field(default=None, max_length=254, examples=["ada@example.com"])
    shipping_address: Address | None = None
    shipping_method: str | None = Field(default=None, max_length=64, examples=["standard"])


class CompleteInput(Given):
    payment_method: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="The provider's token; leave out when there is nothing left to pay with it.",
        examples=["tok_visa"],
    )
    expected_total_amount: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="Minor units; the order is refused if it differs.",
    )


@router.get("/shipping-methods", responses=problems())
async def list_shipping_methods(deps: DepsDep) -> list[ShippingMethod]:
    """List the ways to deliver, in the shop's currency."""
    return list(shipping_methods(deps.settings.currency).values())


@router.post("/carts", status_code=status.HTTP_201_CREATED, responses=problems())
async def create_cart(work: HotDep) -> CartView:
    """Open a cart. A guest sends `X-Guest-Token`, and keeps it: it owns the cart."""
    return await cart.create(work)


@router.get("/carts/current", responses=problems())
async def read_current_cart(uow: UowDep) -> CartView:
    """Show the caller's latest open cart, opened now if there is none."""
    return await cart.current(uow)


@router.get("/carts/{cart_id}", responses=problems(NotFound))
async def read_cart(cart_id: UUID, work: HotDep) -> CartView:
    """Show a cart with live prices and what is missing to buy it."""
    return await cart.view(work, cart_id)


@router.post("/carts/{cart_id}/lines", responses=problems(NotFound, Conflict))
async def add_line(cart_id: UUID, body: LineInput, deps: DepsDep) -> CartView:
    """Put more of a SKU into the cart; send an `Idempotency-Key` to make retries safe."""
    if current_claim.get() is None:
        return await cart.add(deps.hot_work(), cart_id, body.sku, body.quantity)
    async with deps.begin() as uow:
        return await cart.add(uow, cart_id, body.sku, body.quantity)


@router.patch("/carts/{cart_id}/lines/{sku}", responses=problems(NotFound, Conflict))
async def set_line(cart_id: UUID, sku: Sku, body: QuantityInput, work: HotDep) -> CartView:
    """Set how many of a SKU the cart holds."""
    return await cart.set_quantity(work, cart_id, sku, body.quantity)


@router.delete("/carts/{cart_id}/lines/{sku}", responses=problems(NotFound, Conflict))
async def remove_line(cart_id: UUID, sku: Sku, work: HotDep) -> CartView:
    """Take a SKU out of the cart."""
    return await cart.set_quantity(work, cart_id, sku, 0)


@router.put("/carts/{cart_id}/details", responses=problems(NotFound, Conflict))
async def set_details(cart_id: UUID, body: DetailsInput, work: HotDep) -> CartView:
    """Say where the cart goes and how."""
    return await cart.set_details(
        work,
        cart_id,
        email=body.email,
        shipping_address=body.shipping_address,
        shipping_method=body.shipping_method,
    )


@router.delete("/carts/{cart_id}/details", responses=problems(NotFound, Conflict))
async def forget_details(cart_id: UUID, uow: UowDep) -> CartView:
    """Take out where the cart goes and how."""
    return await cart_delivery.forget_delivery(uow, cart_id)


@router.post(
    "/carts/{cart_id}/complete",
    responses=problems(NotFound, CheckoutIncomplete, OutOfStock, TotalChanged, PaymentDeclined),
)
async def complete_cart(cart_id: UUID, body: CompleteInput, deps: DepsDep) -> OrderView:
    """Buy the cart: one order per cart, however often it is asked. Needs an `Idempotency-Key`."""
    # Takes `deps`, not `uow`: checkout calls the payment gateway between its transactions.
    return await checkout.complete(
        deps,
        cart_id,
        payment_method=body.payment_method,
        expected_total_amount=body.expected_total_amount,
    )
