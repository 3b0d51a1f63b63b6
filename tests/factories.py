"""Rows for tests: every field has a valid default, and a test names only what it is about."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlmodel import select

from db.models.inventory import Location, MovementKind, StockMovement
from db.models.order import Order, OrderStatus, PaymentStatus
from db.models.payment import Payment, PaymentState
from db.models.product import Category
from db.models.user import Role, User
from db.types import OrderId, UserId, new_id
from deps import security
from deps.core import ROLE_SCOPES, SYSTEM, Actor, Deps
from deps.mail import Mail, MailError
from deps.settings import CaptureMode
from tools import cart, cart_discount, checkout, promotion
from tools import product as products
from tools.address import Address
from tools.cart import CartView
from tools.order import OrderView
from tools.product import ProductInput, VariantInput
from tools.promotion import DiscountView

GUEST_TOKEN = "guest-token-of-the-tests-0123456789abcdef"
BEGAN_AT = datetime(2026, 1, 30, 12, 0, tzinfo=UTC)
ADDRESS = Address(
    name="Ada Lovelace",
    line1="12 Quay Street",
    city="Hamburg",
    postal_code="20457",
    country_code="DE",
)


@dataclass
class RecordingMailer:
    """A mail server told how many times to fail first."""

    failures: int = 0
    sent: list[Mail] = field(default_factory=list)

    async def send(self, mail: Mail) -> None:
        if self.failures:
            self.failures -= 1
            raise MailError("451 try again later")
        self.sent.append(mail)


def guest(deps: Deps, token: str = GUEST_TOKEN) -> Deps:
    actor = Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256=security.sha256(token))
    return deps.acting_as(actor)


async def user(
    deps: Deps, *, role: Role = Role.CUSTOMER, email: str | None = None, name: str = "Ada"
) -> Deps:
    """Insert a user, without the cost of hashing a password, and return deps acting as them."""
    user_id = UserId(new_id())
    async with deps.begin() as uow:
        uow.session.add(
            User(
                id=user_id,
                email=email or f"{user_id.hex}@example.com",
                name=name,
                password_hash="!",
                role=role,
                created_at=uow.now,
            )
        )
    return deps.acting_as(Actor(role=role, user_id=user_id, scopes=ROLE_SCOPES[role]))


def bearer(deps: Deps) -> dict[str, str]:
    """Headers that authenticate as `deps.actor` does."""
    actor = deps.actor
    assert actor.user_id is not None
    assert actor.role is not None
    token = security.issue_access(deps.settings, actor.user_id, actor.role, deps.clock())
    return {"Authorization": f"Bearer {token}"}


async def product(
    deps: Deps,
    sku: str = "MUG",
    *,
    title: str = "Stoneware mug",
    price: int = 1250,
    stock: int = 10,
    location: str = "HAM",
    category: str | None = None,
    description: str = "",
) -> UUID:
    """Save a product of one variant with stock at one location; return its id."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        if category is not None:
            known = select(Category).where(Category.slug == category)
            if (await uow.session.exec(known)).first() is None:
                uow.session.add(Category(slug=category, name=category.title()))
                await uow.session.flush()
        saved = await products.save(
            uow,
            ProductInput(
                handle=f"{sku.lower()}-handle",
                title=title,
                description=description,
                category=category,
                variants=[
                    VariantInput(sku=sku, price_amount=price, currency=uow.settings.currency)
                ],
            ),
        )
    if stock:
        await receive(deps, sku, stock, location)
    return saved.id


async def receive(deps: Deps, sku: str, units: int, location: str = "HAM") -> None:
    async with deps.acting_as(SYSTEM).begin() as uow:
        known = select(Location).where(Location.code == location)
        place = (await uow.session.exec(known)).first()
        if place is None:
            place = Location(code=location, name=location)
            uow.session.add(place)
            await uow.session.flush()
        uow.session.add(
            StockMovement(
                sku=sku,
                location_id=place.id,
                kind=MovementKind.RECEIVE,
                on_hand_delta=units,
                occurred_at=uow.now,
            )
        )


async def filled_cart(deps: Deps, email: str = "ada@example.com", /, **units: int) -> CartView:
    """Open a cart as `deps.actor` (a guest if nobody), filled and ready to buy."""
    async with deps.begin() as uow:
        opened = await cart.create(uow)
        for sku, quantity in units.items():
            await cart.add(uow, opened.id, sku, quantity)
        return await cart.set_details(
            uow, opened.id, email=email, shipping_address=ADDRESS, shipping_method="standard"
        )


async def placed_order(deps: Deps, **units: int) -> OrderView:
    filled = await filled_cart(deps, **units)
    return await checkout.complete(deps, filled.id, payment_method="tok_visa")


def unsaved_order(
    total_amount: int = 100,
    *,
    status: OrderStatus = OrderStatus.PENDING,
    payment_status: PaymentStatus = PaymentStatus.PENDING,
    captures_later: bool = False,
) -> Order:
    """An order that no database knows, for what is decided from its row alone."""
    return Order(
        status=status,
        payment_status=payment_status,
        captures_later=captures_later,
        email="ada@example.com",
        currency="EUR",
        subtotal_amount=total_amount,
        total_amount=total_amount,
        shipping_address=ADDRESS.model_dump(),
        shipping_method="standard",
        created_at=BEGAN_AT,
    )


def unsaved_tender(
    state: PaymentState, captured: int = 0, refunded: int = 0, decline_code: str | None = None
) -> Payment:
    """A tender of 100 minor units that no database knows."""
    return Payment(
        order_id=OrderId(new_id()),
        provider="scripted",
        method_token="tok_visa",
        state=state,
        amount=100,
        captured_amount=captured,
        refunded_amount=refunded,
        currency="EUR",
        decline_code=decline_code,
        created_at=BEGAN_AT,
        updated_at=BEGAN_AT,
    )


def later(deps: Deps, **delta: float) -> Deps:
    """The same dependencies with the clock moved ahead."""
    now = deps.clock() + timedelta(**delta)
    return replace(deps, clock=lambda: now)


async def discount(merchant: Deps, code: str = "WELCOME10", **terms: Any) -> DiscountView:
    """Make a code: of ten per cent, unless its terms say otherwise."""
    if not terms.keys() & {"percent", "amount"}:
        terms["percent"] = 10
    async with merchant.begin() as uow:
        return await promotion.create_code(uow, code, **terms)


async def reduced_cart(deps: Deps, code: str = "WELCOME10", /, **units: int) -> CartView:
    """A filled cart that carries a code."""
    filled = await filled_cart(deps, **units)
    return await cart_discount.put(deps, filled.id, code)


def by_hand(deps: Deps) -> Deps:
    """The same dependencies of a shop that takes money when staff say so."""
    settings = deps.settings.model_copy(update={"capture": CaptureMode.MANUAL})
    return replace(deps, settings=settings)


def taxed(deps: Deps, **rates: str) -> Deps:
    """The same dependencies of a shop that puts tax on top: per cent by country."""
    percents = {country: Decimal(percent) for country, percent in rates.items()}
    return replace(deps, settings=deps.settings.model_copy(update={"tax_rates": percents}))


async def damage(deps: Deps, *statements: str) -> None:
    """Change rows behind the shop's back: triggers and checks that would refuse are off."""
    async with deps.begin() as uow:
        for statement in ("SET LOCAL session_replication_role = replica", *statements):
            await uow.session.execute(text(statement))
