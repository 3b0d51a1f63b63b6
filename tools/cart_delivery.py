"""Where and how a cart is delivered, as it is said in conversation, and how that is taken back."""

from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel

from deps.core import UnitOfWork
from tools import cart
from tools.address import Address, country_code_of
from tools.cart import CartView
from tools.errors import InvalidInput
from tools.registry import Risk, operation

_LIMITS: Final = {"name": 200, "line1": 200, "city": 100, "postal_code": 20}


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
        "my email is {email}",
        "send the confirmation to {email}",
    ),
)
async def deliver_to(
    uow: UnitOfWork,
    email: str | None = None,
    name: str | None = None,
    line1: str | None = None,
    postal_code: str | None = None,
    city: str | None = None,
    country_code: str | None = None,
    shipping_method: str | None = None,
) -> CartView:
    """Say where and how the shopper's current cart is delivered. What is left out stays as it is.

    Args:
        email: Where the confirmation goes.
        name: Who receives the parcel.
        line1: Street and number; it goes together with postal code, city and country.
        postal_code: Postal code.
        city: City.
        country_code: Two letters, such as DE.
        shipping_method: standard, express or pickup; with the first address, standard.

    Raises:
        InvalidInput: A field breaks a rule, the address has no place or no name, or nothing is
            said.
    """
    of = await cart.editable(uow, await cart.current_id(uow))
    place = {
        "line1": line1,
        "postal_code": postal_code,
        "city": city,
        "country_code": country_code,
    }
    address = None
    if name is not None or any(part is not None for part in place.values()):
        address = _address(name, place, of.shipping_address or {})
        shipping_method = shipping_method or of.shipping_method or "standard"
    elif email is None and shipping_method is None:
        raise InvalidInput("Say an email, an address or a shipping method.", field="email")
    return await cart.set_details(
        uow,
        of.id,
        email=email,
        shipping_address=address,
        shipping_method=shipping_method,
    )


def _address(name: str | None, place: dict[str, str | None], before: dict[str, Any]) -> Address:
    """Read an address: another name at the place of before, or another place, which is whole."""
    is_moved = any(part is not None for part in place.values())
    told = place | {"name": before.get("name")} if is_moved else dict(before)
    if name is not None:
        told["name"] = name
    for field, limit in _LIMITS.items():
        told[field] = (told.get(field) or "").strip()
        if not 1 <= len(told[field]) <= limit:
            raise InvalidInput(f"{field} must have 1 to {limit} characters.", field=field)
    told["country_code"] = country_code_of((told.get("country_code") or "").strip())
    return Address.model_validate(told)


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
