"""The discount code of a cart, as a shopper names it and takes it off."""

from typing import Any
from uuid import UUID

from deps.core import Deps, UnitOfWork
from tools import cart, credit_code, promotion
from tools.cart import CartView
from tools.errors import Conflict, NotFound
from tools.registry import Risk, operation


async def named(uow: UnitOfWork, cart_id: UUID | None = None, **_: Any) -> dict[str, Any]:
    """Return what brings back the code that a cart carries now, or none."""
    of = await cart.access(uow, cart_id or await cart.current_id(uow))
    await uow.session.refresh(of)
    return {"cart_id": of.id, "before": of.discount_code}


async def put(deps: Deps, cart_id: UUID, code: str) -> CartView:
    """Let a cart carry a code, in place of the one it has. Safe to repeat.

    Raises:
        NotFound: No such cart, or no such code.
        InvalidInput: No code looks like this.
        Conflict: The code cannot be used for this cart now, or the cart has been checked out.
        TooManyRequests: Too many codes were tried.
    """
    plain = promotion.normal_code(code)
    await credit_code.count_lookup(deps)
    async with deps.begin() as uow:
        return await _put(uow, cart_id, plain)


async def _put(uow: UnitOfWork, cart_id: UUID, code: str) -> CartView:
    of = await cart.editable(uow, cart_id)
    terms = await uow.fetchval("SELECT discount_terms($1, $2)", code, uow.now)
    if terms is None or terms["currency"] != of.currency:
        raise NotFound("There is no such discount code.", field="code")
    shown = await cart.set_discount(uow, cart_id, code)
    refused = cart.discount_refusal(terms, shown.subtotal_amount)
    if refused is not None:
        raise Conflict(refused, field="code")
    return shown


@operation(
    domain="cart",
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.remove_discount",
    restore=named,
    examples=(
        "apply the discount code {code}",
        "use the coupon {code}",
        "i have a promo code: {code}",
        "my discount code is {code}",
    ),
)
async def apply_discount(deps: Deps, code: str) -> CartView:
    """Let the shopper's current cart carry a discount code; a cart has one at most.

    Args:
        code: The code, such as WELCOME10.

    Raises:
        NotFound: No such code.
        InvalidInput: No code looks like this.
        Conflict: It cannot be used for this cart now.
        TooManyRequests: Too many codes were tried.
    """
    async with deps.begin() as uow:
        current = await cart.current_id(uow)
    return await put(deps, current, code)


@operation(
    domain="cart",
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.remove_discount",
    restore=named,
    examples=(
        "take the discount code off",
        "remove the coupon",
        "do not use the promo code",
        "forget the discount code",
    ),
)
async def remove_discount(
    uow: UnitOfWork, cart_id: UUID | None = None, before: str | None = None
) -> CartView:
    """Take the discount code off the shopper's current cart.

    Args:
        cart_id: Leave out: the current one.
        before: Leave out: the code that undoing puts back.

    Raises:
        NotFound: No such cart, or someone else's.
        Conflict: It has been checked out, or the code cannot be used any more.
    """
    of = cart_id or await cart.current_id(uow)
    if before is not None:
        return await _put(uow, of, promotion.normal_code(before))
    return await cart.set_discount(uow, of, None)
