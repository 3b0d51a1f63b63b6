"""A shop after the sale: a lamp in three finishes, customers with methods on file, their orders."""

from typing import Any
from uuid import UUID

from sqlmodel import col, select

from db.models.aftersales import OrderEdit
from db.models.credit import CreditAccount
from db.models.payment import MethodKind, Payment, StoredMethod
from db.types import UserId
from deps.core import SYSTEM, Deps
from tests import factories
from tools import aftersales, checkout, credit_desk, fulfillment
from tools import product as products
from tools.address import Address
from tools.line_change import LineChange
from tools.order import OrderView
from tools.product import ProductInput, VariantInput

LAMP = {"LAMP-BRASS": 8000, "LAMP-STEEL": 6500, "LAMP-OAK": 9900}
CARD = "tok_visa"
ELSEWHERE = Address(
    name="Ada Lovelace",
    line1="1 Other Street",
    city="Bremen",
    postal_code="28195",
    country_code="DE",
)


async def lamp(deps: Deps, **stock: int) -> None:
    """Save a lamp in three finishes and a lone mug. Stock by finish, 10 each unless said."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        await products.save(
            uow,
            ProductInput(
                handle="lamp",
                title="Desk lamp",
                variants=[
                    VariantInput(
                        sku=sku,
                        title=sku.removeprefix("LAMP-").title(),
                        options={"finish": sku.removeprefix("LAMP-").lower()},
                        price_amount=price,
                        currency=uow.settings.currency,
                    )
                    for sku, price in LAMP.items()
                ],
            ),
        )
    for sku in LAMP:
        units = stock.get(sku.removeprefix("LAMP-").lower(), 10)
        if units:
            await factories.receive(deps, sku, units)
    await factories.product(deps, "MUG", price=1250, stock=10)


async def card(deps: Deps, token: str = CARD) -> UUID:
    """Put a card on file for `deps.actor`."""
    assert deps.actor.user_id is not None
    method = StoredMethod(
        customer_id=deps.actor.user_id,
        provider="scripted",
        token=token,
        kind=MethodKind.CARD,
        brand="visa",
        last4="4242",
        created_at=deps.clock(),
    )
    async with deps.begin() as uow:
        uow.session.add(method)
    return method.id


async def gift_card(deps: Deps, balance: int) -> UUID:
    """Give `deps.actor` a gift card with a balance, on file as a method."""
    assert deps.actor.user_id is not None
    async with deps.acting_as(SYSTEM).begin() as uow:
        issued = await credit_desk.issue_gift_card(uow, balance, note="a present")
        account = await uow.session.get_one(CreditAccount, issued.id)
        account.customer_id = UserId(deps.actor.user_id)
        method = StoredMethod(
            customer_id=UserId(deps.actor.user_id),
            provider="credit",
            token=str(account.id),
            kind=MethodKind.CREDIT,
            last4="0001",
            credit_account_id=account.id,
            created_at=uow.now,
        )
        uow.session.add(method)
    return method.id


async def balance(deps: Deps, method_id: UUID) -> int:
    async with deps.begin() as uow:
        method = await uow.session.get_one(StoredMethod, method_id)
        account = await uow.session.get_one(
            CreditAccount, method.credit_account_id, populate_existing=True
        )
        return account.balance_amount - account.held_amount


async def ordered(deps: Deps, /, **units: int) -> OrderView:
    """Place an order as `deps.actor`; `oak=1` is one lamp in oak, `MUG=2` two mugs."""
    skus = {sku if sku == "MUG" else f"LAMP-{sku.upper()}": n for sku, n in units.items()}
    filled = await factories.filled_cart(deps, **skus)
    return await checkout.complete(deps, filled.id, payment_method=CARD)


async def delivered(deps: Deps, /, **units: int) -> OrderView:
    placed = await ordered(deps, **units)
    staff = deps.acting_as(SYSTEM)
    async with staff.begin() as uow:
        await fulfillment.ship(uow, placed.number, "T-1", "DHL")
    async with staff.begin() as uow:
        await fulfillment.deliver(uow, placed.number)
    return placed


async def rules(deps: Deps, **values: Any) -> None:
    """Set the shop's after-sales policy; what is not named takes its default."""
    async with deps.acting_as(SYSTEM).begin() as uow:
        await aftersales.set_policy(uow, aftersales.PolicyInput(**values))


def to(new: str, old: str = "LAMP-STEEL", quantity: int = 1) -> list[LineChange]:
    """Wish for another lamp in place of the one that was bought."""
    return [LineChange(sku=old, new_sku=new, quantity=quantity)]


async def edits(deps: Deps) -> list[OrderEdit]:
    async with deps.begin() as uow:
        return list(await uow.session.exec(select(OrderEdit).order_by(col(OrderEdit.id))))


async def tenders(deps: Deps, of: OrderView) -> list[tuple[str, int, int]]:
    """Return (method token, captured, refunded) of an order's tenders, as they were charged."""
    async with deps.begin() as uow:
        rows = await uow.session.exec(
            select(Payment).where(Payment.order_id == of.id).order_by(col(Payment.position))
        )
        return [(row.method_token, row.captured_amount, row.refunded_amount) for row in rows]
