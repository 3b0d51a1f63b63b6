"""A change of an order under way: carried to its end from its rows, whoever began it.

What is to be paid is collected first; then stock, lines, totals and ledger change in one
transaction, or the edit fails and the order is as it was. The sweeper calls the same function.
"""

from contextlib import suppress
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlmodel import col, select

from db.models.aftersales import EDIT_TRANSITIONS, EditKind, EditState, OrderEdit, OrderEditLine
from db.models.order import Order
from db.models.payment import Payment
from db.models.refund import RefundKind
from db.types import OrderId, PaymentId
from deps.core import Deps, UnitOfWork
from tools import (
    inventory,
    order,
    order_line,
    reallocation,
    refund,
    refund_process,
    sale,
    sweep,
    tender,
)
from tools.errors import OutOfStock, PaymentDeclined
from tools.events import OrderEdited, OrderEditFailed, OrderPaymentChanged
from tools.order import OrderView

STEPS_MAX = 4


class EditLineView(BaseModel):
    """Units of a line, before and after. Amounts are minor units."""

    model_config = ConfigDict(from_attributes=True)

    sku: str
    unit_price_amount: int
    new_sku: str
    new_unit_price_amount: int
    quantity: int


class OrderEditView(BaseModel):
    """One change of an order. `difference_amount` was charged, or given back when negative."""

    id: UUID
    kind: EditKind
    state: EditState
    difference_amount: int
    currency: str
    payment_method: UUID | None
    lines: list[EditLineView] = []
    created_at: datetime
    finished_at: datetime | None


class EditedOrder(OrderView):
    """The order as it is now, and the change that was asked for."""

    edit: OrderEditView


async def apply_items(uow: UnitOfWork, of: Order, edit: OrderEdit) -> None:
    """Swap stock and lines, and move the totals; give back what the order costs less.

    Raises:
        OutOfStock: The hold expired while the money was awaited, and the units are gone.
    """
    rows = await lines(uow, edit.id)
    await reallocation.swap(
        uow,
        order_id=OrderId(of.id),
        change_id=edit.id,
        removed=reallocation.counted((row.sku, row.quantity) for row in rows),
        added=reallocation.counted((row.new_sku, row.quantity) for row in rows),
    )
    edit.before = {"total_amount": of.total_amount, "version": of.version}
    edit.difference_amount = await order_line.replace(
        uow, of, rows, change_id=edit.id, difference_amount=edit.difference_amount
    )
    edit.after = {"total_amount": of.total_amount, "version": of.version}
    if edit.difference_amount < 0:
        edit.refund_id = await tender.give_back(
            uow,
            of,
            edit.method_id,
            amount=-edit.difference_amount,
            reason=f"the items of order {of.number} were changed",
        )
    finish(uow, edit, EditState.APPLIED)
    assert of.number is not None
    uow.publish(
        OrderEdited(
            order_id=OrderId(of.id),
            edit_id=edit.id,
            number=of.number,
            difference_amount=edit.difference_amount,
            total_amount=of.total_amount,
            currency=of.currency,
        )
    )
    await uow.session.flush()


async def _apply_payment(uow: UnitOfWork, of: Order, edit: OrderEdit) -> None:
    before = [PaymentId(UUID(payment_id)) for payment_id in edit.before["payments"]]
    made = await refund.request(
        uow,
        of,
        amount=of.total_amount,
        first=before,
        reason=f"order {of.number} is paid otherwise",
        kind=RefundKind.ADJUSTMENT,
    )
    edit.refund_id = made.id
    finish(uow, edit, EditState.APPLIED)
    uow.publish(
        OrderPaymentChanged(
            order_id=OrderId(of.id),
            edit_id=edit.id,
            amount=of.total_amount,
            currency=of.currency,
        )
    )
    await uow.session.flush()


async def resume(deps: Deps, edit_id: UUID) -> EditedOrder:
    """Carry an edit to its end, whoever began it.

    Raises:
        PaymentDeclined, OutOfStock: How it ended; the order is as it was.
        Unavailable: The provider did not answer; the sweeper goes on later.
    """
    for _ in range(STEPS_MAX):
        async with deps.begin() as uow:
            edit = await uow.session.get_one(OrderEdit, edit_id, populate_existing=True)
            charge = await _charge_of(uow, edit)
        if edit.state is not EditState.PENDING:
            break
        assert charge is not None
        if charge.captured_amount == charge.amount:
            await _settle(deps, edit_id)
        elif charge.decline_code is not None:
            async with deps.begin() as uow:
                await _fail(uow, edit_id, charge.decline_code)
        else:
            with suppress(PaymentDeclined):  # The charge says so; the next round undoes the edit.
                await sale.collect(deps, PaymentId(charge.id))
    if edit.refund_id is not None:
        await refund_process.drive(deps, edit.refund_id)
    if edit.state is EditState.FAILED:
        if edit.failure == "out_of_stock":
            raise OutOfStock("an item", 1)
        raise PaymentDeclined(
            "The payment was declined; the order is unchanged.", decline_code=edit.failure
        )
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, edit.order_id, populate_existing=True)
        shown = await order.view(uow, of)
        return EditedOrder(**shown.model_dump(), edit=await view(uow, edit))


async def _settle(deps: Deps, edit_id: UUID) -> None:
    """Apply an edit that is paid for; give the money back when its units are gone."""
    try:
        async with deps.begin() as uow:
            of, edit = await _locked(uow, edit_id)
            if edit.state is EditState.PENDING:
                apply = apply_items if edit.kind is EditKind.ITEMS else _apply_payment
                await apply(uow, of, edit)
    except OutOfStock:
        async with deps.begin() as uow:
            await _fail(uow, edit_id, "out_of_stock")


async def _fail(uow: UnitOfWork, edit_id: UUID, code: str) -> None:
    of, edit = await _locked(uow, edit_id)
    if edit.state is not EditState.PENDING:
        return
    if edit.kind is EditKind.ITEMS:
        await inventory.release(uow, order_id=OrderId(edit.id), reason="the change was not paid")
    charge = await _charge_of(uow, edit)
    if charge is not None and charge.captured_amount > charge.refunded_amount:
        made = await refund.request(
            uow,
            of,
            amount=charge.captured_amount,
            first=[PaymentId(charge.id)],
            reason=f"the change of order {of.number} failed",
            kind=RefundKind.ADJUSTMENT,
        )
        edit.refund_id = made.id
    edit.failure = code
    finish(uow, edit, EditState.FAILED)
    uow.publish(OrderEditFailed(order_id=OrderId(of.id), edit_id=edit.id, code=code))
    await uow.session.flush()


async def resume_stuck(deps: Deps) -> int:
    """Carry on every edit that was left between two steps; return how many were looked at."""
    async with deps.begin() as uow:
        stuck = await uow.session.exec(
            select(OrderEdit.id)
            .where(OrderEdit.state == EditState.PENDING)
            .where(col(OrderEdit.created_at) <= uow.now - sweep.RESUME_AFTER)
            .order_by(col(OrderEdit.created_at))
            .limit(sweep.RESUME_BATCH)
        )
        ids = list(stuck)
    return await sweep.resume(deps, ids, resume)


async def _locked(uow: UnitOfWork, edit_id: UUID) -> tuple[Order, OrderEdit]:
    """Lock in the one order everybody uses: the order, then what belongs to it."""
    edit = await uow.session.get_one(OrderEdit, edit_id)
    of = await order.locked(uow, OrderId(edit.order_id))
    await uow.session.refresh(edit, with_for_update=True)
    return of, edit


async def _charge_of(uow: UnitOfWork, edit: OrderEdit) -> Payment | None:
    if edit.payment_id is None:
        return None
    return await uow.session.get_one(Payment, edit.payment_id, populate_existing=True)


def finish(uow: UnitOfWork, edit: OrderEdit, state: EditState) -> None:
    assert state in EDIT_TRANSITIONS[edit.state], f"{edit.state} to {state}"
    edit.state, edit.finished_at = state, uow.now


async def lines(uow: UnitOfWork, edit_id: UUID) -> list[OrderEditLine]:
    query = select(OrderEditLine).where(OrderEditLine.edit_id == edit_id)
    return list(await uow.session.exec(query.order_by(col(OrderEditLine.position))))


async def view(uow: UnitOfWork, edit: OrderEdit) -> OrderEditView:
    rows = await lines(uow, edit.id)
    return OrderEditView(
        id=edit.id,
        kind=edit.kind,
        state=edit.state,
        difference_amount=edit.difference_amount,
        currency=edit.currency,
        payment_method=edit.method_id,
        lines=[EditLineView.model_validate(row) for row in rows],
        created_at=edit.created_at,
        finished_at=edit.finished_at,
    )
