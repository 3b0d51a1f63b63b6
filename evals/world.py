"""A small shop to try the agents in: a few goods, and fresh people with an order each."""

import secrets
from dataclasses import dataclass

from db.models.inventory import Location, MovementKind, StockMovement
from db.models.user import Role, User
from db.types import UserId, new_id
from deps import security
from deps.core import ROLE_SCOPES, SYSTEM, Actor, Deps
from tools import cart, checkout, promotion
from tools import product as products
from tools.address import Address
from tools.product import ProductInput, VariantInput

GOODS = (
    ("MUG-TIDE", "Stoneware mug, tide blue", 1250),
    ("MUG-CAMP", "Enamel camp mug", 980),
    ("BOWL-OAK", "Oak serving bowl", 3400),
    ("TEA-ROOI", "Rooibos loose leaf tea", 720),
)
UNITS = 500
ADDRESS = Address(
    name="Ada Lovelace", line1="12 Quay Street", city="Hamburg", postal_code="20457",
    country_code="DE",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who asks. A customer has bought two mugs: `order_number`."""

    deps: Deps
    order_number: int | None = None


async def furnish(deps: Deps) -> None:
    """Put goods on the shelves of an empty shop."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        await promotion.create_code(uow, "HELLO10", percent=10)
        place = Location(code="HAM", name="Hamburg")
        uow.session.add(place)
        await uow.session.flush()
        for sku, title, price in GOODS:
            variant = VariantInput(sku=sku, price_amount=price, currency=uow.settings.currency)
            await products.save(
                uow, ProductInput(handle=sku.lower(), title=title, variants=[variant])
            )
            uow.session.add(
                StockMovement(
                    sku=sku, location_id=place.id, kind=MovementKind.RECEIVE,
                    on_hand_delta=UNITS, occurred_at=uow.now,
                )
            )  # fmt: skip


async def person(deps: Deps, role: str) -> Person:
    """Make a fresh guest, customer or merchant."""
    if role == "guest":
        digest = security.sha256(secrets.token_urlsafe(32))
        return Person(deps.acting_as(Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256=digest)))
    kind = Role(role)
    user_id = UserId(new_id())
    async with deps.acting_as(SYSTEM).begin() as uow:
        email = f"{user_id.hex}@example.com"
        uow.session.add(
            User(
                id=user_id, email=email, name="Ada Lovelace", password_hash="!", role=kind,
                created_at=uow.now,
            )
        )  # fmt: skip
    acting = deps.acting_as(Actor(role=kind, user_id=user_id, scopes=ROLE_SCOPES[kind]))
    return Person(acting, await _buy(acting, email) if kind is Role.CUSTOMER else None)


async def _buy(deps: Deps, email: str) -> int:
    async with deps.begin() as uow:
        opened = await cart.create(uow)
        await cart.add(uow, opened.id, "MUG-TIDE", 2)
        filled = await cart.set_details(
            uow, opened.id, email=email, shipping_address=ADDRESS, shipping_method="standard"
        )
    placed = await checkout.complete(deps, filled.id, payment_method="tok_visa")
    assert placed.number is not None
    return int(placed.number)
