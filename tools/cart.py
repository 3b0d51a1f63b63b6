"""Carts: what a shopper intends to buy, priced live, with what is still missing to buy it."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlmodel import col, update

from db.models.cart import Cart, CartStatus
from db.types import CartId, Money, new_id
from deps.core import HotWork, UnitOfWork, Work
from tools import idempotency, total
from tools.address import Address
from tools.errors import Conflict, DomainError, InvalidInput, NotFound
from tools.registry import Risk, operation
from tools.shipping import shipping_methods
from tools.user import normalize_email

LINES_MAX = 100
QUANTITY_MAX = 999


class CartLineView(BaseModel):
    """A line, with how many of its SKU could be bought now. Amounts are minor units."""

    sku: str
    product_id: UUID
    title: str
    image_url: str | None
    quantity: int
    available: int
    unit_price_amount: int
    total_amount: int


class Problem(BaseModel):
    """Something that keeps the cart from being bought."""

    code: str
    field: str
    message: str


class CartView(BaseModel):
    """A cart with live prices. Amounts are minor units of `currency`. `tax_amount` comes on top
    where the shop has a rate for the country; elsewhere prices contain their tax."""

    id: UUID
    status: CartStatus
    version: int = Field(description="Grows with every change.")
    currency: str
    lines: list[CartLineView]
    subtotal_amount: int
    discount_code: str | None
    discount_amount: int
    shipping_amount: int
    tax_amount: int
    tax_rate: int = Field(description="Of `tax_amount`, in hundredths of a per cent.")
    total_amount: int
    email: str | None
    shipping_address: Address | None
    shipping_method: str | None
    uses_credit: bool = Field(description="Whether credit pays for some of it.")
    problems: list[Problem] = Field(description="What is missing; empty when it can be bought.")


async def access(uow: UnitOfWork, cart_id: UUID, *, lock: bool = False) -> Cart:
    """Load a cart on the actor's behalf; no other code may load one by id.

    Raises:
        NotFound: No such cart, or it is someone else's. The two must be indistinguishable.
    """
    cart = await uow.session.get(
        Cart, cart_id, with_for_update=True if lock else None, populate_existing=lock
    )
    if cart is None or not _owns(uow, cart):
        raise NotFound("No such cart.")
    return cart


async def editable(uow: UnitOfWork, cart_id: UUID) -> Cart:
    """Lock a cart of the actor's that is not bought yet.

    Raises:
        NotFound: No such cart, or someone else's.
        Conflict: It has been checked out.
    """
    of = await access(uow, cart_id, lock=True)
    if of.status is not CartStatus.OPEN:
        raise Conflict("This cart has been checked out.", current=of.status.value)
    return of


def _owns(uow: UnitOfWork, cart: Cart) -> bool:
    if cart.customer_id is not None:
        return cart.customer_id == uow.actor.user_id
    secret = uow.actor.guest_secret_sha256
    return secret is not None and cart.secret_sha256 == secret


async def create(work: Work) -> CartView:
    """Open an empty cart for the actor. A guest needs a guest token to own it.

    Raises:
        InvalidInput: A guest without a token is asking.
    """
    customer_id, secret = _owner(work)
    if customer_id is None and secret is None:
        raise InvalidInput(
            "Send a guest token in X-Guest-Token, or sign in.", field="X-Guest-Token"
        )
    document = await _call(
        work,
        _NEW,
        new_id(),
        customer_id,
        None if customer_id else secret,
        work.settings.currency,
        work.now,
    )
    return _show(work, document)


async def current_id(uow: UnitOfWork) -> UUID:
    """Return the actor's latest open cart, opening one when there is none.

    Who has signed in since they shopped as a guest finds the guest's lines in their cart.
    """
    customer_id, secret = _owner(uow)
    await _lock_owner(uow)
    if customer_id is not None and secret is not None:
        await _merge_guest(uow, customer_id, secret)
    newest = await _newest(uow, customer_id, secret)
    return newest if newest is not None else (await create(uow)).id


async def _lock_owner(uow: UnitOfWork) -> None:
    """Two messages at once must not open two carts, nor merge one twice."""
    customer_id, secret = _owner(uow)
    await uow.fetchval(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))", str(customer_id or secret or "")
    )


async def adopt(uow: UnitOfWork) -> None:
    """Move the lines of the guest's open carts into the cart of the customer who signed in.

    Quantities of the same SKU are added, up to the limit. Safe to repeat: a merged cart is closed.
    """
    customer_id, secret = _owner(uow)
    if customer_id is not None and secret is not None:
        await _lock_owner(uow)
        await _merge_guest(uow, customer_id, secret)


async def _merge_guest(uow: UnitOfWork, customer_id: UUID, secret: str) -> None:
    guests = await uow.fetch(_GUESTS, secret)
    if not guests:
        return
    own = await _newest(uow, customer_id, None)
    if own is None:
        # Nothing to merge with: the latest becomes the customer's as it is.
        own = guests.pop()["id"]
        await uow.fetchval("UPDATE cart SET customer_id = $2 WHERE id = $1", own, customer_id)
    for guest in guests:
        await uow.fetchval(_MERGE, own, guest["id"], LINES_MAX, QUANTITY_MAX, uow.now)


async def _newest(uow: UnitOfWork, customer_id: UUID | None, secret: str | None) -> UUID | None:
    of_whom = "customer_id = $1" if customer_id else "customer_id IS NULL AND secret_sha256 = $1"
    found: UUID | None = await uow.fetchval(
        f"SELECT id FROM cart WHERE status = 'open' AND {of_whom} ORDER BY id DESC LIMIT 1",
        customer_id or secret,
    )
    return found


_GUESTS = """
    SELECT id FROM cart
    WHERE status = 'open' AND customer_id IS NULL AND secret_sha256 = $1 ORDER BY id FOR UPDATE
"""
_MERGE = "SELECT cart_merge($1, $2, $3, $4, $5)"
_VIEW = """
    SELECT cart_document(c, $4) FROM cart c WHERE c.id = $1 AND cart_is_of(c, $2, $3)
"""
_NEW = "cart_open($1, $2, $3, $4, $5)"
_PUT = "cart_put($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_DISCOUNT = "cart_discount($1, $2, $3, $4, $5)"
_DESCRIBE = "cart_describe($1, $2, $3, $4, $5, $6, $7)"


async def _call(work: Work, function: str, *args: Any) -> dict[str, Any]:
    """Call one of the functions that change a cart; alone, its commit does not wait for disk."""
    alone = " FROM commit_lazily()" if isinstance(work, HotWork) else ""
    document: dict[str, Any] = await work.fetchval(f"SELECT {function}{alone}", *args)
    return document


async def view(work: Work, cart_id: UUID) -> CartView:
    """Show a cart, priced from the catalogue now, with what is missing to buy it.

    Raises:
        NotFound: No such cart, or someone else's.
    """
    document = await work.fetchval(_VIEW, cart_id, *_owner(work), work.now)
    if document is None:
        raise NotFound("No such cart.")
    return _show(work, document)


def _owner(work: Work) -> tuple[UUID | None, str | None]:
    return work.actor.user_id, work.actor.guest_secret_sha256


def _show(work: Work, document: dict[str, Any]) -> CartView:
    cart, lines, discount = document["cart"], document["lines"], document["discount"]
    for line in lines:
        line["total_amount"] = line["unit_price_amount"] * line["quantity"]
    subtotal = sum(line["total_amount"] for line in lines)
    refused = discount and discount_refusal(discount, subtotal)
    tax_rate = work.settings.tax_rate((cart["shipping_address"] or {}).get("country_code"))
    comes_to = total.reckon(
        subtotal,
        discount=None if refused else discount,
        method=shipping_methods(cart["currency"]).get(cart["shipping_method"] or ""),
        tax_rate=tax_rate,
    )
    return CartView.model_validate(
        cart
        | {
            "lines": lines,
            "subtotal_amount": comes_to.subtotal_amount,
            "discount_amount": comes_to.discount_amount,
            "shipping_amount": comes_to.shipping_amount,
            "tax_amount": comes_to.tax_amount,
            "tax_rate": tax_rate,
            "total_amount": comes_to.total_amount,
            "problems": _problems(cart, lines) + _discount_problems(refused),
        }
    )


def discount_refusal(terms: dict[str, Any], subtotal_amount: int) -> str | None:
    """Say why a code takes nothing off goods of this price, if it does not."""
    code, least = terms["code"], Money(terms["minimum_amount"], terms["currency"])
    if terms["refusal"] is None:
        is_enough = subtotal_amount >= least.amount
        return None if is_enough else f"The code {code} is for goods of {least} or more."
    return {
        "ended": f"The code {code} is not valid any more.",
        "not_started": f"The code {code} is not valid yet.",
        "used_up": f"The code {code} has been used up.",
    }[terms["refusal"]]


def _discount_problems(refused: str | None) -> list[Problem]:
    """A cart is not bought for more than its code promised: the shopper takes the code off."""
    if refused is None:
        return []
    message = f"{refused} Take it off to go on."
    return [Problem(code="discount", field="discount_code", message=message)]


def _refusal(code: str, sku: str) -> DomainError:
    match code:
        case "not_found":
            return NotFound("No such cart.")
        case "closed":
            return Conflict("This cart has been checked out.")
        case "quantity":
            return InvalidInput(f"A line holds 0 to {QUANTITY_MAX} units.", field="quantity")
        case "not_on_sale":
            return NotFound(f"There is no SKU {sku} on sale.", field="sku")
        case "currency":
            return Conflict(f"{sku} is not sold in this cart's currency.", field="sku")
        case _:
            assert code == "too_many_lines", code
            return Conflict(f"A cart has at most {LINES_MAX} lines.", field="lines")


def _changed(work: Work, document: dict[str, Any], sku: str = "") -> CartView:
    """Return the cart after a change, or raise why there was none."""
    if "refusal" in document:
        raise _refusal(document["refusal"], sku)
    return _show(work, document)


def _problems(cart: dict[str, Any], lines: list[dict[str, Any]]) -> list[Problem]:
    problems = []
    if not lines:
        problems.append(Problem(code="empty", field="lines", message="The cart is empty."))
    for line in lines:
        field, title = f"lines.{line['sku']}", line["title"]
        if not line["on_sale"] or line["currency"] != cart["currency"]:
            problems.append(
                Problem(code="not_on_sale", field=field, message=f"{title} is not on sale.")
            )
        elif line["available"] < line["quantity"]:
            message = f"Only {max(line['available'], 0)} of {title} are available."
            problems.append(Problem(code="out_of_stock", field=field, message=message))
    missing = (
        ("email", "An email address for the confirmation is missing."),
        ("shipping_address", "The delivery address is missing."),
        ("shipping_method", "No shipping method is chosen."),
    )
    problems += [
        Problem(code="missing", field=field, message=message)
        for field, message in missing
        if not cart[field]
    ]
    return problems


async def set_quantity(work: Work, cart_id: UUID, sku: str, quantity: int) -> CartView:
    """Set how many of a SKU the cart holds; zero takes the line out. Safe to repeat.

    Raises:
        NotFound: No such cart or SKU.
        InvalidInput: `quantity` is not 0 to 999.
        Conflict: The cart has been checked out, or has too many lines.
    """
    if not 0 <= quantity <= QUANTITY_MAX:
        raise InvalidInput(f"quantity must be 0 to {QUANTITY_MAX}.", field="quantity")
    return await _put(work, cart_id, sku, quantity, is_added=False)


async def add(work: Work, cart_id: UUID, sku: str, quantity: int = 1) -> CartView:
    """Put more of a SKU into the cart.

    Raises:
        NotFound: No such cart or SKU.
        InvalidInput: The line would pass 999 units.
        Conflict: The cart has been checked out, or has too many lines.
    """
    # Adding twice is not adding once: the request's key is spent together with the effect.
    await idempotency.settle(work)
    if not 1 <= quantity <= QUANTITY_MAX:
        raise InvalidInput(f"quantity must be 1 to {QUANTITY_MAX}.", field="quantity")
    return await _put(work, cart_id, sku, quantity, is_added=True)


async def _put(work: Work, cart_id: UUID, sku: str, quantity: int, *, is_added: bool) -> CartView:
    document = await _call(
        work,
        _PUT,
        cart_id,
        *_owner(work),
        sku,
        quantity,
        is_added,
        LINES_MAX,
        QUANTITY_MAX,
        work.now,
    )
    return _changed(work, document, sku)


async def set_details(
    work: Work,
    cart_id: UUID,
    *,
    email: str | None = None,
    shipping_address: Address | None = None,
    shipping_method: str | None = None,
) -> CartView:
    """Say where the cart goes and how; what is left out stays as it is.

    Raises:
        NotFound: No such cart.
        InvalidInput: The email or method breaks a rule.
        Conflict: The cart has been checked out.
    """
    known = shipping_methods(work.settings.currency)
    if shipping_method is not None and shipping_method not in known:
        raise InvalidInput(
            f"shipping_method must be one of {', '.join(known)}.", field="shipping_method"
        )
    document = await _call(
        work,
        _DESCRIBE,
        cart_id,
        *_owner(work),
        normalize_email(email) if email is not None else None,
        shipping_address.model_dump() if shipping_address is not None else None,
        shipping_method,
        work.now,
    )
    return _changed(work, document)


async def set_discount(work: Work, cart_id: UUID, code: str | None) -> CartView:
    """Set the code that makes a cart cheaper, or take it off. Safe to repeat.

    Raises:
        NotFound: No such cart.
        Conflict: The cart has been checked out.
    """
    return _changed(work, await _call(work, _DISCOUNT, cart_id, *_owner(work), code, work.now))


async def set_status(uow: UnitOfWork, cart_id: CartId, status: CartStatus) -> None:
    await uow.session.execute(
        update(Cart).where(col(Cart.id) == cart_id).values(status=status, updated_at=uow.now)
    )


@operation(
    scope="cart:write",
    risk=Risk.READ,
    idempotent=True,
    examples=("show my cart", "what is in my cart", "what is in my basket", "how much is my cart"),
)
async def current(uow: UnitOfWork) -> CartView:
    """Show the shopper's current cart with totals and what is missing to buy it."""
    return await view(uow, await current_id(uow))


async def held(uow: UnitOfWork, sku: str, quantity: int = 0) -> dict[str, Any]:
    """Return what `change_item` takes to bring back the line as it is now, in this cart: once it is
    bought, another one is the current."""
    cart_id = await current_id(uow)
    found = "SELECT quantity FROM cart_line WHERE cart_id = $1 AND sku = $2"
    held = await uow.fetchval(found, cart_id, sku) or 0
    return {"sku": sku, "quantity": held, "cart": str(cart_id)}


@operation(
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="cart.change_item",
    restore=held,
    examples=(
        "add {quantity} of {sku} to my cart",
        "put {quantity} {sku} in my basket",
        "i will take {quantity} of {sku}",
        "add {sku} to the cart",
    ),
)
async def add_item(uow: UnitOfWork, sku: str, quantity: int = 1) -> CartView:
    """Put a product into the shopper's current cart.

    Args:
        sku: SKU of the variant, from a search or product page.
        quantity: How many to add, 1 to 999.

    Raises:
        NotFound: No such SKU on sale.
        InvalidInput: `quantity` is out of range.
    """
    return await add(uow, await current_id(uow), sku, quantity)


@operation(
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.change_item",
    restore=held,
    examples=(
        "change the quantity of {sku} to {quantity}",
        "make it {quantity} of {sku}",
        "set {sku} to {quantity} in my cart",
    ),
)
async def change_item(uow: UnitOfWork, sku: str, quantity: int) -> CartView:
    """Set how many of a product the shopper's current cart holds.

    Args:
        sku: SKU of the variant.
        quantity: How many in all, 0 to 999; 0 removes it.

    Raises:
        NotFound: No such SKU on sale.
        InvalidInput: `quantity` is out of range.
    """
    return await set_quantity(uow, await current_id(uow), sku, quantity)


@operation(
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.change_item",
    restore=held,
    examples=(
        "remove {sku} from my cart",
        "take {sku} out of the basket",
        "i do not want {sku} any more",
    ),
)
async def remove_item(uow: UnitOfWork, sku: str) -> CartView:
    """Take a product out of the shopper's current cart.

    Args:
        sku: SKU of the variant.
    """
    return await set_quantity(uow, await current_id(uow), sku, 0)
