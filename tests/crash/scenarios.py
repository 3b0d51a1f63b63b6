"""What a mortal process tries to do. Every one may die anywhere and be asked for again."""

from contextlib import suppress
from uuid import UUID

from deps.core import Deps
from tools import capture, checkout, refund_desk
from tools.errors import PaymentDeclined
from tools.payment import Tender
from tools.refund_view import Destination


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


async def give_back(deps: Deps, number: int, refund_id: str, to: Destination) -> None:
    await refund_desk.request(deps, number, "killed", to=to, refund_id=UUID(refund_id))


async def take_and_release(deps: Deps, number: int, amount: int, capture_id: str) -> None:
    await capture.take(deps, number, amount, UUID(capture_id))
    await capture.release(deps, number)


async def cancel(deps: Deps, number: int) -> None:
    await checkout.cancel(deps, number, "killed on the way")
