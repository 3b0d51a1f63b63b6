"""What the merchant allows after the sale, and what that policy refuses."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import ConfigDict, Field
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from db.models.aftersales import (
    AftersalesPolicy,
    EditKind,
    EditState,
    OrderEdit,
    OrderExchange,
    OrderReturn,
    RequestState,
)
from db.models.fulfillment import Fulfillment
from db.models.order import FulfillmentStatus, Order, OrderStatus
from db.types import OrderId
from deps.core import UnitOfWork
from deps.given import Given
from tools.errors import AftersalesLimit, Conflict, IllegalTransition, InvalidInput
from tools.events import AftersalesPolicyChanged
from tools.registry import Risk, operation

_POLICY = UUID("3d1c6a5e-8a55-4d5e-9f53-3f1f0e4b6a12")


class PolicyInput(Given):
    """What the shop allows after the sale. A maximum left empty is no limit."""

    model_config = ConfigDict(from_attributes=True)

    item_edits_max: int | None = Field(default=None, ge=0, le=1000)
    payment_changes_max: int | None = Field(default=None, ge=0, le=1000)
    requests_max: int | None = Field(default=None, ge=0, le=1000)
    item_edit_closes: bool = False
    refunds_to_any_method: bool = False
    return_window_days: int | None = Field(default=30, ge=0, le=3650)
    cancel_reasons: list[str] = Field(default_factory=list, max_length=50)


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


async def rules_now(uow: UnitOfWork, policy: PolicyInput) -> dict[str, Any]:
    """Return what sets the rules to what they are now."""
    return {"policy": PolicyInput.model_validate(await current_policy(uow))}


@operation(
    scope="order:manage",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="aftersales.set_policy",
    restore=rules_now,
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
    if rules.requests_max is not None and await requests_of(uow, of) >= rules.requests_max:
        raise AftersalesLimit(
            "No further return or exchange of this order is possible.", limit="requests_max"
        )


async def requests_of(uow: UnitOfWork, of: Order) -> int:
    """Count an order's returns and exchanges, but for those that were withdrawn."""
    total = 0
    for model in (OrderReturn, OrderExchange):
        query = select(func.count()).select_from(model).where(model.order_id == of.id)
        live = query.where(col(model.state) != RequestState.CANCELLED)
        total += int((await uow.session.exec(live)).one())
    return total
