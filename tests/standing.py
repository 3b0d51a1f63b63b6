"""How an order and the shop's books stand."""

from db.models.order import Order
from deps.core import Deps
from tools import payment
from tools.order import OrderView


async def balances(deps: Deps) -> dict[str, int]:
    """Return each account's balance, of a shop with one currency."""
    async with deps.begin() as uow:
        return {b.account: b.balance_amount for b in await payment.balances(uow)}


async def states(deps: Deps, placed: OrderView) -> tuple[str, str]:
    """Return an order's status, and that of its payment."""
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        return of.status.value, of.payment_status.value
