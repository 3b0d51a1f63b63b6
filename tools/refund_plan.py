"""What may be given back of an order now, and from which tenders: read from its rows under lock."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import func, or_
from sqlmodel import col, select

from db.models.order import Order, OrderLine
from db.models.payment import Account, LedgerEntry, Payment
from db.models.refund import Refund, RefundKind, RefundPart, RefundState
from db.types import PaymentId
from deps.core import UnitOfWork
from tools import refund_share
from tools.errors import NotRefundable
from tools.refund_share import Breakdown, Limits, Sold, SoldLine

DISPUTED = "The buyer's bank has taken that money back."
LIVE = (RefundState.AWAITING_APPROVAL, RefundState.PENDING, RefundState.SUCCEEDED)


def refundable(tender: Payment, *, is_given: bool = False) -> int:
    """Return what refunds may still take. What a bank took back by a dispute is not given twice;
    a refund that the provider tells of `is_given` all the same."""
    kept = tender.captured_amount - tender.refunded_amount - tender.refunding_amount
    return kept if is_given else max(0, kept - tender.disputed_amount)


def is_overdrawn(tender: Payment) -> bool:
    """Say whether refunds under way and disputes together take more than was captured."""
    return refundable(tender, is_given=True) < tender.disputed_amount


def over(
    tenders: Sequence[Payment],
    amount: int,
    first: Sequence[PaymentId] = (),
    *,
    is_given: bool = False,
) -> list[tuple[Payment, int]]:
    """Divide `amount` over the tenders: those named first, then last charged first."""
    parts = []
    ranks = {payment_id: rank for rank, payment_id in enumerate(first)}
    for tender in sorted(reversed(tenders), key=lambda t: ranks.get(PaymentId(t.id), len(ranks))):
        part = min(amount, refundable(tender, is_given=is_given))
        if part > 0:
            parts.append((tender, part))
            amount -= part
    assert amount == 0
    return parts


async def share(
    uow: UnitOfWork,
    of: Order,
    tenders: Sequence[Payment],
    *,
    amount: int | None,
    lines: Mapping[str, int] | None,
    shipping_amount: int = 0,
    kind: RefundKind = RefundKind.REFUND,
    is_given: bool = False,
) -> Breakdown:
    """Say what a refund would consist of.

    Raises:
        NotRefundable: More than is left of the captured money, units or shipping.
    """
    ceiling = sum(refundable(tender, is_given=is_given) for tender in tenders)
    if ceiling == 0:
        if any(tender.disputed_amount for tender in tenders):
            raise NotRefundable(DISPUTED, refundable_amount=0)
        raise NotRefundable("Nothing of this order is left to refund.", refundable_amount=0)
    if amount is not None and not 0 < amount <= ceiling:
        raise NotRefundable(
            "That is more than is left of what was paid.",
            field="amount",
            refundable_amount=ceiling,
        )
    if kind is RefundKind.ADJUSTMENT:
        assert amount is not None, "an adjustment is of an amount"
        return Breakdown(adjustment_amount=amount)
    within = await limits(uow, of)
    left = refund_share.remaining(await _sold(uow, of), await _earlier(uow, of))
    if amount is not None:
        return refund_share.of_amount(within, amount)
    units = _units(left)
    if lines is not None:
        _check_left(left, units, lines, shipping_amount)
        wanted = refund_share.of_lines(left, lines, shipping_amount)
        fitted = refund_share.fitted(wanted, within, ceiling)
        if fitted.total_amount == 0:
            raise NotRefundable(
                "Earlier refunds gave that back already.", refundable_amount=ceiling
            )
        return fitted
    everything = refund_share.of_lines(left, units, left.shipping_amount)
    whole_rest = refund_share.of_amount(within, ceiling)
    return whole_rest.model_copy(update={"lines": everything.lines})


async def units_left(uow: UnitOfWork, of: Order) -> dict[str, int]:
    """Return the units by SKU that refunds have not given back, nor will."""
    return _units(refund_share.remaining(await _sold(uow, of), await _earlier(uow, of)))


def _units(left: Sold) -> dict[str, int]:
    units: dict[str, int] = {}
    for line in left.lines:
        units[line.sku] = units.get(line.sku, 0) + line.quantity
    return units


def _check_left(
    left: Sold, units: Mapping[str, int], lines: Mapping[str, int], shipping_amount: int
) -> None:
    for sku, quantity in lines.items():
        if not 1 <= quantity <= units.get(sku, 0):
            raise NotRefundable(
                f"{units.get(sku, 0)} units of {sku} are left to refund.",
                field=f"lines.{sku}",
                refundable_quantity=units.get(sku, 0),
            )
    if not 0 <= shipping_amount <= left.shipping_amount:
        raise NotRefundable(
            "That is more than is left of the shipping.",
            field="shipping_amount",
            refundable_amount=left.shipping_amount,
        )


async def _sold(uow: UnitOfWork, of: Order) -> Sold:
    rows = await uow.session.exec(
        select(OrderLine).where(OrderLine.order_id == of.id).order_by(col(OrderLine.id))
    )
    return refund_share.sold(
        [
            SoldLine(line.id, line.sku, line.title, line.quantity, line.total_amount)
            for line in rows
        ],
        discount_amount=of.discount_amount,
        shipping_amount=of.shipping_amount,
        tax_amount=of.tax_amount,
    )


async def limits(uow: UnitOfWork, of: Order) -> Limits:
    """Read from the ledger what an order has brought in goods, shipping and tax, and what is owed
    since an edit, less what refunds under way will take. Captures given up are thereby in it."""
    rows = await uow.session.exec(
        select(LedgerEntry.account, func.sum(LedgerEntry.amount))
        .where(LedgerEntry.order_id == of.id)
        .group_by(col(LedgerEntry.account))
    )
    booked = {account: int(amount) for account, amount in rows}
    goods = -booked.get(Account.REVENUE, 0) - booked.get(Account.REFUNDS, 0)
    shipping, tax = -booked.get(Account.SHIPPING_REVENUE, 0), -booked.get(Account.TAX_PAYABLE, 0)
    owed = -booked.get(Account.RECEIVABLE, 0)
    live = await uow.session.exec(
        select(Refund).where(
            Refund.order_id == of.id,
            col(Refund.state).in_((RefundState.AWAITING_APPROVAL, RefundState.PENDING)),
        )
    )
    for row in live:
        parts = await parts_of(uow, row.id)
        breakdown = Breakdown.model_validate(row.breakdown)
        shares = refund_share.over_tenders(breakdown, [part.amount for part in parts])
        for part, share_of in zip(parts, shares, strict=True):
            if part.state is RefundState.PENDING:
                goods, shipping, tax, owed = (
                    goods - share_of[0],
                    shipping - share_of[1],
                    tax - share_of[2],
                    owed - share_of[3],
                )
    return Limits(max(0, goods), max(0, shipping), max(0, tax), max(0, owed))


async def _earlier(uow: UnitOfWork, of: Order) -> list[Breakdown]:
    """Which lines and shipping other refunds gave back or will. One that failed counts when any of
    it was paid: a retry completes it."""
    paid = select(RefundPart.refund_id).where(RefundPart.state == RefundState.SUCCEEDED)
    rows = await uow.session.exec(
        select(Refund).where(
            Refund.order_id == of.id,
            or_(col(Refund.state).in_(LIVE), col(Refund.id).in_(paid)),
        )
    )
    return [Breakdown.model_validate(row.breakdown) for row in rows]


async def parts_of(uow: UnitOfWork, refund_id: UUID) -> list[RefundPart]:
    query = (
        select(RefundPart)
        .where(RefundPart.refund_id == refund_id)
        .order_by(col(RefundPart.position))
        .execution_options(populate_existing=True)
    )
    return list(await uow.session.exec(query))
