"""Paying a cart with credit: which gift cards and store credit, how much of each, the rest by card.

Credit is spent first, what lapses soonest before the rest, and never more than can be spent; a card
bears what is left. The shopper saw how much credit there was when they chose it: if there is less
at checkout, the purchase is refused rather than charge the card with more than they were shown.
"""

from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.cart import Cart
from db.models.credit import CartCredit, CreditAccount, CreditKind
from db.types import CartId
from deps.core import Deps, UnitOfWork
from deps.given import Given
from tools import cart, credit_account, credit_code, payment
from tools.cart import CartView, Problem
from tools.errors import CheckoutIncomplete, InvalidInput, NotFound
from tools.payment import Tender
from tools.registry import Risk, operation

CODES_MAX: Final = 10


class CreditTender(BaseModel):
    """How much one gift card or store credit pays. Amounts are minor units."""

    account_id: UUID
    kind: CreditKind
    last4: str
    available_amount: int
    amount: int


class CreditChoice(Given):
    """A credit chosen for a cart, and how much of it there was to spend when it was, in minor
    units."""

    account_id: UUID
    seen_amount: int = Field(ge=1, lt=2**63)


class CartCreditView(BaseModel):
    """How a cart is to be paid. `payable_amount` is what is left for a card."""

    cart_id: UUID
    currency: str
    total_amount: int
    credit_amount: int
    payable_amount: int
    tenders: list[CreditTender]
    problems: list[Problem] = Field(description="What keeps the credit from being spent.")


async def chosen(uow: UnitOfWork, of: Cart, total_amount: int) -> CartCreditView:
    """Say what the credit chosen for a cart pays of `total_amount` now."""
    rows = await uow.session.exec(
        select(CreditAccount, CartCredit)
        .join(CartCredit, col(CartCredit.account_id) == col(CreditAccount.id))
        .where(CartCredit.cart_id == of.id, col(CartCredit.is_chosen))
        .order_by(col(CreditAccount.expires_at).nulls_last(), col(CreditAccount.id))
        .execution_options(populate_existing=True)
    )
    found, problems, left = [], [], total_amount
    for account, choice in rows:
        is_own = account.customer_id is None or account.customer_id == of.customer_id
        is_usable = is_own and credit_account.is_usable(account, uow.now)
        available = account.balance_amount - account.held_amount if is_usable else 0
        if available < min(choice.seen_amount, left):
            name = f"The gift card ending in {account.code_last4}"
            if account.kind is CreditKind.STORE_CREDIT:
                name = "Your store credit"
            message = f"{name} has less on it than when it was chosen; choose it again."
            problems.append(
                Problem(code="credit_changed", field=f"credit.{account.id}", message=message)
            )
        amount = min(available, left)
        left -= amount
        found.append(
            CreditTender(
                account_id=account.id,
                kind=account.kind,
                last4=account.code_last4,
                available_amount=available,
                amount=amount,
            )
        )
    return CartCreditView(
        cart_id=of.id,
        currency=of.currency,
        total_amount=total_amount,
        credit_amount=total_amount - left,
        payable_amount=left,
        tenders=found,
        problems=problems,
    )


async def view(uow: UnitOfWork, cart_id: UUID) -> CartCreditView:
    """Show how a cart is to be paid.

    Raises:
        NotFound: No such cart, or someone else's.
    """
    of = await cart.access(uow, cart_id)
    return await chosen(uow, of, (await cart.view(uow, cart_id)).total_amount)


async def choose(
    deps: Deps, cart_id: UUID, *, codes: list[str], uses_account: bool
) -> CartCreditView:
    """Set which credit a cart is paid with: all of it, so that repeating it changes nothing.

    Args:
        cart_id: The actor's cart.
        codes: Of gift cards; none takes them all off.
        uses_account: Whether to spend the credit in the person's account, too.

    Raises:
        NotFound: No such cart, or a code does not exist or cannot be used.
        Conflict: The cart has been checked out.
        InvalidInput: Too many codes, or a guest has no account.
        TooManyRequests: Too many codes were tried.
    """
    if len(codes) > CODES_MAX:
        raise InvalidInput(f"At most {CODES_MAX} gift cards pay one cart.", field="codes")
    if uses_account and deps.actor.user_id is None:
        raise InvalidInput("Sign in to spend the credit in your account.", field="uses_account")
    if codes:
        await credit_code.count_lookup(deps, len(codes))
    async with deps.begin() as uow:
        of = await cart.editable(uow, cart_id)
        accounts = [await credit_code.by_code(uow, code) for code in codes]
        if uses_account:
            accounts += await credit_account.usable_of(uow)
        await _take_off(uow, of)
        await _put(uow, of, accounts)
        return await view(uow, of.id)


async def _put(uow: UnitOfWork, of: Cart, accounts: list[CreditAccount]) -> None:
    spendable = [
        account
        for account in accounts
        if account.currency == of.currency and account.balance_amount > account.held_amount
    ]
    for account in spendable:
        choice = CartCredit(
            cart_id=CartId(of.id),
            account_id=account.id,
            seen_amount=account.balance_amount - account.held_amount,
        )
        row = insert(CartCredit).values(**choice.model_dump())
        await uow.session.execute(
            row.on_conflict_do_update(
                index_elements=["cart_id", "account_id"],
                set_={"seen_amount": row.excluded.seen_amount, "is_chosen": True},
            )
        )
    await _renew(uow, of)


async def _take_off(uow: UnitOfWork, of: Cart) -> None:
    await uow.session.execute(
        update(CartCredit).where(col(CartCredit.cart_id) == of.id).values(is_chosen=False)
    )


async def _renew(uow: UnitOfWork, of: Cart) -> None:
    chosen_here = (CartCredit.cart_id == of.id, col(CartCredit.is_chosen))
    has_credit = select(CartCredit.cart_id).where(*chosen_here).exists()
    # The version tells a checkout under way that what it priced is no longer how it is paid.
    await uow.session.execute(
        update(Cart)
        .where(col(Cart.id) == of.id)
        .values(uses_credit=has_credit, version=col(Cart.version) + 1, updated_at=uow.now)
    )
    await uow.session.flush()


async def choices(uow: UnitOfWork, cart_id: UUID | None = None, **_: Any) -> dict[str, Any]:
    """Return what chooses the credit for a cart again that is chosen now."""
    of = await cart.access(uow, cart_id or await cart.current_id(uow))
    rows = await uow.fetch(
        """SELECT account_id, seen_amount FROM cart_credit WHERE cart_id = $1 AND is_chosen
           ORDER BY account_id""",
        of.id,
    )
    return {"cart_id": of.id, "before": [dict(row) for row in rows]}


@operation(
    domain="credit",
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="credit.remove_from_cart",
    restore=choices,
    examples=(
        "pay with gift card {code}",
        "use the gift card {code} for my cart",
        "use my store credit for this cart",
        "apply the voucher {code}",
        "pay as much as possible from my credit",
    ),
)
async def use_in_cart(deps: Deps, code: str | None = None) -> CartCreditView:
    """Pay the shopper's current cart with a gift card, or with the credit in their account.

    What it does not cover is left for a card. Nothing is spent before the purchase.

    Args:
        code: Of a gift card; leave out for the person's own credit.

    Raises:
        NotFound: No such code, or it cannot be used.
        InvalidInput: A guest has no account.
        TooManyRequests: Too many codes were tried.
    """
    if code is None and deps.actor.user_id is None:
        raise InvalidInput("Sign in to spend your credit, or give a gift card's code.")
    if code is not None:
        await credit_code.count_lookup(deps)
    async with deps.begin() as uow:
        of = await cart.editable(uow, await cart.current_id(uow))
        if code is not None:
            accounts = [await credit_code.by_code(uow, code)]
        else:
            accounts = await credit_account.usable_of(uow)
        await _put(uow, of, accounts)
        return await view(uow, of.id)


@operation(
    domain="credit",
    scope="cart:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="credit.remove_from_cart",
    restore=choices,
    examples=(
        "do not use my gift card",
        "take the gift card off my cart",
        "pay everything by card",
        "remove my store credit from the cart",
    ),
)
async def remove_from_cart(
    uow: UnitOfWork, cart_id: UUID | None = None, before: list[CreditChoice] | None = None
) -> CartCreditView:
    """Take all credit off the shopper's current cart: a card pays for everything again.

    Args:
        cart_id: Leave out: the current one.
        before: Leave out: the choices that undoing goes back to.

    Raises:
        NotFound: No such cart, or a credit was never chosen for it.
        Conflict: It has been checked out.
    """
    of = await cart.editable(uow, cart_id or await cart.current_id(uow))
    await _take_off(uow, of)
    for choice in before or ():
        # Whoever knows a gift card's code may spend it; that they did once is what the row says.
        again = (
            update(CartCredit)
            .where(col(CartCredit.cart_id) == of.id)
            .where(col(CartCredit.account_id) == choice.account_id)
            .values(is_chosen=True, seen_amount=choice.seen_amount)
        )
        if (await uow.session.execute(again.returning(col(CartCredit.cart_id)))).first() is None:
            raise NotFound("It was not chosen for this cart; give its code.", field="before")
    await _renew(uow, of)
    return await view(uow, of.id)


async def tenders(deps: Deps, priced: CartView) -> list[Tender]:
    """Return what the credit chosen for a cart brings of its total, as tenders of a purchase.

    What is read here may be spent elsewhere before it is held; then the hold is declined, and the
    purchase with it.

    Raises:
        CheckoutIncomplete: There is less credit than the shopper was shown.
    """
    if not priced.uses_credit:
        return []
    async with deps.begin() as uow:
        of = await cart.access(uow, priced.id)
        paid = await chosen(uow, of, priced.total_amount)
    if paid.problems:
        raise CheckoutIncomplete(
            " ".join(problem.message for problem in paid.problems),
            problems=[problem.model_dump() for problem in paid.problems],
        )
    return [
        Tender(payment.CREDIT_PROVIDER, str(tender.account_id), tender.amount)
        for tender in paid.tenders
        if tender.amount
    ]
