"""Payouts: money to a stored method that was not charged for it, where the provider can do that.

A refund reverses a charge; a payout is new money out (card processors call it an unreferenced or
standalone credit). So a shop has to allow it (`AftersalesPolicy.refunds_to_any_method`), and it
goes under the key of a refund attempt like any other money out.
"""

from db.models.payment import AttemptKind, AttemptState, Payment, StoredMethod
from db.models.refund import RefundPart
from db.types import Money
from deps.core import Deps
from deps.gateway import GatewayTimeout, Outcome, OutcomeStatus, PaysOut
from tools import payment
from tools.errors import Unavailable

UNSUPPORTED = "payout_unsupported"


async def send(deps: Deps, part: RefundPart, tender: Payment) -> Outcome:
    """Pay a refund's part out to the method it names, asking first what an earlier call came to.

    Args:
        tender: What had brought the money; it is not called, its attempts number the keys.

    Raises:
        Unavailable: No answer; the same key is used again later.
    """
    assert part.method_id is not None
    money = Money(part.amount, tender.currency)
    async with deps.begin() as uow:
        method = await uow.session.get_one(StoredMethod, part.method_id)
        key = await payment.start_attempt(
            uow, part.payment_id, AttemptKind.REFUND, part.amount, part.attempt_number
        )
    gateway = deps.gateways.get(method.provider)
    if not isinstance(gateway, PaysOut):
        return Outcome(OutcomeStatus.DECLINED, "", 0, money.currency, decline_code=UNSUPPORTED)
    try:
        return await gateway.find(key) or await gateway.pay_out(key, money, method.token)
    except GatewayTimeout as error:
        async with deps.begin() as uow:
            await payment.finish_attempt(uow, key, AttemptState.UNKNOWN, "timeout")
        raise Unavailable(
            "The payment provider did not answer. The money is sent by itself; do not ask again."
        ) from error
