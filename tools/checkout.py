"""Checkout: turn a cart into an order that is paid for, and take a placed one back.

    prepare  one transaction: price, hold stock, order, payment intent    undo: cancel
    drive    the rest of the sale, in `tools.sale`

Everything that a person or an agent may ask of a sale starts here.
"""

from uuid import UUID

from sqlmodel import select

from db.models.cart import Cart, CartStatus
from db.models.order import FulfillmentStatus, Order, OrderLine, OrderStatus, PaymentStatus
from db.models.payment import AttemptKind
from db.types import OrderId, PaymentId
from deps.core import Deps, UnitOfWork
from tools import cart, inventory, order, payment, sale
from tools.cart import CartView
from tools.errors import (
    CheckoutIncomplete,
    IllegalTransition,
    InvalidInput,
    OutOfStock,
    TotalChanged,
)
from tools.events import (
    OrderCancelled,
    OrderCreated,
)
from tools.order import OrderView
from tools.registry import Risk, operation


async def complete(
    deps: Deps,
    cart_id: UUID,
    *,
    payment_method: str,
    expected_total_amount: int | None = None,
) -> OrderView:
    """Buy a cart: one order per cart, however often and from however many places it is asked.

    Args:
        cart_id: The actor's cart; also the idempotency key.
        payment_method: The provider's token for the method; never a card number.
        expected_total_amount: What the shopper saw, in minor units; a drift is refused.

    Raises:
        NotFound: No such cart, or someone else's.
        CheckoutIncomplete: Something is missing; the list says what.
        TotalChanged: The total is no longer the expected one. Nothing was held or charged.
        OutOfStock: A line cannot be had any more. Nothing was charged.
        PaymentDeclined: The provider said no; the stock is free and the cart open again.
        Unavailable: The provider did not answer; the order is resumed by itself.
    """
    async with deps.begin() as uow:
        order_id = await _prepare(
            uow, cart_id, payment_method, expected_total_amount, deps.gateway.name
        )
    return await sale.drive(deps, order_id)


async def _prepare(
    uow: UnitOfWork,
    cart_id: UUID,
    payment_method: str,
    expected_total_amount: int | None,
    provider: str,
) -> OrderId:
    owned = await cart.access(uow, cart_id, lock=True)
    existing = (await uow.session.exec(select(Order.id).where(Order.cart_id == owned.id))).first()
    if existing is not None:
        return OrderId(existing)
    if not 1 <= len(payment_method) <= 200 or payment_method.replace(" ", "").isdigit():
        raise InvalidInput(
            "payment_method is a token from the payment provider, never a card number.",
            field="payment_method",
        )
    priced = await cart.view(uow, owned.id)
    short = [p for p in priced.problems if p.code == "out_of_stock"]
    if short and len(short) == len(priced.problems):
        sku = short[0].field.removeprefix("lines.")
        raise OutOfStock(sku, next(x.quantity for x in priced.lines if x.sku == sku))
    _refuse_problems(priced)
    if expected_total_amount is not None and expected_total_amount != priced.total_amount:
        raise TotalChanged(
            "The total has changed; look at the cart again.",
            field="expected_total_amount",
            expected_total_amount=expected_total_amount,
            total_amount=priced.total_amount,
        )
    if priced.total_amount == 0:
        raise CheckoutIncomplete("There is nothing to pay.", problems=[])
    return await _create_order(uow, owned, priced, payment_method, provider)


def _refuse_problems(priced: CartView) -> None:
    if priced.problems:
        raise CheckoutIncomplete(
            " ".join(problem.message for problem in priced.problems),
            problems=[problem.model_dump() for problem in priced.problems],
        )


async def _create_order(
    uow: UnitOfWork, owned: Cart, priced: CartView, payment_method: str, provider: str
) -> OrderId:
    assert priced.shipping_address is not None
    created = Order(
        cart_id=owned.id,
        customer_id=owned.customer_id,
        guest_secret_sha256=owned.secret_sha256,
        email=priced.email or "",
        currency=priced.currency,
        subtotal_amount=priced.subtotal_amount,
        shipping_amount=priced.shipping_amount,
        tax_amount=priced.tax_amount,
        discount_amount=priced.discount_amount,
        total_amount=priced.total_amount,
        shipping_address=priced.shipping_address.model_dump(),
        shipping_method=priced.shipping_method or "",
        created_at=uow.now,
    )
    uow.session.add(created)
    await uow.session.flush()
    for line in priced.lines:
        uow.session.add(
            OrderLine(
                order_id=created.id,
                sku=line.sku,
                product_id=line.product_id,
                title=line.title,
                quantity=line.quantity,
                unit_price_amount=line.unit_price_amount,
                total_amount=line.total_amount,
            )
        )
    units = {line.sku: line.quantity for line in priced.lines}
    uow.publish(
        OrderCreated(
            order_id=created.id, total_amount=created.total_amount, currency=created.currency
        )
    )
    await inventory.reserve(uow, order_id=created.id, units=units)
    tender = await payment.add_tender(uow, created, provider, payment_method, created.total_amount)
    await payment.start_attempt(uow, PaymentId(tender.id), AttemptKind.AUTHORIZE, tender.amount)
    await cart.set_status(uow, owned.id, CartStatus.COMPLETING)
    return OrderId(created.id)


class BuyPreview(CartView):
    """What buying the cart would do. An approval binds the fields named as `buy`'s parameters."""

    charge_amount: int
    cart_id: UUID
    expected_total_amount: int


async def preview_buy(
    uow: UnitOfWork,
    payment_method: str = "tok_visa",
    cart_id: UUID | None = None,
    expected_total_amount: int | None = None,
) -> BuyPreview:
    """Say what `buy` would charge, without doing it.

    Raises:
        CheckoutIncomplete: Something is missing; the list says what.
    """
    priced = await (cart.view(uow, cart_id) if cart_id else cart.current(uow))
    _refuse_problems(priced)
    return BuyPreview(
        **priced.model_dump(),
        charge_amount=priced.total_amount,
        cart_id=priced.id,
        expected_total_amount=priced.total_amount,
    )


@operation(
    scope="checkout:write",
    risk=Risk.MONEY,
    idempotent=True,
    inverse="checkout.cancel",
    preview=preview_buy,
    examples=(
        "check out",
        "buy it",
        "place the order",
        "i want to pay now",
        "buy my cart",
        "complete the purchase",
    ),
)
async def buy(
    deps: Deps,
    payment_method: str = "tok_visa",
    cart_id: UUID | None = None,
    expected_total_amount: int | None = None,
) -> OrderView:
    """Buy the shopper's current cart with a saved payment method.

    Args:
        payment_method: The provider's token for the method; never a card number.
        cart_id: Leave out: the current cart, bound when the purchase is proposed.
        expected_total_amount: Leave out: the total the shopper approves, in minor units.

    Raises:
        CheckoutIncomplete: Something is missing; the list says what.
        OutOfStock: A line cannot be had any more.
        PaymentDeclined: The provider said no.
        TotalChanged: The cart no longer costs what was approved.
    """
    if cart_id is None:
        async with deps.begin() as uow:
            cart_id = (await cart.current(uow)).id
    return await complete(
        deps,
        cart_id,
        payment_method=payment_method,
        expected_total_amount=expected_total_amount,
    )


async def preview_cancel(uow: UnitOfWork, number: int, reason: str) -> OrderView:
    """Say what `cancel` would undo, without doing it.

    Raises:
        NotFound: No such order.
        IllegalTransition: It cannot be cancelled any more.
    """
    found = await order.access(uow, number)
    if "cancel" not in order.allowed_actions(found):
        raise IllegalTransition("order", found.status, OrderStatus.CANCELLED)
    return await order.view(uow, found)


@operation(
    scope="order:cancel",
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_cancel,
    examples=(
        "cancel order {number} because {reason}",
        "cancel my order {number}",
        "i do not want order {number} any more",
        "please stop order {number}",
    ),
)
async def cancel(deps: Deps, number: int, reason: str) -> OrderView:
    """Cancel a placed order that has not shipped: stock goes back, the money is refunded in full.

    Repeating it changes nothing.

    Args:
        number: The order's number.
        reason: Why, in the person's words.

    Raises:
        NotFound: No such order, or it is someone else's.
        IllegalTransition: It has shipped, or was never placed.
    """
    if not 1 <= len(reason.strip()) <= 500:
        raise InvalidInput("reason must have 1 to 500 characters.", field="reason")
    async with deps.begin() as uow:
        found = await order.access(uow, number, lock=True)
        order_id = OrderId(found.id)
        repeated = found.status is OrderStatus.CANCELLED and found.placed_at is not None
        if not repeated:
            if found.fulfillment_status is not FulfillmentStatus.UNFULFILLED or (
                found.status is not OrderStatus.PLACED
            ):
                raise IllegalTransition("order", found.status, OrderStatus.CANCELLED)
            await inventory.release(uow, order_id=order_id, reason="the order was cancelled")
            await order.transition(
                uow,
                found,
                OrderStatus.CANCELLED,
                payment_status=PaymentStatus.REFUND_PENDING,
                cancelled_at=uow.now,
            )
            uow.publish(OrderCancelled(order_id=order_id, reason=reason.strip()))
    return await sale.give_back(deps, OrderId(order_id))
