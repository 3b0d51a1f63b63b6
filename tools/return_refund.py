"""What goes back for a return whose parcel is in: the money of its lines, as far as it is here."""

from collections.abc import Sequence
from uuid import UUID

from sqlmodel import col, select

from db.models.aftersales import OrderReturn, OrderReturnLine, RequestState
from db.models.dispute import Dispute, DisputeState
from db.models.order import Order
from db.models.refund import Refund, RefundState
from db.types import OrderId
from deps.core import UnitOfWork
from tools import aftersales_request, payment, reallocation, refund_plan, tender
from tools.errors import NotRefundable

NOTHING_LEFT = "Nothing of what was paid is left to refund."


async def lines_of(uow: UnitOfWork, return_id: UUID) -> list[OrderReturnLine]:
    query = select(OrderReturnLine).where(OrderReturnLine.return_id == return_id)
    return list(await uow.session.exec(query.order_by(col(OrderReturnLine.position))))


async def _due(uow: UnitOfWork, of: Order, lines: Sequence[OrderReturnLine]) -> dict[str, int]:
    """Return the units by SKU of which refunds have not given back the money yet."""
    left = await refund_plan.units_left(uow, of)
    sent = reallocation.counted((line.sku, line.quantity) for line in lines)
    return {sku: min(units, left[sku]) for sku, units in sent.items() if left.get(sku)}


async def brings(uow: UnitOfWork, of: Order, lines: Sequence[OrderReturnLine]) -> int:
    """Say what goes back for lines as things stand: their price with their tax, less their part of
    a discount and of what earlier refunds gave back."""
    due = await _due(uow, of, lines)
    if not due:
        return 0
    tenders = await payment.read_tenders(uow, OrderId(of.id))
    try:
        brought = await refund_plan.share(uow, of, tenders, amount=None, lines=due)
    except NotRefundable:
        return 0
    return brought.total_amount


async def give_back(
    uow: UnitOfWork, of: Order, found: OrderReturn, lines: Sequence[OrderReturnLine]
) -> None:
    """Write the refund of a received return. The goods are in the warehouse whether or not there is
    money to give back: where there is none, the return ends, or waits for the bank to decide."""
    due = await _due(uow, of, lines)
    try:
        if due:
            found.refund_id = await tender.give_back(
                uow,
                of,
                found.method_id,
                lines=due,
                reason=f"units of order {of.number} were returned",
            )
    except NotRefundable:
        assert found.refund_id is None
    if found.refund_id is not None:
        found.amount = (await uow.session.get_one(Refund, found.refund_id)).amount
    elif not await _is_contested(uow, of):
        found.amount = 0
        aftersales_request.move(uow, found, RequestState.COMPLETED)
    await uow.session.flush()


async def _is_contested(uow: UnitOfWork, of: Order) -> bool:
    """Whether a bank holds money of the order that it may return."""
    query = select(Dispute.id).where(
        Dispute.order_id == of.id,
        Dispute.state != DisputeState.LOST,
        col(Dispute.withdrawn_amount) > 0,
    )
    return (await uow.session.exec(query.limit(1))).first() is not None


async def why_nothing(uow: UnitOfWork, of: Order) -> str:
    """Say why a return that has been received was not refunded."""
    tenders = await payment.read_tenders(uow, OrderId(of.id))
    is_disputed = any(paid.disputed_amount for paid in tenders)
    return refund_plan.DISPUTED if is_disputed else NOTHING_LEFT


async def complete(uow: UnitOfWork, found: OrderReturn) -> None:
    """Close a return whose refund has succeeded."""
    if found.state is not RequestState.RECEIVED or found.refund_id is None:
        return
    made = await uow.session.get_one(Refund, found.refund_id, populate_existing=True)
    if made.state is RefundState.SUCCEEDED:
        aftersales_request.move(uow, found, RequestState.COMPLETED)
        await uow.session.flush()


async def complete_refunded(uow: UnitOfWork, refund_id: UUID) -> None:
    """Close the return a refund belongs to, whoever drove that refund to its end."""
    query = select(OrderReturn).where(OrderReturn.refund_id == refund_id).with_for_update()
    found = (await uow.session.exec(query)).first()
    if found is not None:
        await complete(uow, found)


async def settle_contested(uow: UnitOfWork, order_id: OrderId) -> None:
    """Give back what a bank returned, and close what it kept, for the returns that waited for it.
    Repeating it changes nothing."""
    query = select(OrderReturn.id).where(
        OrderReturn.order_id == order_id,
        OrderReturn.state == RequestState.RECEIVED,
        col(OrderReturn.refund_id).is_(None),
    )
    for return_id in list(await uow.session.exec(query.order_by(col(OrderReturn.id)))):
        of, found = await aftersales_request.access(uow, OrderReturn, return_id)
        await settle(uow, of, found)


async def settle(uow: UnitOfWork, of: Order, found: OrderReturn) -> None:
    """Try again to give back what a return waits for."""
    if found.state is RequestState.RECEIVED and found.refund_id is None:
        await give_back(uow, of, found, await lines_of(uow, found.id))
