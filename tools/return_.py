"""Returns: a customer asks, the parcel arrives, the units go back on sale and the money back.

request  one transaction: rules, lines, where the money shall go    undo: cancel
receive  one transaction: restock, the refund's intent              undo: none, the goods are in
drive    the refund, in `tools.refund`
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from db.models.aftersales import OrderReturn, OrderReturnLine, RequestState
from db.models.order import Order
from db.types import OrderId, new_id
from deps.core import Deps, UnitOfWork
from tools import (
    aftersales,
    aftersales_request,
    line_change,
    order,
    reallocation,
    refund_process,
    remark,
    return_refund,
    tender,
)
from tools.errors import IllegalTransition
from tools.events import ReturnCancelled, ReturnReceived, ReturnRequested
from tools.line_change import LineRequest
from tools.registry import FromResult, Risk, operation
from tools.return_refund import lines_of
from tools.reversal import ReturnReopened


class ReturnLineView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    sku: str
    quantity: int
    unit_price_amount: int
    restocked_quantity: int = 0


class ReturnView(BaseModel):
    """A return (RMA). `amount` is what goes back for its lines, in minor units of `currency`: as it
    was promised, and once the parcel has arrived, as it was."""

    id: UUID
    number: int = Field(description="Of the order.")
    state: RequestState
    lines: list[ReturnLineView]
    amount: int
    currency: str
    payment_method: UUID | None
    reason: str
    refund_id: UUID | None
    why_no_refund: str = Field(
        default="", description="Why nothing was given back though the parcel has arrived."
    )
    created_at: datetime
    finished_at: datetime | None


class ReturnPreview(BaseModel):
    """What asking for a return would do. No money moves before the parcel has arrived."""

    number: int
    return_id: UUID
    lines: list[ReturnLineView]
    refund_amount: int
    currency: str


async def preview_request(
    uow: UnitOfWork,
    number: int,
    lines: list[LineRequest],
    payment_method: UUID | None = None,
    reason: str = "",
    return_id: UUID | None = None,
) -> ReturnPreview:
    """Say what `request` would do, without doing it.

    Raises: As `request`.
    """
    of = await order.access(uow, number)
    remark.optional(reason)
    planned = await _plan(uow, of, lines, payment_method)
    return ReturnPreview(
        number=number,
        return_id=return_id or new_id(),
        lines=[ReturnLineView.model_validate(line) for line in planned],
        refund_amount=await return_refund.brings(uow, of, planned),
        currency=of.currency,
    )


async def asked(uow: UnitOfWork, return_id: UUID | None = None, **_: Any) -> dict[str, Any] | None:
    """Return what withdraws a return once it is asked for, if it is not yet."""
    known = await aftersales_request.state_of(uow, OrderReturn, return_id)
    return {"return_id": FromResult("id")} if known is None else None


async def waiting(uow: UnitOfWork, return_id: UUID) -> dict[str, Any] | None:
    """Return what reopens a return once it is withdrawn, if it still waits for its parcel."""
    state = RequestState.REQUESTED
    return await aftersales_request.argument_in(uow, OrderReturn, "return_id", return_id, state)


async def withdrawn(uow: UnitOfWork, return_id: UUID) -> dict[str, Any] | None:
    """Return what withdraws a return again once it is reopened, if it is withdrawn."""
    state = RequestState.CANCELLED
    return await aftersales_request.argument_in(uow, OrderReturn, "return_id", return_id, state)


@operation(
    scope="order:return",
    risk=Risk.MONEY,
    idempotent=True,
    inverse="return.cancel",
    restore=asked,
    preview=preview_request,
    domain="return",
    examples=(
        "return {sku} from order {number}",
        "i want to send back {sku} of order {number}",
        "return my order {number}",
        "i would like my money back for {sku} in order {number}",
        "give back the {sku} from order {number}",
    ),
)
async def request(
    uow: UnitOfWork,
    number: int,
    lines: list[LineRequest],
    payment_method: UUID | None = None,
    reason: str = "",
    return_id: UUID | None = None,
) -> ReturnView:
    """Ask to send back units of a delivered order; the money follows when they have arrived.

    Args:
        number: The order's number.
        lines: Units by SKU; name all of them in one call.
        payment_method: Id of the stored method that gets the money: one that paid for the order,
            or a gift card or store credit. Left out: back the way it came.
        reason: Why, in the person's words.
        return_id: Leave out: the key of this return, bound when it is proposed.

    Raises:
        NotFound: No such order or method, or it is someone else's.
        IllegalTransition: The order has not been delivered.
        AftersalesLimit: The window is over, or the policy allows no further request.
        InvalidInput: The order has not these units, or the money may not go there.
    """
    of = await order.access(uow, number, lock=True)
    key = aftersales_request.key_of(return_id)
    asked = aftersales_request.digest(
        number, {"lines": [x.model_dump() for x in lines], "payment_method": payment_method}
    )
    known = await uow.session.get(OrderReturn, key)
    if known is not None:
        aftersales_request.refuse_other(known.request_sha256, asked)
        return await _view(uow, known, of)
    reason = remark.optional(reason)
    planned = await _plan(uow, of, lines, payment_method)
    created = OrderReturn(
        id=key,
        order_id=of.id,
        request_sha256=asked,
        method_id=payment_method,
        amount=await return_refund.brings(uow, of, planned),
        currency=of.currency,
        reason=reason,
        requested_by=uow.actor.user_id,
        created_at=uow.now,
    )
    uow.session.add(created)
    await uow.session.flush()
    for line in planned:
        line.return_id = key
        uow.session.add(line)
    uow.publish(
        ReturnRequested(
            order_id=OrderId(of.id),
            return_id=key,
            units=reallocation.counted((line.sku, line.quantity) for line in planned),
            amount=created.amount,
            currency=created.currency,
        )
    )
    await uow.session.flush()
    return await _view(uow, created, of)


async def _plan(
    uow: UnitOfWork,
    of: Order,
    wanted: list[LineRequest],
    payment_method: UUID | None,
) -> list[OrderReturnLine]:
    await aftersales.refuse_request(uow, of)
    if payment_method is not None:
        method = await tender.method_of(uow, of, payment_method)
        await tender.refuse_foreign_refund(uow, of, method)
    lines = await line_change.lines_of(uow, OrderId(of.id))
    taken = await line_change.taken_units(uow, OrderId(of.id))
    return [
        OrderReturnLine(
            return_id=new_id(),
            position=position,
            line_id=line.id,
            sku=line.sku,
            unit_price_amount=line.unit_price_amount,
            quantity=units,
        )
        for position, (line, _, units) in enumerate(line_change.take_units(lines, wanted, taken))
    ]


@operation(
    scope="order:return",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="return.reopen",
    restore=waiting,
    domain="return",
    examples=(
        "cancel the return {return_id}",
        "i keep it after all, forget the return {return_id}",
        "withdraw my return {return_id}",
        "do not send back {return_id}",
    ),
)
async def cancel(uow: UnitOfWork, return_id: UUID) -> ReturnView:
    """Withdraw a return whose parcel has not arrived. Repeating it changes nothing.

    Args:
        return_id: Id of the return.

    Raises:
        NotFound: No such return, or someone else's.
        IllegalTransition: The parcel has arrived.
    """
    of, found = await aftersales_request.access(uow, OrderReturn, return_id)
    if found.state is not RequestState.CANCELLED:
        aftersales_request.move(uow, found, RequestState.CANCELLED)
        uow.publish(ReturnCancelled(order_id=OrderId(of.id), return_id=found.id))
        await uow.session.flush()
    return await _view(uow, found, of)


async def preview_reopen(uow: UnitOfWork, return_id: UUID) -> ReturnPreview:
    """Say what `reopen` would do, without doing it.

    Raises: As `reopen`.
    """
    of, found = await aftersales_request.access(uow, OrderReturn, return_id)
    await _refuse_reopening(uow, of, found)
    lines = await lines_of(uow, found.id)
    assert of.number is not None
    return ReturnPreview(
        number=of.number,
        return_id=found.id,
        lines=[ReturnLineView.model_validate(line) for line in lines],
        refund_amount=await return_refund.brings(uow, of, lines),
        currency=found.currency,
    )


@operation(
    scope="order:return",
    risk=Risk.MONEY,
    idempotent=True,
    inverse="return.cancel",
    restore=withdrawn,
    preview=preview_reopen,
    domain="return",
    examples=(
        "reopen the return {return_id}",
        "i want to send back {return_id} after all",
        "i cancelled the return {return_id} by mistake",
        "go on with the withdrawn return {return_id}",
    ),
)
async def reopen(uow: UnitOfWork, return_id: UUID) -> ReturnView:
    """Go on with a return that was withdrawn, as long as it could still be asked for.

    Repeating it changes nothing.

    Args:
        return_id: Id of the return.

    Raises:
        NotFound: No such return, or someone else's; or its payment method is gone.
        IllegalTransition: The parcel has arrived.
        AftersalesLimit: The window is over, or the policy allows no further request.
        InvalidInput: Its units are being sent back by another request.
        Conflict: The order or a price has changed since.
    """
    of, found = await aftersales_request.access(uow, OrderReturn, return_id)
    if found.state is not RequestState.REQUESTED:
        await _refuse_reopening(uow, of, found)
        aftersales_request.move(uow, found, RequestState.REQUESTED)
        uow.publish(ReturnReopened(order_id=OrderId(of.id), return_id=found.id))
        await uow.session.flush()
    return await _view(uow, found, of)


async def _refuse_reopening(uow: UnitOfWork, of: Order, found: OrderReturn) -> None:
    if found.state is RequestState.REQUESTED:
        return
    if found.state is not RequestState.CANCELLED:
        raise IllegalTransition("return", found.state.value, RequestState.REQUESTED.value)
    lines = await lines_of(uow, found.id)
    wanted = reallocation.counted((line.sku, line.quantity) for line in lines)
    again = [LineRequest(sku=sku, quantity=units) for sku, units in wanted.items()]
    now = await _plan(uow, of, again, found.method_id)
    aftersales_request.refuse_other_lines(lines, now)


class ReceivePreview(BaseModel):
    """What taking a return in would do."""

    number: int
    restocked: dict[str, int]
    refund_amount: int
    why_no_refund: str = ""
    currency: str


async def preview_receive(
    uow: UnitOfWork, return_id: UUID, restock: list[LineRequest] | None = None
) -> ReceivePreview:
    """Say what `receive` would do, without doing it.

    Raises: As `receive`.
    """
    of, found = await aftersales_request.access(uow, OrderReturn, return_id)
    if found.state is not RequestState.REQUESTED:
        raise IllegalTransition("return", found.state.value, RequestState.RECEIVED.value)
    lines = await lines_of(uow, found.id)
    refund_amount = await return_refund.brings(uow, of, lines)
    assert of.number is not None
    return ReceivePreview(
        number=of.number,
        restocked=aftersales_request.restocked(lines, restock),
        refund_amount=refund_amount,
        why_no_refund="" if refund_amount else await return_refund.why_nothing(uow, of),
        currency=found.currency,
    )


@operation(
    scope="order:manage",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_receive,
    domain="return",
    examples=(
        "the return {return_id} has arrived",
        "take in the return {return_id}",
        "receive return {return_id} and refund it",
        "the goods of return {return_id} are back",
    ),
)
async def receive(
    deps: Deps, return_id: UUID, restock: list[LineRequest] | None = None
) -> ReturnView:
    """Take in the parcel of a return: sound units go back on sale, the money goes back.

    Safe to repeat: a refund that did not go through is tried again. Where a bank has taken the
    money back by a dispute, or earlier refunds have given it back, the goods are taken in and
    nothing is refunded; what the bank returns later is.

    Args:
        return_id: Id of the return.
        restock: Units by SKU that can be sold again; left out: all. What is left is scrapped.

    Raises:
        NotFound: No such return.
        IllegalTransition: It was cancelled.
        InvalidInput: More would be restocked than was sent back.
        Unavailable: The provider did not answer; the refund finishes by itself.
    """
    async with deps.begin() as uow:
        of, found = await aftersales_request.access(uow, OrderReturn, return_id)
        if found.state is RequestState.CANCELLED:
            raise IllegalTransition("return", found.state.value, RequestState.RECEIVED.value)
        if found.state is RequestState.REQUESTED:
            await _take_in(uow, of, found, restock)
        await return_refund.settle(uow, of, found)
        refund_id = found.refund_id
    if refund_id is not None:
        await refund_process.drive(deps, refund_id)
    async with deps.begin() as uow:
        of, found = await aftersales_request.access(uow, OrderReturn, return_id)
        await return_refund.complete(uow, found)
        return await _view(uow, found, of)


async def _take_in(
    uow: UnitOfWork, of: Order, found: OrderReturn, restock: list[LineRequest] | None
) -> None:
    lines = await lines_of(uow, found.id)
    restocked = aftersales_request.restocked(lines, restock)
    left = dict(restocked)
    for line in lines:
        line.restocked_quantity = min(line.quantity, left.get(line.sku, 0))
        left[line.sku] = left.get(line.sku, 0) - line.restocked_quantity
    for sku, units in restocked.items():
        await reallocation.restock(uow, order_id=OrderId(of.id), sku=sku, units=units)
    aftersales_request.move(uow, found, RequestState.RECEIVED)
    uow.publish(ReturnReceived(order_id=OrderId(of.id), return_id=found.id, restocked=restocked))
    await return_refund.give_back(uow, of, found, lines)


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    domain="return",
    examples=(
        "what became of my return of order {number}",
        "show the returns of order {number}",
        "has the return of order {number} arrived",
        "list returns for order {number}",
    ),
)
async def list_for_order(uow: UnitOfWork, number: int) -> list[ReturnView]:
    """List the returns of an order, oldest first.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order, or it is someone else's.
    """
    of = await order.access(uow, number)
    query = select(OrderReturn).where(OrderReturn.order_id == of.id).order_by(col(OrderReturn.id))
    return [await _view(uow, found, of) for found in await uow.session.exec(query)]


async def _view(uow: UnitOfWork, found: OrderReturn, of: Order) -> ReturnView:
    assert of.number is not None
    has_arrived = found.state in (RequestState.RECEIVED, RequestState.COMPLETED)
    is_unpaid = has_arrived and found.refund_id is None
    return ReturnView(
        id=found.id,
        number=of.number,
        state=found.state,
        lines=[ReturnLineView.model_validate(line) for line in await lines_of(uow, found.id)],
        amount=found.amount,
        currency=found.currency,
        payment_method=found.method_id,
        reason=found.reason,
        refund_id=found.refund_id,
        why_no_refund=await return_refund.why_nothing(uow, of) if is_unpaid else "",
        created_at=found.created_at,
        finished_at=found.finished_at,
    )
