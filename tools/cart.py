"""Carts: what a shopper intends to buy, priced live, with what is still missing to buy it."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update

from db.models.cart import Cart, CartLine, CartStatus
from db.types import CartId, UserId, exponent
from deps.core import UnitOfWork
from tools import idempotency
from tools.errors import Conflict, InvalidInput, NotFound
from tools.registry import Risk, operation
from tools.user import normalize_email

LINES_MAX = 100
QUANTITY_MAX = 999


class ShippingMethod(BaseModel):
    """A way to deliver. `amount` and `free_from_amount` are minor units of the shop's currency."""

    code: str
    name: str
    amount: int
    free_from_amount: int | None = None


def shipping_methods(currency: str) -> dict[str, ShippingMethod]:
    """Return what a shopper may choose; amounts scale with the currency's minor unit."""
    unit = 10 ** exponent(currency)
    methods = (
        ShippingMethod(
            code="standard",
            name="Standard, 2 to 4 days",
            amount=490 * unit // 100,
            free_from_amount=60 * unit,
        ),
        ShippingMethod(code="express", name="Express, next day", amount=990 * unit // 100),
        ShippingMethod(code="pickup", name="Pick up in the shop", amount=0),
    )
    return {method.code: method for method in methods}


class Address(BaseModel):
    name: str = Field(min_length=1, max_length=200)
    line1: str = Field(min_length=1, max_length=200)
    line2: str | None = Field(default=None, max_length=200)
    city: str = Field(min_length=1, max_length=100)
    region: str | None = Field(default=None, max_length=100)
    postal_code: str = Field(min_length=1, max_length=20)
    country_code: str = Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2.")


class CartLineView(BaseModel):
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
    """A cart with live prices. Amounts are minor units of `currency`; tax is in the prices."""

    id: UUID
    status: CartStatus
    currency: str
    lines: list[CartLineView]
    subtotal_amount: int
    discount_amount: int = 0
    shipping_amount: int
    tax_amount: int = 0
    total_amount: int
    email: str | None
    shipping_address: Address | None
    shipping_method: str | None
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


def _owns(uow: UnitOfWork, cart: Cart) -> bool:
    if cart.customer_id is not None:
        return cart.customer_id == uow.actor.user_id
    secret = uow.actor.guest_secret_sha256
    return secret is not None and cart.secret_sha256 == secret


async def _editable(uow: UnitOfWork, cart_id: UUID) -> Cart:
    cart = await access(uow, cart_id, lock=True)
    if cart.status is not CartStatus.OPEN:
        raise Conflict("This cart has been checked out.", current=cart.status.value)
    cart.updated_at = uow.now
    return cart


async def create(uow: UnitOfWork) -> CartView:
    """Open an empty cart for the actor. A guest needs a guest token to own it.

    Raises:
        InvalidInput: A guest without a token is asking.
    """
    return await view(uow, (await _new(uow)).id)


async def _new(uow: UnitOfWork) -> Cart:
    actor = uow.actor
    if actor.user_id is None and actor.guest_secret_sha256 is None:
        raise InvalidInput(
            "Send a guest token in X-Guest-Token, or sign in.", field="X-Guest-Token"
        )
    cart = Cart(
        customer_id=actor.user_id,
        secret_sha256=None if actor.user_id else actor.guest_secret_sha256,
        currency=uow.settings.currency,
        created_at=uow.now,
        updated_at=uow.now,
    )
    uow.session.add(cart)
    await uow.session.flush()
    return cart


async def _current(uow: UnitOfWork) -> Cart:
    """Return the actor's latest open cart, opening or adopting one when there is none."""
    actor = uow.actor
    owner = str(actor.user_id or actor.guest_secret_sha256 or "")
    # Two messages at once must not open two carts.
    await uow.session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:owner, 1))"), {"owner": owner}
    )
    newest = select(Cart).where(Cart.status == CartStatus.OPEN).order_by(col(Cart.id).desc())
    if actor.user_id is not None:
        own = (await uow.session.exec(newest.where(Cart.customer_id == actor.user_id))).first()
        if own is not None:
            return own
    if actor.guest_secret_sha256 is not None:
        guest = (
            await uow.session.exec(
                newest.where(col(Cart.customer_id).is_(None)).where(
                    Cart.secret_sha256 == actor.guest_secret_sha256
                )
            )
        ).first()
        if guest is not None and actor.user_id is not None:
            guest.customer_id = UserId(actor.user_id)  # Signed in since: the cart comes along.
        if guest is not None:
            return guest
    return await _new(uow)


_LINES = text("""
    SELECT k.sku, p.id AS product_id, p.image_url, k.quantity, v.price_amount, v.currency,
           p.title || CASE v.title WHEN '' THEN '' ELSE ' – ' || v.title END AS title,
           v.is_active AND p.status = 'active' AS on_sale,
           stock_available(k.sku, :now) AS available
    FROM cart_line k
    JOIN variant v ON v.sku = k.sku
    JOIN product p ON p.id = v.product_id
    WHERE k.cart_id = :cart_id ORDER BY k.added_at, k.sku
""")


async def view(uow: UnitOfWork, cart_id: UUID) -> CartView:
    """Show a cart, priced from the catalogue now, with what is missing to buy it.

    Raises:
        NotFound: No such cart, or someone else's.
    """
    cart = await access(uow, cart_id)
    await uow.session.flush()
    rows = list(await uow.session.execute(_LINES, {"cart_id": cart.id, "now": uow.now}))
    lines = [
        CartLineView(
            sku=row.sku,
            product_id=row.product_id,
            title=row.title,
            image_url=row.image_url,
            quantity=row.quantity,
            available=row.available,
            unit_price_amount=row.price_amount,
            total_amount=row.price_amount * row.quantity,
        )
        for row in rows
    ]
    subtotal = sum(line.total_amount for line in lines)
    method = shipping_methods(cart.currency).get(cart.shipping_method or "")
    free = method is not None and method.free_from_amount is not None
    shipping = method.amount if method else 0
    if free and method is not None and subtotal >= (method.free_from_amount or 0):
        shipping = 0
    address = Address.model_validate(cart.shipping_address) if cart.shipping_address else None
    return CartView(
        id=cart.id,
        status=cart.status,
        currency=cart.currency,
        lines=lines,
        subtotal_amount=subtotal,
        shipping_amount=shipping,
        total_amount=subtotal + shipping,
        email=cart.email,
        shipping_address=address,
        shipping_method=cart.shipping_method,
        problems=_problems(cart, rows),
    )


def _problems(cart: Cart, rows: list[Any]) -> list[Problem]:
    problems = []
    if not rows:
        problems.append(Problem(code="empty", field="lines", message="The cart is empty."))
    for row in rows:
        field = f"lines.{row.sku}"
        if not row.on_sale or row.currency != cart.currency:
            problems.append(
                Problem(code="not_on_sale", field=field, message=f"{row.title} is not on sale.")
            )
        elif row.available < row.quantity:
            message = f"Only {max(row.available, 0)} of {row.title} are available."
            problems.append(Problem(code="out_of_stock", field=field, message=message))
    missing = (
        ("email", cart.email, "An email address for the confirmation is missing."),
        ("shipping_address", cart.shipping_address, "The delivery address is missing."),
        ("shipping_method", cart.shipping_method, "No shipping method is chosen."),
    )
    problems += [
        Problem(code="missing", field=field, message=message)
        for field, value, message in missing
        if not value
    ]
    return problems


async def set_quantity(uow: UnitOfWork, cart_id: UUID, sku: str, quantity: int) -> CartView:
    """Set how many of a SKU the cart holds; zero takes the line out. Safe to repeat.

    Raises:
        NotFound: No such cart or SKU.
        InvalidInput: `quantity` is not 0 to 999.
        Conflict: The cart has been checked out, or has too many lines.
    """
    cart = await _editable(uow, cart_id)
    if not 0 <= quantity <= QUANTITY_MAX:
        raise InvalidInput(f"quantity must be 0 to {QUANTITY_MAX}.", field="quantity")
    if quantity == 0:
        await uow.session.execute(
            delete(CartLine).where(col(CartLine.cart_id) == cart.id, col(CartLine.sku) == sku)
        )
        return await view(uow, cart_id)
    await _check_on_sale(uow, cart, sku)
    line = insert(CartLine).values(cart_id=cart.id, sku=sku, quantity=quantity, added_at=uow.now)
    await uow.session.execute(
        line.on_conflict_do_update(
            index_elements=["cart_id", "sku"], set_={"quantity": line.excluded.quantity}
        )
    )
    return await view(uow, cart_id)


async def add(uow: UnitOfWork, cart_id: UUID, sku: str, quantity: int = 1) -> CartView:
    """Put more of a SKU into the cart.

    Raises:
        NotFound: No such cart or SKU.
        InvalidInput: The line would pass 999 units.
        Conflict: The cart has been checked out, or has too many lines.
    """
    # Adding twice is not adding once: the request's key is spent together with the effect.
    await idempotency.settle(uow)
    cart = await _editable(uow, cart_id)
    if not 1 <= quantity <= QUANTITY_MAX:
        raise InvalidInput(f"quantity must be 1 to {QUANTITY_MAX}.", field="quantity")
    held = await uow.session.get(CartLine, (cart.id, sku), populate_existing=True)
    return await set_quantity(uow, cart_id, sku, quantity + (held.quantity if held else 0))


async def _check_on_sale(uow: UnitOfWork, cart: Cart, sku: str) -> None:
    row = (
        await uow.session.execute(
            text("""
                SELECT v.currency, (SELECT count(*) FROM cart_line WHERE cart_id = :cart_id
                                                                     AND sku <> :sku) AS others
                FROM variant v JOIN product p ON p.id = v.product_id
                WHERE v.sku = :sku AND v.is_active AND p.status = 'active'
            """),
            {"sku": sku, "cart_id": cart.id},
        )
    ).first()
    if row is None:
        raise NotFound(f"There is no SKU {sku} on sale.", field="sku")
    if row.currency != cart.currency:
        raise Conflict(f"{sku} is not sold in {cart.currency}.", field="sku")
    if row.others >= LINES_MAX:
        raise Conflict(f"A cart has at most {LINES_MAX} lines.", field="lines")


async def set_details(
    uow: UnitOfWork,
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
    cart = await _editable(uow, cart_id)
    if email is not None:
        cart.email = normalize_email(email)
    if shipping_address is not None:
        cart.shipping_address = shipping_address.model_dump()
    if shipping_method is not None:
        methods = shipping_methods(cart.currency)
        if shipping_method not in methods:
            known = ", ".join(methods)
            raise InvalidInput(f"shipping_method must be one of {known}.", field="shipping_method")
        cart.shipping_method = shipping_method
    return await view(uow, cart_id)


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
    return await view(uow, (await _current(uow)).id)


@operation(
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=False,
    inverse="cart.remove_item",
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
    return await add(uow, (await _current(uow)).id, sku, quantity)


@operation(
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.change_item",
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
    return await set_quantity(uow, (await _current(uow)).id, sku, quantity)


@operation(
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.add_item",
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
    return await set_quantity(uow, (await _current(uow)).id, sku, 0)


@operation(
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="cart.deliver_to",
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
    country = country_code.strip().upper()
    if len(country) != 2 or not country.isascii() or not country.isalpha():
        raise InvalidInput("country_code must be two letters, such as DE.", field="country_code")
    address = Address(
        name=name.strip(),
        line1=line1.strip(),
        city=city.strip(),
        postal_code=postal_code.strip(),
        country_code=country,
    )
    cart = await _current(uow)
    return await set_details(
        uow, cart.id, email=email, shipping_address=address, shipping_method=shipping_method
    )
