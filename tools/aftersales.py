"""What the merchant allows after the sale, and what its operations share: lines and methods."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid5

import orjson
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from db.models.aftersales import (
    AftersalesPolicy,
    EditKind,
    EditState,
    OrderEdit,
    OrderExchange,
    OrderExchangeLine,
    OrderReturn,
    OrderReturnLine,
    RequestState,
)
from db.models.credit import CreditAccount
from db.models.fulfillment import Fulfillment
from db.models.order import FulfillmentStatus, Order, OrderLine, OrderStatus
from db.models.payment import MethodKind, Payment, StoredMethod
from db.models.product import Product, ProductStatus, Variant
from db.models.refund import RefundKind
from db.types import OrderId, PaymentId, new_id
from deps.core import UnitOfWork
from tools import idempotency, reallocation, refund
from tools.errors import (
    AftersalesLimit,
    Conflict,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientCredit,
    InvalidInput,
    NotFound,
    OutOfStock,
)
from tools.events import AftersalesPolicyChanged
from tools.registry import Risk, operation

CHANGES_MAX = 100
UNITS_MAX = 1_000
_REQUESTS = UUID("3d1c6a5e-8a55-4d5e-9f53-3f1f0e4b6a11")
_POLICY = UUID("3d1c6a5e-8a55-4d5e-9f53-3f1f0e4b6a12")


class PolicyInput(BaseModel):
    """What the shop allows after the sale. A maximum left empty is no limit."""

    model_config = ConfigDict(from_attributes=True)

    item_edits_max: int | None = Field(default=None, ge=0, le=1000)
    payment_changes_max: int | None = Field(default=None, ge=0, le=1000)
    requests_max: int | None = Field(default=None, ge=0, le=1000)
    item_edit_closes: bool = False
    refunds_to_any_method: bool = False
    return_window_days: int | None = Field(default=30, ge=0, le=3650)
    cancel_reasons: list[str] = Field(default_factory=list, max_length=50)


class LineRequest(BaseModel):
    """Units of one SKU of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(default=1, ge=1, le=UNITS_MAX)


class LineChange(LineRequest):
    """Units of one SKU of an order that become another variant of the same product."""

    new_sku: str = Field(min_length=1, max_length=64)


@dataclass(frozen=True, slots=True)
class Change:
    """Units of one line, as they are and as they shall be."""

    line: OrderLine
    new: Variant
    new_title: str
    quantity: int

    @property
    def difference_amount(self) -> int:
        return (self.new.price_amount - self.line.unit_price_amount) * self.quantity


@operation(
    scope="order:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what is your return policy",
        "how long can i return something",
        "how often may i change an order",
        "what are the rules for returns and exchanges",
    ),
)
async def policy(uow: UnitOfWork) -> PolicyInput:
    """Show what the shop allows after the sale: edits, returns, exchanges, reasons, deadlines."""
    return PolicyInput.model_validate(await current_policy(uow))


@operation(
    scope="order:manage",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="aftersales.set_policy",
    examples=(
        "set the return window to {return_window_days} days",
        "allow one change per order",
        "change the after-sales policy",
        "let customers return things for {return_window_days} days",
    ),
)
async def set_policy(uow: UnitOfWork, policy: PolicyInput) -> PolicyInput:
    """Change what the shop allows after the sale, as a whole.

    Args:
        policy: The new rules; what is left out takes its default.
    """
    values = policy.model_dump()
    write = insert(AftersalesPolicy).values(id=1, **values)
    await uow.session.execute(write.on_conflict_do_update(index_elements=["id"], set_=values))
    uow.publish(AftersalesPolicyChanged(policy_id=_POLICY, policy=values))
    return policy


async def current_policy(uow: UnitOfWork) -> AftersalesPolicy:
    return await uow.session.get(AftersalesPolicy, 1) or AftersalesPolicy()


def request_id(given: UUID | None) -> UUID:
    """Return the id of a change: the caller's, or the one its `Idempotency-Key` stands for.

    A request repeated under its key thereby finds what the first did, even after a crash.
    """
    if given is not None:
        return given
    claim = idempotency.current_claim.get()
    return uuid5(_REQUESTS, f"{claim.scope}/{claim.key}") if claim else new_id()


def digest(number: int, what: Mapping[str, Any]) -> str:
    """Return the sha256 of what is asked; the order of lines does not matter."""
    asked = {
        key: sorted(value, key=orjson.dumps) if isinstance(value, list) else value
        for key, value in what.items()
    }
    content = orjson.dumps({"number": number, **asked}, option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(content).hexdigest()


def refuse_other_request(stored_sha256: str, asked_sha256: str) -> None:
    """Raises:
    IdempotencyMismatch: The id was used for another request.
    """
    if stored_sha256 != asked_sha256:
        raise IdempotencyMismatch("This id was used for a different change.")


def may_edit(of: Order) -> bool:
    """Whether an order is placed and nothing of it has left."""
    unshipped = of.fulfillment_status is FulfillmentStatus.UNFULFILLED
    return of.status is OrderStatus.PLACED and unshipped


def refuse_uneditable(of: Order) -> None:
    """Raises:
    IllegalTransition: The order was never placed, has left, or is cancelled.
    """
    if not may_edit(of):
        left = of.fulfillment_status is not FulfillmentStatus.UNFULFILLED
        state = of.fulfillment_status.value if left else of.status.value
        raise IllegalTransition("order", state, "changed")


async def edits_of(uow: UnitOfWork, order_id: OrderId, kind: EditKind) -> int:
    """Count an order's edits of a kind, those being paid for too."""
    query = select(func.count()).select_from(OrderEdit).where(OrderEdit.order_id == order_id)
    query = query.where(OrderEdit.kind == kind, OrderEdit.state != EditState.FAILED)
    return int((await uow.session.exec(query)).one())


async def refuse_over_limit(uow: UnitOfWork, of: Order, kind: EditKind) -> None:
    """Raises:
    AftersalesLimit: The policy allows no more edits of this kind.
    """
    rules = await current_policy(uow)
    order_id = OrderId(of.id)
    item_edits = await edits_of(uow, order_id, EditKind.ITEMS)
    if rules.item_edit_closes and item_edits and kind is not EditKind.ADDRESS:
        raise AftersalesLimit(
            "The items of this order were changed; only its address can still be.",
            limit="item_edit_closes",
        )
    limit = {
        EditKind.ITEMS: rules.item_edits_max,
        EditKind.PAYMENT: rules.payment_changes_max,
        EditKind.ADDRESS: None,
    }[kind]
    if limit is None:
        return
    done = item_edits if kind is EditKind.ITEMS else await edits_of(uow, order_id, kind)
    if done >= limit:
        raise AftersalesLimit(
            f"The {kind.value} of an order can be changed {limit} times at most.",
            limit=f"{kind.value}_changes_max",
        )


async def refuse_cancellation(uow: UnitOfWork, of: Order, reason: str) -> None:
    """Say no to a cancellation that the policy does not allow.

    Raises:
        InvalidInput: The shop names the reasons it accepts, and this is none of them.
        AftersalesLimit: The items were changed, which closes an order here.
    """
    rules = await current_policy(uow)
    if rules.cancel_reasons and reason.strip() not in rules.cancel_reasons:
        accepted = ", ".join(repr(known) for known in rules.cancel_reasons)
        raise InvalidInput(f"reason must be one of {accepted}.", field="reason")
    await refuse_pending_edit(uow, of)
    closes = rules.item_edit_closes and await edits_of(uow, OrderId(of.id), EditKind.ITEMS)
    if closes:
        raise AftersalesLimit(
            "The items of this order were changed; it cannot be cancelled any more.",
            limit="item_edit_closes",
        )


async def refuse_pending_edit(uow: UnitOfWork, of: Order) -> None:
    """Raises:
    Conflict: A change of the order is being paid for.
    """
    pending = select(OrderEdit.id).where(
        OrderEdit.order_id == of.id, OrderEdit.state == EditState.PENDING
    )
    if (await uow.session.exec(pending)).first() is not None:
        raise Conflict("A change of this order is being paid for.", current="pending")


async def refuse_request(uow: UnitOfWork, of: Order) -> None:
    """Say no to a return or an exchange that comes too early, too late or too often.

    Raises:
        IllegalTransition: The order has not been delivered.
        AftersalesLimit: The window is over, or the policy allows no further request.
    """
    if of.fulfillment_status is not FulfillmentStatus.DELIVERED or of.status not in (
        OrderStatus.PLACED,
        OrderStatus.COMPLETED,
    ):
        left = of.fulfillment_status is not FulfillmentStatus.UNFULFILLED
        state = of.fulfillment_status.value if left else of.status.value
        raise IllegalTransition("order", state, "returned")
    rules = await current_policy(uow)
    if rules.return_window_days is not None:
        delivered_at = (
            await uow.session.exec(
                select(func.max(Fulfillment.delivered_at)).where(Fulfillment.order_id == of.id)
            )
        ).one()
        if delivered_at is not None and (
            uow.now > delivered_at + timedelta(days=rules.return_window_days)
        ):
            raise AftersalesLimit(
                f"It could be sent back for {rules.return_window_days} days after delivery.",
                limit="return_window_days",
            )
    if rules.requests_max is not None and await _requests_of(uow, of) >= rules.requests_max:
        raise AftersalesLimit(
            "No further return or exchange of this order is possible.", limit="requests_max"
        )


async def _requests_of(uow: UnitOfWork, of: Order) -> int:
    total = 0
    for model in (OrderReturn, OrderExchange):
        query = select(func.count()).select_from(model).where(model.order_id == of.id)
        live = query.where(col(model.state) != RequestState.CANCELLED)
        total += int((await uow.session.exec(live)).one())
    return total


async def lines_of(uow: UnitOfWork, order_id: OrderId) -> list[OrderLine]:
    """Load an order's lines for update, in the order they were bought."""
    query = select(OrderLine).where(OrderLine.order_id == order_id).order_by(col(OrderLine.id))
    query = query.with_for_update().execution_options(populate_existing=True)
    return list(await uow.session.exec(query))


def take_units(
    lines: Sequence[OrderLine],
    wanted: Sequence[LineRequest],
    taken: Mapping[UUID, int],
) -> list[tuple[OrderLine, LineRequest, int]]:
    """Find the units asked for among the lines that have them.

    Args:
        taken: Units by line that an earlier request has taken already.

    Raises:
        InvalidInput: Nothing is asked for, or more units of a SKU than the order still has.
    """
    if not 1 <= len(wanted) <= CHANGES_MAX:
        raise InvalidInput(f"Name 1 to {CHANGES_MAX} lines.", field="lines")
    free = {line.id: line.quantity - taken.get(line.id, 0) for line in lines}
    found: list[tuple[OrderLine, LineRequest, int]] = []
    for request in wanted:
        missing = request.quantity
        for line in lines:
            units = min(missing, free[line.id]) if line.sku == request.sku else 0
            if units > 0:
                free[line.id] -= units
                missing -= units
                found.append((line, request, units))
        if missing:
            raise InvalidInput(
                f"The order has fewer than {request.quantity} units of {request.sku} to change.",
                field="lines",
                sku=request.sku,
            )
    return found


async def taken_units(uow: UnitOfWork, order_id: OrderId) -> dict[UUID, int]:
    """Return the units by line that are on their way back, or have come back.

    Units that were exchanged count no more: the line sells their replacement now.
    """
    taken: dict[UUID, int] = {}
    returned = (
        select(OrderReturnLine.line_id, func.sum(OrderReturnLine.quantity))
        .join(OrderReturn, col(OrderReturn.id) == col(OrderReturnLine.return_id))
        .where(OrderReturn.order_id == order_id, OrderReturn.state != RequestState.CANCELLED)
        .group_by(col(OrderReturnLine.line_id))
    )
    exchanged = (
        select(OrderExchangeLine.line_id, func.sum(OrderExchangeLine.quantity))
        .join(OrderExchange, col(OrderExchange.id) == col(OrderExchangeLine.exchange_id))
        .where(OrderExchange.order_id == order_id)
        .where(col(OrderExchange.state).in_([RequestState.REQUESTED, RequestState.RECEIVED]))
        .group_by(col(OrderExchangeLine.line_id))
    )
    for query in (returned, exchanged):
        for line_id, units in await uow.session.exec(query):
            taken[line_id] = taken.get(line_id, 0) + int(units)
    return taken


async def plan_changes(
    uow: UnitOfWork,
    lines: Sequence[OrderLine],
    wanted: Sequence[LineChange],
    *,
    taken: Mapping[UUID, int],
    may_stay: bool,
) -> list[Change]:
    """Price the change of some units into other variants of the same product.

    Args:
        may_stay: Whether a unit may become the same variant: an exchange of a faulty one may.

    Raises:
        InvalidInput: Units the order has not, a variant of another product, or no change at all.
        NotFound: There is no such variant on sale.
    """
    skus = sorted({change.new_sku for change in wanted})
    query = (
        select(Variant, Product)
        .join(Product, col(Product.id) == col(Variant.product_id))
        .where(col(Variant.sku).in_(skus))
    )
    known = {variant.sku: (variant, product) for variant, product in await uow.session.exec(query)}
    changes: list[Change] = []
    for line, request, units in take_units(lines, wanted, taken):
        assert isinstance(request, LineChange)
        variant, product = known.get(request.new_sku, (None, None))
        if variant is None or product is None or not variant.is_active:
            raise NotFound(f"There is no SKU {request.new_sku}.", field="new_sku")
        if product.id != line.product_id or product.status is not ProductStatus.ACTIVE:
            raise InvalidInput(
                f"{request.new_sku} is not a variant of {line.title}.", field="new_sku"
            )
        if request.new_sku == line.sku and not may_stay:
            raise InvalidInput("The new variant must differ from the old one.", field="new_sku")
        title = " – ".join(filter(None, (product.title, variant.title)))
        changes.append(Change(line=line, new=variant, new_title=title, quantity=units))
    return changes


async def refuse_scarce(uow: UnitOfWork, changes: Sequence[Change]) -> None:
    """Raises:
    OutOfStock: Fewer units of a new variant can be sold than are asked for.
    """
    wanted: dict[str, int] = {}
    for change in changes:
        wanted[change.new.sku] = wanted.get(change.new.sku, 0) + change.quantity
    available = await reallocation.available(uow, sorted(wanted))
    for sku, quantity in sorted(wanted.items()):
        if available.get(sku, 0) < quantity:
            raise OutOfStock(sku, quantity)


async def method_of(uow: UnitOfWork, of: Order, method_id: UUID) -> StoredMethod:
    """Load a stored method of the customer who placed the order.

    Raises:
        NotFound: No such method, or another customer's. The two must be indistinguishable.
    """
    method = await uow.session.get(StoredMethod, method_id)
    if method is None or of.customer_id is None or method.customer_id != of.customer_id:
        raise NotFound("No such payment method.", field="payment_method")
    return method


async def refuse_uncovered(uow: UnitOfWork, method: StoredMethod, amount: int) -> None:
    """Raises:
    InsufficientCredit: A gift card or store credit holds less than `amount`.
    """
    if method.kind is not MethodKind.CREDIT or amount <= 0:
        return
    assert method.credit_account_id is not None
    account = await uow.session.get_one(CreditAccount, method.credit_account_id)
    free = account.balance_amount - account.held_amount
    if free < amount or not account.is_active:
        raise InsufficientCredit(
            "There is not enough on this gift card or store credit.",
            field="payment_method",
            required_amount=amount,
            available_amount=free,
        )


async def holding_tenders(uow: UnitOfWork, order_id: OrderId) -> list[Payment]:
    """Return the tenders that still hold money of an order, as they were charged."""
    query = (
        select(Payment)
        .where(Payment.order_id == order_id)
        .where(col(Payment.captured_amount) > col(Payment.refunded_amount))
        .order_by(col(Payment.position), col(Payment.id))
    )
    return list(await uow.session.exec(query))


def token_of(method: StoredMethod) -> str:
    """Return what a tender is charged to: the provider's token, or the account of a credit."""
    return str(method.credit_account_id) if method.kind is MethodKind.CREDIT else method.token


def paid_with(tender: Payment, method: StoredMethod) -> bool:
    """Whether a stored method is what a tender was charged to."""
    return (tender.provider, tender.method_token) == (method.provider, token_of(method))


async def refuse_foreign_refund(uow: UnitOfWork, of: Order, method: StoredMethod) -> None:
    """Raises:
    InvalidInput: The method neither paid for the order nor is the customer's own credit.
    """
    tenders = await holding_tenders(uow, OrderId(of.id))
    if method.credit_account_id is None and not any(paid_with(t, method) for t in tenders):
        raise InvalidInput(
            "Money goes back to what paid for the order, or to a gift card or store credit.",
            field="payment_method",
        )


async def give_back(
    uow: UnitOfWork,
    of: Order,
    method: StoredMethod | None,
    *,
    reason: str,
    amount: int | None = None,
    lines: Mapping[str, int] | None = None,
) -> UUID:
    """Write a refund to the method a customer chose; `refund.drive` sends it.

    Args:
        method: None, or one that paid: back the way it came, the chosen one first. A credit is
            topped up. Any other is paid out to; whether that is allowed was decided before.
        amount: What the order costs less since an edit; else give `lines`.
    """
    to: refund.Target = "original"
    first: list[PaymentId] = []
    if method is not None:
        tenders = await holding_tenders(uow, OrderId(of.id))
        first = [PaymentId(tender.id) for tender in tenders if paid_with(tender, method)]
        if not first:
            to = method if method.credit_account_id is None else method.credit_account_id
    made = await refund.request(
        uow,
        of,
        reason=reason,
        amount=amount,
        lines=lines,
        to=to,
        first=first,
        kind=RefundKind.REFUND if amount is None else RefundKind.ADJUSTMENT,
    )
    return made.id
