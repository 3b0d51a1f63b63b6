"""Checkout: turn a cart into an order that is paid for, and take a placed one back.

    prepare  one transaction: hold stock, order, tender, intent to charge     undo: cancel
    pay      the gateway, with the tender's key                              undo: void
    confirm  one transaction: hold becomes allocation, intent to capture     undo: void, cancel
    place    one transaction: outcome, ledger, order placed

Each transaction is one SQL function, called in one statement; on this path nothing else runs. The
sale that goes another way (a decline, a timeout, a crash, two tenders) is `tools.sale`'s.

Everything that a person or an agent may ask of a sale starts here.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from asyncpg import PostgresError

from db.models.cart import CartStatus
from db.models.order import FulfillmentStatus, OrderStatus, PaymentStatus
from db.models.payment import AttemptKind
from db.types import Money, OrderId, new_id
from deps.core import Actor, Deps, UnitOfWork
from deps.gateway import GatewayTimeout, Outcome
from deps.settings import CaptureMode
from tools import (
    aftersales,
    capture,
    cart,
    credit_tender,
    inventory,
    method,
    order,
    payment,
    refund,
    refund_process,
    remark,
    sale,
)
from tools.cart import CartView
from tools.errors import (
    CheckoutIncomplete,
    Conflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
    OutOfStock,
    TotalChanged,
)
from tools.events import OrderCancelled
from tools.order import OrderLineView, OrderView
from tools.payment import Tender
from tools.registry import Risk, operation

OUT_OF_STOCK: Final = "SK001"  # The SQLSTATE our functions raise; the message is the SKU.
USED_UP: Final = "SK002"  # Likewise, of a code that others have used up.
READS_MAX: Final = 5

_PREPARE = """
    SELECT checkout_prepare($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                            $17)
"""
_CONFIRM = "SELECT checkout_confirm($1, $2, $3, $4, $5, $6, $7, $8)"
_PLACE = "SELECT checkout_place($1, $2, $3, $4, $5, $6)"


async def complete(
    deps: Deps,
    cart_id: UUID,
    *,
    payment_method: str | None,
    expected_total_amount: int | None = None,
    credits: Sequence[Tender] = (),
) -> OrderView:
    """Buy a cart: one order per cart, however often and from however many places it is asked.

    Args:
        cart_id: The actor's cart; also the idempotency key.
        payment_method: The provider's token for the method; never a card number. None when
            credit brings the whole total, or there is nothing to pay.
        expected_total_amount: What the shopper saw, in minor units; a drift is refused.
        credits: What gift cards and store credit bring, charged first; the method brings the rest.
            By default, what was chosen for the cart.

    Raises:
        NotFound: No such cart, or someone else's.
        CheckoutIncomplete: Something is missing; the list says what.
        TotalChanged: The total is no longer the expected one. Nothing was held or charged.
        OutOfStock: A line cannot be had any more. Nothing was charged.
        PaymentDeclined: The provider said no; the stock is free and the cart open again.
        Unavailable: The provider did not answer; the order is resumed by itself.
    """
    if payment_method is not None:
        _check_method(payment_method)
        payment_method = await method.token_for(deps, payment_method)
    for _ in range(READS_MAX):
        priced = await cart.view(deps.hot_work(), cart_id)
        tenders: list[Tender] | None = None  # A cart that is bought already: its order is found.
        if priced.status is CartStatus.OPEN:
            _refuse_problems(priced)
            _refuse_drift(priced, expected_total_amount)
            chosen = credits or await credit_tender.tenders(deps, priced)
            tenders = _tenders(deps, priced, payment_method, chosen)
        prepared = await _prepare(deps, priced, tenders)
        if prepared is not None:
            break
    else:
        raise Conflict("The cart keeps changing; look at it again.")
    if prepared.is_existing:
        return await sale.drive(deps, prepared.order_id)
    if tenders and _is_usual(deps, tenders):
        placed = await _pay(deps, priced, prepared, tenders[0])
        if placed is not None:
            return placed
    await sale.end_lease(deps, prepared.order_id)
    return await sale.drive(deps, prepared.order_id)


def _is_usual(deps: Deps, tenders: Sequence[Tender]) -> bool:
    """Whether one outside method pays for all of it, at once."""
    if deps.settings.capture is CaptureMode.MANUAL or len(tenders) != 1:
        return False
    return tenders[0].provider != payment.CREDIT_PROVIDER


def _tenders(
    deps: Deps, priced: CartView, payment_method: str | None, credits: Sequence[Tender]
) -> list[Tender]:
    """Split the total: credits first, the rest by the method."""
    rest = priced.total_amount - sum(tender.amount for tender in credits)
    if rest < 0:
        raise TotalChanged(
            "The credit to be used is more than the total.",
            field="credits",
            total_amount=priced.total_amount,
        )
    if rest == 0:
        return list(credits)
    if payment_method is None:
        raise InvalidInput(
            f"{Money(rest, priced.currency)} is left to pay by another method.",
            field="payment_method",
        )
    return [*credits, Tender(deps.gateway.name, payment_method, rest)]


def _check_method(payment_method: str) -> None:
    is_number = payment_method.replace(" ", "").isdigit()
    if not 1 <= len(payment_method) <= 200 or is_number or method.has_card_number(payment_method):
        raise InvalidInput(
            "payment_method is a token from the payment provider, never a card number.",
            field="payment_method",
        )


def _refuse_problems(priced: CartView) -> None:
    short = [problem for problem in priced.problems if problem.code == "out_of_stock"]
    if short and len(short) == len(priced.problems):
        sku = short[0].field.removeprefix("lines.")
        raise OutOfStock(sku, next(line.quantity for line in priced.lines if line.sku == sku))
    if priced.problems:
        raise CheckoutIncomplete(
            " ".join(problem.message for problem in priced.problems),
            problems=[problem.model_dump() for problem in priced.problems],
        )


def _refuse_drift(priced: CartView, expected_total_amount: int | None) -> None:
    if expected_total_amount is not None and expected_total_amount != priced.total_amount:
        raise TotalChanged(
            "The total has changed; look at the cart again.",
            field="expected_total_amount",
            expected_total_amount=expected_total_amount,
            total_amount=priced.total_amount,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    order_id: OrderId
    number: int
    at: datetime
    is_existing: bool = False


async def _prepare(
    deps: Deps, priced: CartView, tenders: Sequence[Tender] | None
) -> _Prepared | None:
    """Make the order of a priced cart in one statement. None: it changed since it was priced.

    Raises:
        NotFound: The cart is gone, or is not the actor's any more.
        OutOfStock: A line cannot be had any more; nothing happened.
    """
    now, order_id = deps.clock(), OrderId(new_id())
    try:
        answer = await deps.hot.fetchval(
            _PREPARE,
            priced.id,
            deps.actor.user_id,
            deps.actor.guest_secret_sha256,
            priced.version,
            priced.subtotal_amount,
            order_id,
            priced.shipping_amount,
            priced.tax_amount,
            priced.tax_rate,
            priced.discount_amount,
            deps.settings.capture is CaptureMode.MANUAL,
            None if tenders is None else [_document(tender) for tender in tenders],
            now + inventory.HOLD_TTL,
            now + sale.LEASE,
            deps.actor.label,
            deps.trace_id,
            now,
        )
    except PostgresError as error:
        if error.sqlstate == USED_UP:
            return None
        raise _short(error, priced) from error
    match answer.get("refusal"):
        case "not_found":
            raise NotFound("No such cart.")
        case "exists":
            return _Prepared(OrderId(UUID(answer["order_id"])), 0, now, is_existing=True)
        case "changed":
            return None
    return _Prepared(order_id, answer["number"], now)


def _document(tender: Tender) -> dict[str, Any]:
    return asdict(tender) | {"id": str(tender.id)}


def _short(error: PostgresError, priced: CartView) -> Exception:
    if error.sqlstate != OUT_OF_STOCK:
        return error
    sku = str(error)
    return OutOfStock(sku, next((x.quantity for x in priced.lines if x.sku == sku), 1))


async def _pay(
    deps: Deps, priced: CartView, prepared: _Prepared, tender: Tender
) -> OrderView | None:
    """Authorise, confirm, capture, place: a statement, or a call, each. None: something was not as
    usual; `sale.drive` reads from the rows how far we came.

    Raises:
        Unavailable: The provider did not answer.
    """
    total = Money(priced.total_amount, priced.currency)
    key = partial(payment.attempt_key, tender.id)
    gateway = deps.gateways[tender.provider]
    who = (deps.actor.user_id, deps.actor.label, deps.trace_id)
    names = (prepared.order_id, tender.id)
    calling = key(AttemptKind.AUTHORIZE)
    try:
        held = await gateway.authorize(calling, total, tender.method_token)
        if _is_as_asked(held, total) and await deps.hot.fetchval(
            _CONFIRM, *names, held.reference, held.expires_at, *who, deps.clock()
        ):
            calling = key(AttemptKind.CAPTURE)
            taken = await gateway.capture(calling, held.reference, total)
            placed_at = deps.clock()
            if _is_as_asked(taken, total) and await deps.hot.fetchval(
                _PLACE, *names, *who, placed_at
            ):
                return _placed(deps.actor, priced, prepared, placed_at)
    except GatewayTimeout as error:
        await sale.end_lease(deps, prepared.order_id)
        raise await sale.unknown(deps, calling) from error
    except PostgresError as error:
        if error.sqlstate != OUT_OF_STOCK:
            raise
    return None


def _is_as_asked(outcome: Outcome, total: Money) -> bool:
    return outcome.approved and Money(outcome.amount, outcome.currency) == total


def _placed(actor: Actor, priced: CartView, prepared: _Prepared, placed_at: datetime) -> OrderView:
    """Show the order without reading it again: every value is what was just written."""
    assert priced.email is not None
    assert priced.shipping_address is not None
    assert priced.shipping_method is not None
    return OrderView(
        id=prepared.order_id,
        number=prepared.number,
        status=OrderStatus.PLACED,
        payment_status=PaymentStatus.CAPTURED,
        fulfillment_status=FulfillmentStatus.UNFULFILLED,
        currency=priced.currency,
        total_amount=priced.total_amount,
        email=priced.email,
        placed_at=placed_at,
        created_at=prepared.at,
        subtotal_amount=priced.subtotal_amount,
        shipping_amount=priced.shipping_amount,
        tax_amount=priced.tax_amount,
        discount_amount=priced.discount_amount,
        discount_code=priced.discount_code,
        shipping_address=priced.shipping_address.model_dump(),
        shipping_method=priced.shipping_method,
        lines=[OrderLineView.model_validate(line, from_attributes=True) for line in priced.lines],
        allowed_actions=order.permitted(actor, order.BEFORE_SHIPPING),
    )


class BuyPreview(CartView):
    """What buying the cart would do. An approval binds the fields named as `buy`'s parameters."""

    credit_amount: int
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
    credit_amount = 0
    if priced.uses_credit:
        credit_amount = (await credit_tender.view(uow, priced.id)).credit_amount
    return BuyPreview(
        **priced.model_dump(),
        credit_amount=credit_amount,
        charge_amount=priced.total_amount - credit_amount,
        cart_id=priced.id,
        expected_total_amount=priced.total_amount,
    )


async def taken_back(uow: UnitOfWork, **_: Any) -> dict[str, Any]:
    """Return what `cancel` takes besides the number of the order that was bought."""
    return {"reason": "The purchase was taken back."}


@operation(
    scope="checkout:write",
    risk=Risk.MONEY,
    idempotent=True,
    inverse="checkout.cancel",
    restore=taken_back,
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
    if "cancel" not in order.next_actions(found):
        raise IllegalTransition("order", found.status, OrderStatus.CANCELLED)
    await aftersales.refuse_cancellation(uow, found, reason)
    return await order.view(uow, found)


async def cancel_unpaid(deps: Deps) -> int:
    """Let authorisations that have lapsed be renewed, and cancel the orders whose cannot be.

    Only what never brought any money is cancelled; the rest is for staff to decide.
    """
    await capture.expire_due(deps)
    cancelled = 0
    for number, code in await capture.renew_due(deps):
        async with deps.begin() as uow:
            found = await order.access(uow, number)
            paid = await payment.read_tenders(uow, OrderId(found.id))
        if not any(tender.captured_amount for tender in paid):
            with suppress(IllegalTransition):  # It shipped unpaid: for staff to decide, too.
                await cancel(deps, number, f"the payment could not be authorised again: {code}")
                cancelled += 1
    return cancelled


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
        AftersalesLimit: The shop's policy does not allow it any more.
    """
    reason = remark.needed(reason)
    async with deps.begin() as uow:
        found = await order.access(uow, number, lock=True)
        order_id = OrderId(found.id)
        repeated = found.status is OrderStatus.CANCELLED and found.placed_at is not None
        if not repeated:
            if found.fulfillment_status is not FulfillmentStatus.UNFULFILLED or (
                found.status is not OrderStatus.PLACED
            ):
                raise IllegalTransition("order", found.status, OrderStatus.CANCELLED)
            await aftersales.refuse_cancellation(uow, found, reason)
            await inventory.release(uow, order_id=order_id, reason="the order was cancelled")
            await order.transition(
                uow,
                found,
                OrderStatus.CANCELLED,
                payment_status=PaymentStatus.REFUND_PENDING,
                cancelled_at=uow.now,
            )
            uow.publish(OrderCancelled(order_id=order_id, reason=reason))
            await capture.start_release(uow, found)
            await refund.request_rest(uow, found, reason="the order was cancelled")
            found.payment_status = payment.status_of(
                found, await payment.tenders(uow, OrderId(order_id))
            )
    await capture.finish(deps, order_id)
    await refund_process.drive_order(deps, order_id)
    async with deps.begin() as uow:
        return await order.get(uow, number)
