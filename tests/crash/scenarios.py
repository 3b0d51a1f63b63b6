"""What a mortal process tries to do. Every one may die anywhere and be asked for again."""

from contextlib import suppress
from uuid import UUID

from deps.core import Deps
from tools import checkout
from tools.errors import PaymentDeclined
from tools.payment import Tender


async def buy(deps: Deps, cart_id: str) -> None:
    await checkout.complete(deps, UUID(cart_id), payment_method="tok_visa")


async def buy_with_two_tenders(deps: Deps, cart_id: str, first_amount: int) -> None:
    first = Tender(deps.gateway.name, "tok_visa", first_amount)
    await checkout.complete(deps, UUID(cart_id), payment_method="tok_visa", credits=[first])


async def be_declined(deps: Deps, cart_id: str, first_amount: int) -> None:
    """The first tender is authorised, the second declined: the first has to be voided."""
    first = Tender(deps.gateway.name, "tok_visa", first_amount)
    with suppress(PaymentDeclined):
        await checkout.complete(deps, UUID(cart_id), payment_method="tok_declined", credits=[first])


async def cancel(deps: Deps, number: int) -> None:
    await checkout.cancel(deps, number, "killed on the way")
