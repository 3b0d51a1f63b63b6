"""Change a placed order that has not left: its items, its address, how it is paid.

    request   one transaction: rules, hold on the new units, the edit, the tender   undo: fail
    collect   the price difference, in `tools.sale`                                 undo: refund
    apply     one transaction: stock, lines, totals, ledger, event; or fail

What costs nothing more is applied in the first transaction. The rest is `tools.order_change`, which
reads what is next from the rows.
"""

from uuid import UUID

from pydantic import BaseModel, Field
from sqlmodel import col, select

from db.models.aftersales import EditKind, EditState, OrderEdit, OrderEditLine
from db.models.order import Order
from db.models.payment import StoredMethod
from db.types import OrderId, new_id
from deps.core import Deps, UnitOfWork
from tools import (
    aftersales,
    aftersales_request,
    line_change,
    order,
    order_change,
    order_line,
    payment,
    reallocation,
    tender,
)
from tools.address import Address
from tools.errors import Conflict, InvalidInput
from tools.events import OrderAddressChanged
from tools.line_change import Change, LineChange
from tools.order import OrderView
from tools.order_change import EditedOrder, EditLineView, OrderEditView
from tools.registry import Risk, operation


class ItemsPreview(BaseModel):
    """What changing the items would do. Amounts are minor units of `currency`."""

    number: int
    edit_id: UUID
    lines: list[EditLineView]
    currency: str
    total_amount: int = Field(description="Of the order, now.")
    new_total_amount: int
    charge_amount: int
    refund_amount: int


class PaymentPreview(BaseModel):
    """What paying otherwise would do: the whole amount is charged anew and given back as it was."""

    number: int
    edit_id: UUID
    currency: str
    charge_amount: int
    refund_amount: int


class AddressPreview(BaseModel):
    number: int
    address: Address
    new_address: Address


async def preview_modify_items(
    uow: UnitOfWork,
    number: int,
    changes: list[LineChange],
    payment_method: UUID | None = None,
    edit_id: UUID | None = None,
) -> ItemsPreview:
    """Say what `modify_items` would do, without doing it.

    Raises: As `modify_items`.
    """
    of = await order.access(uow, number)
    planned, difference, _ = await _plan_items(uow, of, changes, payment_method)
    return ItemsPreview(
        number=number,
        edit_id=edit_id or new_id(),
        lines=[EditLineView(**order_line.version(change)) for change in planned],
        currency=of.currency,
        total_amount=of.total_amount,
        new_total_amount=of.total_amount + difference,
        charge_amount=max(difference, 0),
        refund_amount=max(-difference, 0),
    )


@operation(
    scope="order:edit",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_modify_items,
    examples=(
        "change {sku} to {new_sku} in order {number}",
        "swap {sku} for {new_sku} in my order {number}",
        "i want another size of {sku} in order {number}",
        "modify the items of order {number}",
        "replace {sku} with {new_sku} in order {number}",
    ),
)
async def modify_items(
    deps: Deps,
    number: int,
    changes: list[LineChange],
    payment_method: UUID | None = None,
    edit_id: UUID | None = None,
) -> EditedOrder:
    """Change items of a placed order that has not shipped into other variants of their products.

    The price difference is charged to, or given back by, a stored payment method. All or nothing:
    without stock or money the order stays as it is.

    Args:
        number: The order's number.
        changes: Units by SKU and the SKU they become; name all of them in one call.
        payment_method: Id of a stored method; may be left out when nothing is charged.
        edit_id: Leave out: the key of this change, bound when it is proposed.

    Raises:
        NotFound: No such order, method or variant, or it is someone else's.
        IllegalTransition: The order has shipped, or was never placed.
        AftersalesLimit: The shop's policy allows no further change.
        InvalidInput: The order has not these units, or another product is asked for.
        OutOfStock: The new variant cannot be had. Nothing changed.
        InsufficientCredit, PaymentDeclined: The difference was not paid. Nothing changed.
        Unavailable: The provider did not answer; the change finishes by itself.
    """
    key = aftersales_request.key_of(edit_id)
    asked = {"changes": [c.model_dump() for c in changes], "payment_method": payment_method}
    async with deps.begin() as uow:
        of = await order.access(uow, number, lock=True)
        existing = await _existing(uow, of, key, aftersales_request.digest(number, asked))
        if existing is None:
            planned, difference, method = await _plan_items(uow, of, changes, payment_method)
            edit = _edit(uow, of, EditKind.ITEMS, key, method, difference)
            await _request_items(uow, of, planned, edit, method)
            edit.request_sha256 = aftersales_request.digest(number, asked)
    return await order_change.resume(deps, key)


async def _existing(
    uow: UnitOfWork, of: Order, edit_id: UUID, request_sha256: str
) -> OrderEdit | None:
    """Return the edit that this id already stands for.

    Raises:
        IdempotencyMismatch: It stands for another change.
        Conflict: Another edit is being paid for.
    """
    existing = await uow.session.get(OrderEdit, edit_id, populate_existing=True)
    if existing is not None:
        aftersales_request.refuse_other(existing.request_sha256, request_sha256)
        return existing
    pending = select(OrderEdit.id).where(
        OrderEdit.order_id == of.id, OrderEdit.state == EditState.PENDING
    )
    if (await uow.session.exec(pending)).first() is not None:
        raise Conflict("Another change of this order is being paid for.", current="pending")
    return None


async def _plan_items(
    uow: UnitOfWork, of: Order, changes: list[LineChange], payment_method: UUID | None
) -> tuple[list[Change], int, StoredMethod | None]:
    """Return what changes, what the order then comes to more, or less, and what settles that."""
    aftersales.refuse_uneditable(of)
    await aftersales.refuse_over_limit(uow, of, EditKind.ITEMS)
    lines = await line_change.lines_of(uow, OrderId(of.id))
    planned = await line_change.plan_changes(uow, lines, changes, taken={}, may_stay=False)
    await line_change.refuse_scarce(uow, planned)
    difference = order_line.difference(of, planned)
    method = await tender.settling_method(uow, of, payment_method, difference)
    return planned, difference, method


async def _request_items(
    uow: UnitOfWork, of: Order, planned: list[Change], edit: OrderEdit, method: StoredMethod | None
) -> None:
    await reallocation.hold(
        uow,
        order_id=OrderId(of.id),
        change_id=edit.id,
        added=reallocation.counted((c.new.sku, c.quantity) for c in planned),
        removed=[c.line.sku for c in planned],
    )
    uow.session.add(edit)
    await uow.session.flush()
    for position, change in enumerate(planned):
        uow.session.add(
            OrderEditLine(
                edit_id=edit.id,
                position=position,
                line_id=change.line.id,
                **order_line.version(change),
            )
        )
    await uow.session.flush()
    if edit.difference_amount > 0:
        assert method is not None
        edit.payment_id = await _add_tender(uow, of, method, edit.difference_amount)
    else:
        await order_change.apply_items(uow, of, edit)


def _edit(
    uow: UnitOfWork,
    of: Order,
    kind: EditKind,
    edit_id: UUID,
    method: StoredMethod | None,
    difference: int,
) -> OrderEdit:
    return OrderEdit(
        id=edit_id,
        order_id=of.id,
        kind=kind,
        request_sha256="",
        method_id=method.id if method else None,
        difference_amount=difference,
        currency=of.currency,
        requested_by=uow.actor.user_id,
        created_at=uow.now,
    )


async def _add_tender(uow: UnitOfWork, of: Order, method: StoredMethod, amount: int) -> UUID:
    added = await payment.add_tender(uow, of, method.provider, tender.token_of(method), amount)
    return added.id


async def preview_modify_payment(
    uow: UnitOfWork, number: int, payment_method: UUID, edit_id: UUID | None = None
) -> PaymentPreview:
    """Say what `modify_payment` would do, without doing it.

    Raises: As `modify_payment`.
    """
    of = await order.access(uow, number)
    await _plan_payment(uow, of, payment_method)
    return PaymentPreview(
        number=number,
        edit_id=edit_id or new_id(),
        currency=of.currency,
        charge_amount=of.total_amount,
        refund_amount=of.total_amount,
    )


@operation(
    scope="order:edit",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_modify_payment,
    examples=(
        "pay order {number} with another card",
        "change the payment method of order {number}",
        "use my gift card for order {number} instead",
        "put order {number} on my other card",
    ),
)
async def modify_payment(
    deps: Deps, number: int, payment_method: UUID, edit_id: UUID | None = None
) -> EditedOrder:
    """Pay a placed order that has not shipped with another stored method.

    The new method is charged first; only then is the old one given back.

    Args:
        number: The order's number.
        payment_method: Id of a stored method that has not paid for the order; a gift card must
            cover the whole of it.
        edit_id: Leave out: the key of this change, bound when it is proposed.

    Raises:
        NotFound: No such order or method, or it is someone else's.
        IllegalTransition: The order has shipped, or was never placed.
        AftersalesLimit: The shop's policy allows no further change.
        InvalidInput: The method is the one that paid.
        InsufficientCredit, PaymentDeclined: The new method was not charged. Nothing changed.
        Unavailable: The provider did not answer; the change finishes by itself.
    """
    key = aftersales_request.key_of(edit_id)
    asked = aftersales_request.digest(number, {"payment_method": payment_method})
    async with deps.begin() as uow:
        of = await order.access(uow, number, lock=True)
        if await _existing(uow, of, key, asked) is None:
            method = await _plan_payment(uow, of, payment_method)
            edit = _edit(uow, of, EditKind.PAYMENT, key, method, 0)
            edit.request_sha256 = asked
            tenders = await tender.holding_tenders(uow, OrderId(of.id))
            edit.before = {"payments": [str(paid.id) for paid in tenders]}
            uow.session.add(edit)
            await uow.session.flush()
            edit.payment_id = await _add_tender(uow, of, method, of.total_amount)
    return await order_change.resume(deps, key)


async def _plan_payment(uow: UnitOfWork, of: Order, method_id: UUID) -> StoredMethod:
    aftersales.refuse_uneditable(of)
    await aftersales.refuse_over_limit(uow, of, EditKind.PAYMENT)
    method = await tender.method_of(uow, of, method_id)
    tenders = await tender.holding_tenders(uow, OrderId(of.id))
    if sum(t.captured_amount - t.refunded_amount for t in tenders) != of.total_amount:
        raise Conflict("The order is not paid in full yet.", current=of.payment_status.value)
    if len(tenders) == 1 and tender.paid_with(tenders[0], method):
        raise InvalidInput("The order is paid with this method already.", field="payment_method")
    await tender.refuse_uncovered(uow, method, of.total_amount)
    return method


async def preview_modify_address(uow: UnitOfWork, number: int, address: Address) -> AddressPreview:
    """Say what `modify_address` would do, without doing it.

    Raises: As `modify_address`.
    """
    of = await order.access(uow, number)
    aftersales.refuse_uneditable(of)
    _refuse_other_tax(uow, of, address)
    return AddressPreview(
        number=number, address=Address.model_validate(of.shipping_address), new_address=address
    )


@operation(
    scope="order:edit",
    # A parcel on its way to a stranger cannot be called back.
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_modify_address,
    examples=(
        "send order {number} to another address",
        "change the shipping address of order {number}",
        "deliver order {number} to {address}",
        "the address of order {number} is wrong",
    ),
)
async def modify_address(uow: UnitOfWork, number: int, address: Address) -> OrderView:
    """Send a placed order that has not shipped to another address. Repeating it changes nothing.

    Args:
        number: The order's number.
        address: The new address, in full.

    Raises:
        NotFound: No such order, or it is someone else's.
        IllegalTransition: The order has shipped, or was never placed.
        Conflict: Deliveries to this country are taxed otherwise.
    """
    of = await order.access(uow, number, lock=True)
    aftersales.refuse_uneditable(of)
    _refuse_other_tax(uow, of, address)
    wanted = address.model_dump()
    if wanted == of.shipping_address:
        return await order.view(uow, of)
    edit = _edit(uow, of, EditKind.ADDRESS, new_id(), None, 0)
    edit.before, edit.after = {"address": of.shipping_address}, {"address": wanted}
    uow.session.add(edit)
    of.shipping_address = wanted
    of.version += 1
    order_change.finish(uow, edit, EditState.APPLIED)
    uow.publish(OrderAddressChanged(order_id=OrderId(of.id), edit_id=edit.id))
    await uow.session.flush()
    return await order.view(uow, of)


def _refuse_other_tax(uow: UnitOfWork, of: Order, address: Address) -> None:
    """What was charged contains the tax of the country it was sold to."""
    before, after = of.shipping_address["country_code"], address.country_code
    if before != after and uow.settings.tax_rate(after) != of.tax_rate:
        raise Conflict(
            f"Deliveries to {after} are taxed otherwise; cancel the order and buy again.",
            field="address.country_code",
            current=before,
        )


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what was changed in order {number}",
        "show the changes of order {number}",
        "list the edits of order {number}",
        "was order {number} changed",
    ),
)
async def list_for_order(uow: UnitOfWork, number: int) -> list[OrderEditView]:
    """List what was changed in an order after it was placed, oldest first.

    Args:
        number: The order's number.

    Raises:
        NotFound: No such order, or it is someone else's.
    """
    of = await order.access(uow, number)
    query = select(OrderEdit).where(OrderEdit.order_id == of.id).order_by(col(OrderEdit.id))
    return [await order_change.view(uow, edit) for edit in await uow.session.exec(query)]
