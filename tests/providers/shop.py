"""A shop that sells through a provider's local server, for the tests of what happens afterwards."""

from uuid import UUID

from sqlmodel import select

from db.models.order import Order
from db.models.payment import Payment
from deps.core import Deps
from tests import factories
from tests.providers.paypal_server import PayPalServer
from tests.providers.stripe_server import StripeServer
from tools import checkout, webhook
from tools.order import OrderView


async def buy(deps: Deps, method: str = "pm_card_visa") -> OrderView:
    filled = await factories.filled_cart(deps, MUG=2)
    return await checkout.complete(deps, filled.id, payment_method=method)


async def tender_of(deps: Deps, order_id: UUID) -> Payment:
    async with deps.begin() as uow:
        query = select(Payment).where(Payment.order_id == order_id)
        return (await uow.session.exec(query)).one()


async def reference_of(deps: Deps, order_id: UUID) -> str:
    reference = (await tender_of(deps, order_id)).provider_reference
    assert reference is not None
    return reference


async def order_of(deps: Deps, order_id: UUID) -> Order:
    async with deps.begin() as uow:
        return await uow.session.get_one(Order, order_id)


async def hear(deps: Deps, account: StripeServer | PayPalServer) -> None:
    """Deliver every event of the account so far, twice, the last first, and handle them."""
    name = "stripe" if isinstance(account, StripeServer) else "paypal"
    for event in reversed(account.events * 2):
        headers, body = account.webhook(event)
        await webhook.receive(deps, name, headers, body)
    while await webhook.handle_due(deps):
        pass
