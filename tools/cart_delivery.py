"""Where and how a cart is delivered, as it is said in conversation, and how that is taken back."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel

from deps.core import UnitOfWork
from tools import cart
from tools.address import Address, country_code_of
from tools.cart import CartView
from tools.errors import InvalidInput
from tools.registry import Risk, operation


class Delivery(BaseModel):
    """Where and how; null is what was not said yet."""

    email: str | None = None
    shipping_address: Address | None = None
    shipping_method: str | None = None


async def described(uow: UnitOfWork, cart_id: UUID | None = None, **_: Any) -> dict[str, Any]:
    """Return what brings back where and how a cart is delivered now."""
    of = await cart.access(uow, cart_id or await cart.current_id(uow))
    await uow.session.refresh(of)
    before = {name: getattr(of, name) for name in Delivery.model_fields}
    return {"cart_id": of.id, "before": before}


@operation(
    domain="cart",
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.forget_delivery",
    restore=described,
    examples=(
        "deliver to {name}, {line1}, {postal_code} {city}, {country_code}, {email}",
        "ship it to {name}, {line1}, {postal_code} {city}, {country_code} by {shipping_method}",
        "my address is {name}, {line1}, {postal_code} {city}, {country_code}, email {email}",
    ),
)
async def deliver_to(
    uow: UnitOfWork,
    email: str,
    name: str,
    line1: str,
    postal_code: str,
    city: str,
    country_code: str,
    shipping_method: str = "standard",
) -> CartView:
    """Say where and how the shopper's current cart is delivered.

    Args:
        email: Where the confirmation goes.
        name: Who receives the parcel.
        line1: Street and number.
        postal_code: Postal code.
        city: City.
        country_code: Two letters, such as DE.
        shipping_method: standard, express or pickup.

    Raises:
        InvalidInput: A field breaks a rule.
    """
    limits = (("name", name, 200), ("line1", line1, 200), ("city", city, 100))
    for field, value, limit in (*limits, ("postal_code", postal_code, 20)):
        if not 1 <= len(value.strip()) <= limit:
            raise InvalidInput(f"{field} must have 1 to {limit} characters.", field=field)
    country = country_code_of(country_code.strip())
    address = Address(
        name=name.strip(),
        line1=line1.strip(),
        city=city.strip(),
        postal_code=postal_code.strip(),
        country_code=country,
    )
    return await cart.set_details(
        uow,
        await cart.current_id(uow),
        email=email,
        shipping_address=address,
        shipping_method=shipping_method,
    )


@operation(
    domain="cart",
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.forget_delivery",
    restore=described,
    examples=(
        "forget where my cart is to be delivered",
        "unset the delivery details of my cart",
        "unset the delivery address of my cart",
    ),
)
async def forget_delivery(
    uow: UnitOfWork, cart_id: UUID | None = None, before: Delivery | None = None
) -> CartView:
    """Take out where and how a cart is delivered, as if nobody had said it.

    Args:
        cart_id: Leave out: the current one.
        before: Leave out: what undoing puts back in its place.

    Raises:
        NotFound: No such cart, or someone else's.
        Conflict: It has been checked out.
    """
    of = await cart.editable(uow, cart_id or await cart.current_id(uow))
    await uow.fetch(
        """UPDATE cart SET email = NULL, shipping_address = NULL, shipping_method = NULL
           WHERE id = $1""",
        of.id,
    )
    said = before or Delivery()
    return await cart.set_details(
        uow,
        of.id,
        email=said.email,
        shipping_address=said.shipping_address,
        shipping_method=said.shipping_method,
    )
