"""Limits on what staff do by way of agents: how much goes out in a day, how far prices fall.

They are checked in the transaction that takes an action up, one at a time for the whole shop, so
that many small actions, or several at once, cannot pass together what one may not.
"""

from datetime import timedelta

from sqlalchemy import text

from db.models.conversation import PendingAction
from db.models.user import Role
from db.types import Money
from deps.core import UnitOfWork
from tools.errors import Forbidden, LimitReached
from tools.rehearsal import Effects

WINDOW = timedelta(hours=24)
STAFF = (Role.MERCHANT.value, Role.ADMIN.value, Role.SYSTEM.value)

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('agent refunds', 7))")
_SPENT = text("""
    SELECT coalesce(sum(refund_amount), 0)::bigint AS shop,
           coalesce(sum(refund_amount) FILTER (WHERE actor_id = :actor_id), 0)::bigint AS person
      FROM pending_action
     WHERE status IN ('executing', 'executed') AND decided_at > :since AND id <> :id
       AND currency = :currency AND actor_role = ANY (:staff)
""")
_OLD_PRICES = text("SELECT sku, price_amount FROM variant WHERE sku = ANY (:skus)")


def is_staff(role: str) -> bool:
    return role in STAFF


async def check_refunds(uow: UnitOfWork, action: PendingAction, *, is_other: bool) -> None:
    """Refuse a refund that takes the last 24 hours past what agents may pay out for staff.

    Money a shopper gets back for an order of their own is bounded by what they paid.

    Args:
        action: About to be carried out; counted together with those that were.
        is_other: Whether the approver is not the asker.

    Raises:
        Forbidden: Past the asker's own limit; another member of staff may approve.
        LimitReached: Past the shop's limit; nobody may, until the window moves on.
    """
    if not action.refund_amount or not is_staff(action.actor_role):
        return
    await uow.session.execute(_LOCK)
    spent = (
        await uow.session.execute(
            _SPENT,
            {
                "actor_id": action.actor_id,
                "since": uow.now - WINDOW,
                "id": action.id,
                "currency": action.currency,
                "staff": list(STAFF),
            },
        )
    ).one()
    shop_max = uow.settings.agent_refunds_per_shop_amount
    person_max = uow.settings.agent_refunds_per_person_amount
    if spent.shop + action.refund_amount > shop_max:
        limit = Money(shop_max, action.currency)
        raise LimitReached(
            f"Agents may refund {limit} in 24 hours; make this refund yourself.",
            limit="refunds_per_shop",
        )
    if spent.person + action.refund_amount > person_max and not is_other:
        limit = Money(person_max, action.currency)
        raise Forbidden(
            f"You have refunded {limit} by way of agents in 24 hours; another has to approve.",
            limit="refunds_per_person",
        )


async def check_discounts(uow: UnitOfWork, effects: Effects) -> None:
    """Refuse new prices that lie too far below the ones in force, and codes that take too much off.

    Runs where the old prices are still to be read: before the change, or after a rehearsal.

    Raises:
        LimitReached: Deeper than `agent_discount_percent_max`.
    """
    most = uow.settings.agent_discount_percent_max
    for code, percent in effects.discounts.items():
        if percent > most:
            raise LimitReached(
                f"{code} would take up to {percent} % off, and agents may give {most} %; an amount "
                "needs goods of a minimum amount.",
                limit="discount_percent",
            )
    if not effects.prices:
        return
    rows = await uow.session.execute(_OLD_PRICES, {"skus": list(effects.prices)})
    for sku, old in rows:
        if effects.prices[sku] * 100 < old * (100 - most):
            raise LimitReached(
                f"The price of {sku} would fall by more than {most} %.", limit="discount_percent"
            )
