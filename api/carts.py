"""REST: carts and checkout."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, status
from pydantic import BaseModel, Field

from api.deps import DepsDep, UowDep
from api.problems import problems
from tools import cart, checkout
from tools.cart import QUANTITY_MAX, Address, CartView, ShippingMethod
from tools.errors import (
    CheckoutIncomplete,
    Conflict,
    NotFound,
    OutOfStock,
    PaymentDeclined,
    TotalChanged,
)
from tools.order import OrderView

router = APIRouter(tags=["carts"])
Sku = Annotated[str, Path(max_length=64)]


class LineInput(BaseModel):
    sku: str = Field(min_length=1, max_length=64, examples=["MUG-BLUE"])
    quantity: int = Field(default=1, ge=1, le=QUANTITY_MAX)


class QuantityInput(BaseModel):
    quantity: int = Field(ge=0, le=QUANTITY_MAX, description="0 removes the line.")


class DetailsInput(BaseModel):
    """What is left out stays as it is."""

    email: str | None = Field(default=None, max_length=254, examples=["ada@example.com"])
    shipping_address: Address | None = None
    shipping_method: str | None = Field(default=None, max_length=64, examples=["standard"])


class CompleteInput(BaseModel):
    payment_method: str = Field(
        min_length=1, max_length=200, description="The provider's token.", examples=["tok_visa"]
    )
    expected_total_amount: int | None = Field(
        default=None, ge=0, description="Minor units; the order is refused if it differs."
    )


@router.get("/shipping-methods", responses=problems())
async def list_shipping_methods(deps: DepsDep) -> list[ShippingMethod]:
    """List the ways to deliver, in the shop's currency."""
    return list(cart.shipping_methods(deps.settings.currency).values())


@router.post("/carts", status_code=status.HTTP_201_CREATED, responses=problems())
async def create_cart(uow: UowDep) -> CartView:
    """Open a cart. A guest sends `X-Guest-Token`, and keeps it: it owns the cart."""
    return await cart.create(uow)


@router.get("/carts/{cart_id}", responses=problems(NotFound))
async def read_cart(cart_id: UUID, uow: UowDep) -> CartView:
    """Show a cart with live prices and what is missing to buy it."""
    return await cart.view(uow, cart_id)


@router.post("/carts/{cart_id}/lines", responses=problems(NotFound, Conflict))
async def add_line(cart_id: UUID, body: LineInput, uow: UowDep) -> CartView:
    """Put more of a SKU into the cart; send an `Idempotency-Key` to make retries safe."""
    return await cart.add(uow, cart_id, body.sku, body.quantity)


@router.patch("/carts/{cart_id}/lines/{sku}", responses=problems(NotFound, Conflict))
async def set_line(cart_id: UUID, sku: Sku, body: QuantityInput, uow: UowDep) -> CartView:
    """Set how many of a SKU the cart holds."""
    return await cart.set_quantity(uow, cart_id, sku, body.quantity)


@router.delete("/carts/{cart_id}/lines/{sku}", responses=problems(NotFound, Conflict))
async def remove_line(cart_id: UUID, sku: Sku, uow: UowDep) -> CartView:
    """Take a SKU out of the cart."""
    return await cart.set_quantity(uow, cart_id, sku, 0)


@router.put("/carts/{cart_id}/details", responses=problems(NotFound, Conflict))
async def set_details(cart_id: UUID, body: DetailsInput, uow: UowDep) -> CartView:
    """Say where the cart goes and how."""
    return await cart.set_details(
        uow,
        cart_id,
        email=body.email,
        shipping_address=body.shipping_address,
        shipping_method=body.shipping_method,
    )


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
