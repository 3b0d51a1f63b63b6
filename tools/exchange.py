"""Exchanges: units of a delivered order for other variants of the same product.

request  one transaction: rules, price, replacements allocated     undo: cancel
receive  one transaction: restock, the tender of the difference    undo: none, the goods are in
collect  the price difference, in `tools.sale`
send     one transaction: stock, lines, totals, ledger, parcel, the refund of a lower price
"""

from typing import Any
from uuid import UUID

from sqlmodel import col, select

from db.models.aftersales import OrderExchange, OrderExchangeLine, RequestState
from db.models.fulfillment import Fulfillment, FulfillmentLine
from db.models.order import Order
from db.models.payment import Payment
from db.types import OrderId, PaymentId, new_id
from deps.core import Deps, UnitOfWork
from tools import (
    aftersales,
    aftersales_request,
    exchange_view,
    fulfillment,
    inventory,
    line_change,
    order,
    order_line,
    payment,
    reallocation,
    refund_process,
    remark,
    sale,
    sweep,
    tender,
)
from tools.errors import IllegalTransition
from tools.events import (
    ExchangeCancelled,
    ExchangeCompleted,
    ExchangeReceived,
    ExchangeRequested,
)
from tools.exchange_view import ExchangeLineView, ExchangePreview, ExchangeView
from tools.line_change import Change, LineChange, LineRequest
from tools.registry import FromResult, Risk, operation


async def preview_request(
    uow: UnitOfWork,
    number: int,
    changes: list[LineChange],
    payment_method: UUID | None = None,
    reason: str = "",
    exchange_id: UUID | None = None,
) -> ExchangePreview:
    """Say what `request` would do, without doing it.

    Raises: As `request`.
    """
    of = await order.access(uow, number)
    remark.optional(reason)
    planned, difference = await plan(uow, of, changes, payment_method)
    return ExchangePreview(
        number=number,
        exchange_id=exchange_id or new_id(),
        lines=[ExchangeLineView(**order_line.version(change)) for change in planned],
        charge_amount=max(difference, 0),
        refund_amount=max(-difference, 0),
        currency=of.currency,
    )


async def asked(
    uow: UnitOfWork, exchange_id: UUID | None = None, **_: Any
) -> dict[str, Any] | None:
    """Return what withdraws an exchange once it is asked for, if it is not yet."""
    known = await aftersales_request.state_of(uow, OrderExchange, exchange_id)
    return {"exchange_id": FromResult("id")} if known is None else None


async def waiting(uow: UnitOfWork, exchange_id: UUID) -> dict[str, Any] | None:
    """Return what reopens an exchange once it is withdrawn, if it still waits for its parcel."""
    state = RequestState.REQUESTED
    return await aftersales_request.argument_in(
        uow, OrderExchange, "exchange_id", exchange_id, state
    )


@operation(
    scope="order:return",
    risk=Risk.MONEY,
    idempotent=True,
    inverse="exchange.cancel",
    restore=asked,
    preview=preview_request,
    domain="exchange",
    examples=(
        "exchange {sku} of order {number} for {new_sku}",
        "i got order {number} but want {new_sku} instead of {sku}",
        "swap the delivered {sku} from order {number} for {new_sku}",
        "exchange my order {number}",
        "the {sku} in order {number} does not fit, send {new_sku}",
    ),
)
async def request(
    uow: UnitOfWork,
    number: int,
    changes: list[LineChange],
    payment_method: UUID | None = None,
    reason: str = "",
    exchange_id: UUID | None = None,
) -> ExchangeView:
    """Ask to exchange units of a delivered order; the replacements are kept for the customer.

    The price difference is settled, and the replacements leave, when the old units have arrived.

    Args:
        number: The order's number.
        changes: Units by SKU and the variant wanted for them; name all of them in one call. The
            same variant again replaces a faulty unit.
        payment_method: Id of a stored method that pays, or gets, the difference; may be left out
            when nothing is to be paid.
        reason: Why, in the person's words.
        exchange_id: Leave out: the key of this exchange, bound when it is proposed.

    Raises:
        NotFound: No such order, method or variant, or it is someone else's.
        IllegalTransition: The order has not been delivered.
        AftersalesLimit: The window is over, or the policy allows no further request.
        InvalidInput: The order has not these units, or another product is asked for.
        OutOfStock: The new variant cannot be had.
        InsufficientCredit: The gift card or store credit does not cover the difference.
    """
    of = await order.access(uow, number, lock=True)
    key = aftersales_request.key_of(exchange_id)
    asked = aftersales_request.digest(
        number, {"changes": [x.model_dump() for x in changes], "payment_method": payment_method}
    )
    known = await uow.session.get(OrderExchange, key)
    if known is not None:
        aftersales_request.refuse_other(known.request_sha256, asked)
        return await exchange_view.view(uow, known, of)
    reason = remark.optional(reason)
    planned, difference = await plan(uow, of, changes, payment_method)
    created = OrderExchange(
        id=key,
        order_id=of.id,
        request_sha256=asked,
        method_id=payment_method,
        difference_amount=difference,
        currency=of.currency,
        reason=reason,
        requested_by=uow.actor.user_id,
        created_at=uow.now,
    )
    await _write(uow, of, created, planned)
    return await exchange_view.view(uow, created, of)


async def _write(uow: UnitOfWork, of: Order, created: OrderExchange, planned: list[Change]) -> None:
    units = reallocation.counted((c.new.sku, c.quantity) for c in planned)
    await reallocation.hold(uow, order_id=OrderId(of.id), change_id=created.id, added=units)
    await inventory.allocate(uow, order_id=OrderId(created.id))
    uow.session.add(created)
    await uow.session.flush()
    for position, change in enumerate(planned):
        uow.session.add(
            OrderExchangeLine(
                exchange_id=created.id,
                position=position,
                line_id=change.line.id,
                **order_line.version(change),
            )
        )
    uow.publish(
        ExchangeRequested(
            order_id=OrderId(of.id),
            exchange_id=created.id,
            removed=reallocation.counted((c.line.sku, c.quantity) for c in planned),
            added=units,
            difference_amount=created.difference_amount,
            currency=created.currency,
        )
    )
    await uow.session.flush()


async def plan(
    uow: UnitOfWork,
    of: Order,
    changes: list[LineChange],
    payment_method: UUID | None,
) -> tuple[list[Change], int]:
    """Return what changes, and what the order then comes to more, or less."""
    await aftersales.refuse_request(uow, of)
    lines = await line_change.lines_of(uow, OrderId(of.id))
    taken = await line_change.taken_units(uow, OrderId(of.id))
    planned = await line_change.plan_changes(uow, lines, changes, taken=taken, may_stay=True)
    await line_change.refuse_scarce(uow, planned)
    difference = order_line.difference(of, planned)
    await tender.settling_method(uow, of, payment_method, difference)
    return planned, difference


@operation(
    scope="order:return",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="exchange.reopen",
    restore=waiting,
    domain="exchange",
    examples=(
        "cancel the exchange {exchange_id}",
        "i keep it after all, forget the exchange {exchange_id}",
        "withdraw my exchange {exchange_id}",
        "do not exchange {exchange_id}",
    ),
)
async def cancel(uow: UnitOfWork, exchange_id: UUID) -> ExchangeView:
    """Withdraw an exchange whose parcel has not arrived; the replacements go back on sale.

    Repeating it changes nothing.

    Args:
        exchange_id: Id of the exchange.

    Raises:
        NotFound: No such exchange, or someone else's.
        IllegalTransition: The parcel has arrived.
    """
    of, found = await aftersales_request.access(uow, OrderExchange, exchange_id)
    if found.state is not RequestState.CANCELLED:
        aftersales_request.move(uow, found, RequestState.CANCELLED)
        await inventory.release(
            uow, order_id=OrderId(found.id), reason="the exchange was withdrawn"
        )
        uow.publish(ExchangeCancelled(order_id=OrderId(of.id), exchange_id=found.id))
        await uow.session.flush()
    return await exchange_view.view(uow, found, of)


async def preview_receive(
    uow: UnitOfWork,
    exchange_id: UUID,
    restock: list[LineRequest] | None = None,
    payment_method: UUID | None = None,
    tracking_number: str = "",
    carrier: str = "",
) -> ExchangePreview:
    """Say what `receive` would do, without doing it.

    Raises: As `receive`.
    """
    fulfillment.marks(tracking_number, carrier)
    of, found = await aftersales_request.access(uow, OrderExchange, exchange_id)
    if found.state not in (RequestState.REQUESTED, RequestState.RECEIVED):
        raise IllegalTransition("exchange", found.state.value, RequestState.RECEIVED.value)
    shown = await exchange_view.view(uow, found, of)
    return ExchangePreview(
        number=shown.number,
        exchange_id=found.id,
        lines=shown.lines,
        charge_amount=max(found.difference_amount, 0),
        refund_amount=max(-found.difference_amount, 0),
        currency=found.currency,
    )


@operation(
    scope="order:manage",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_receive,
    domain="exchange",
    examples=(
        "the parcel of exchange {exchange_id} has arrived",
        "take in the exchange {exchange_id}",
        "complete the exchange {exchange_id}",
        "send the replacement of exchange {exchange_id}",
    ),
)
async def receive(
    deps: Deps,
    exchange_id: UUID,
    restock: list[LineRequest] | None = None,
    payment_method: UUID | None = None,
    tracking_number: str = "",
    carrier: str = "",
) -> ExchangeView:
    """Take in the old units of an exchange, settle the difference and send the replacements.

    Safe to repeat: after a declined charge it tries again, with another method if one is named. The
    parcel keeps what it was called last, also while the charge is pending.

    Args:
        exchange_id: Id of the exchange.
        restock: Units by SKU that can be sold again; left out: all. What is left is scrapped.
        payment_method: Id of the customer's stored method to charge in place of the chosen one.
        tracking_number: Of the parcel with the replacements.
        carrier: Who carries it.

    Raises:
        NotFound: No such exchange.
        IllegalTransition: It was cancelled.
        InvalidInput: More would be restocked than was sent back, or a text is too long.
        InsufficientCredit, PaymentDeclined: The difference was not paid; the replacements stay.
        Unavailable: The provider did not answer; repeat it later.
    """
    tracking_number, carrier = fulfillment.marks(tracking_number, carrier)
    async with deps.begin() as uow:
        of, found = await aftersales_request.access(uow, OrderExchange, exchange_id)
        if found.state is RequestState.CANCELLED:
            raise IllegalTransition("exchange", found.state.value, RequestState.RECEIVED.value)
        if found.state is RequestState.REQUESTED:
            await _take_in(uow, of, found, restock)
        if found.state is RequestState.RECEIVED:
            # Kept before the provider is asked: whoever sends the parcel reads it here.
            found.tracking_number = tracking_number or found.tracking_number
            found.carrier = carrier or found.carrier
            await _charge(uow, of, found, payment_method)
        state, payment_id = found.state, found.payment_id
    if state is RequestState.RECEIVED and payment_id is not None:
        await sale.collect(deps, PaymentId(payment_id))
    async with deps.begin() as uow:
        of, found = await aftersales_request.access(uow, OrderExchange, exchange_id)
        if found.state is RequestState.RECEIVED:
            await _send(uow, of, found)
        shown = await exchange_view.view(uow, found, of)
    if shown.refund_id is not None:
        await refund_process.drive(deps, shown.refund_id)
    return shown


async def _take_in(
    uow: UnitOfWork, of: Order, found: OrderExchange, restock: list[LineRequest] | None
) -> None:
    restocked = aftersales_request.restocked(await exchange_view.lines_of(uow, found.id), restock)
    for sku, units in restocked.items():
        await reallocation.restock(uow, order_id=OrderId(of.id), sku=sku, units=units)
    aftersales_request.move(uow, found, RequestState.RECEIVED)
    uow.publish(
        ExchangeReceived(order_id=OrderId(of.id), exchange_id=found.id, restocked=restocked)
    )
    await uow.session.flush()


async def _charge(
    uow: UnitOfWork, of: Order, found: OrderExchange, payment_method: UUID | None
) -> None:
    """Write the tender of the difference, and a new one after a decline."""
    if found.difference_amount <= 0:
        return
    if found.payment_id is not None:
        tried = await uow.session.get_one(Payment, found.payment_id, populate_existing=True)
        if tried.decline_code is None:
            return
    method_id = payment_method or found.method_id
    assert method_id is not None, "an exchange that costs more names who pays"
    method = await tender.method_of(uow, of, method_id)
    await tender.refuse_uncovered(uow, method, found.difference_amount)
    created = await payment.add_tender(
        uow, of, method.provider, tender.token_of(method), found.difference_amount
    )
    found.payment_id = created.id
    await uow.session.flush()


async def _send(uow: UnitOfWork, of: Order, found: OrderExchange) -> None:
    lines = await exchange_view.lines_of(uow, found.id)
    await reallocation.swap_shipped(
        uow,
        order_id=OrderId(of.id),
        change_id=found.id,
        removed=reallocation.counted((line.sku, line.quantity) for line in lines),
    )
    found.difference_amount = await order_line.replace(
        uow, of, lines, change_id=found.id, difference_amount=found.difference_amount
    )
    if found.difference_amount < 0:
        found.refund_id = await tender.give_back(
            uow,
            of,
            found.method_id,
            amount=-found.difference_amount,
            reason=f"units of order {of.number} were exchanged",
        )
    parcel = Fulfillment(
        order_id=of.id,
        carrier=found.carrier,
        tracking_number=found.tracking_number,
        shipped_at=uow.now,
    )
    uow.session.add(parcel)
    await uow.session.flush()
    for line in lines:
        uow.session.add(
            FulfillmentLine(
                fulfillment_id=parcel.id,
                line_id=line.line_id,
                sku=line.new_sku,
                quantity=line.quantity,
            )
        )
    aftersales_request.move(uow, found, RequestState.COMPLETED)
    uow.publish(
        ExchangeCompleted(
            order_id=OrderId(of.id),
            exchange_id=found.id,
            difference_amount=found.difference_amount,
            total_amount=of.total_amount,
            currency=of.currency,
        )
    )
    await uow.session.flush()


async def resume_stuck(deps: Deps) -> int:
    """Carry on exchanges whose parcel arrived but whose replacement has not left."""
    async with deps.begin() as uow:
        stuck = await uow.session.exec(
            select(OrderExchange.id)
            .outerjoin(Payment, col(Payment.id) == col(OrderExchange.payment_id))
            .where(OrderExchange.state == RequestState.RECEIVED)
            .where(col(OrderExchange.created_at) <= uow.now - sweep.RESUME_AFTER)
            .where(col(Payment.decline_code).is_(None))
            .order_by(col(OrderExchange.created_at))
            .limit(sweep.RESUME_BATCH)
        )
        ids = list(stuck)
    return await sweep.resume(deps, ids, receive)
