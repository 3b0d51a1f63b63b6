"""A payment that waited for its shopper: go on with its sale."""

from uuid import UUID

from sqlmodel import select

from db.models.order import Order
from db.models.payment import Payment
from db.types import OrderId
from deps.core import Deps, UnitOfWork
from tools import order, sale
from tools.errors import NotFound
from tools.order import OrderView
from tools.registry import Risk, operation


async def access(uow: UnitOfWork, payment_id: UUID) -> Payment:
    """Load a payment of an order that the actor may see.

    Raises:
        NotFound: No such payment, or the order is someone else's.
    """
    query = select(Payment, Order.number).join(Order).where(Payment.id == payment_id)
    found = (await uow.session.exec(query)).first()
    if found is None or found[1] is None:
        raise NotFound("No such payment.", field="payment_id")
    try:
        await order.access(uow, found[1])
    except NotFound as error:
        raise NotFound("No such payment.", field="payment_id") from error
    return found[0]


async def preview_confirm(uow: UnitOfWork, payment_id: UUID) -> OrderView:
    """Show the order that `confirm` would go on with.

    Raises:
        NotFound: No such payment, or it is someone else's.
    """
    found = await access(uow, payment_id)
    return await order.view(uow, await uow.session.get_one(Order, found.order_id))


@operation(
    scope="checkout:write",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_confirm,
    domain="payment",
    examples=(
        "i have confirmed the payment {payment_id}",
        "i approved it at paypal, go on with payment {payment_id}",
        "continue payment {payment_id}",
        "my bank has authenticated me, finish payment {payment_id}",
    ),
)
async def confirm(deps: Deps, payment_id: UUID) -> OrderView:
    """Go on with a purchase after the shopper authenticated or approved it at the provider.

    The provider is asked whether they did. Until they did, the order stays pending and its view
    says what is to do. Repeating it changes nothing.

    Args:
        payment_id: The payment that waits, as the order's view names it.

    Raises:
        NotFound: No such payment, or it is someone else's.
        PaymentDeclined: The shopper failed or gave up; nothing is charged.
        OutOfStock: The stock was gone meanwhile; nothing is charged.
        Unavailable: The provider did not answer; repeat it.
    """
    async with deps.begin() as uow:
        found = await access(uow, payment_id)
    return await sale.drive(deps, OrderId(found.order_id))
