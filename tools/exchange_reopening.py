"""Exchanges that are wanted after all: what was withdrawn is asked for again, as it was."""

from typing import Any
from uuid import UUID

from db.models.aftersales import OrderExchange, OrderExchangeLine, RequestState
from db.models.order import Order
from db.types import OrderId, new_id
from deps.core import UnitOfWork
from tools import aftersales_request, exchange, exchange_view, inventory, order_line
from tools.errors import IllegalTransition
from tools.exchange_view import ExchangePreview, ExchangeView
from tools.line_change import LineChange
from tools.registry import Risk, operation
from tools.reversal import ExchangeReopened


async def preview_reopen(uow: UnitOfWork, exchange_id: UUID) -> ExchangePreview:
    """Say what `reopen` would do, without doing it.

    Raises: As `reopen`.
    """
    of, found = await aftersales_request.access(uow, OrderExchange, exchange_id)
    await _refuse_reopening(uow, of, found)
    shown = await exchange_view.view(uow, found, of)
    return ExchangePreview(
        number=shown.number,
        exchange_id=found.id,
        lines=shown.lines,
        charge_amount=max(found.difference_amount, 0),
        refund_amount=max(-found.difference_amount, 0),
        currency=found.currency,
    )


async def withdrawn(uow: UnitOfWork, exchange_id: UUID) -> dict[str, Any] | None:
    """Return what withdraws an exchange again once it is reopened, if it is withdrawn."""
    state = RequestState.CANCELLED
    return await aftersales_request.argument_in(
        uow, OrderExchange, "exchange_id", exchange_id, state
    )


@operation(
    scope="order:return",
    risk=Risk.MONEY,
    idempotent=True,
    inverse="exchange.cancel",
    restore=withdrawn,
    preview=preview_reopen,
    domain="exchange",
    examples=(
        "reopen the exchange {exchange_id}",
        "i want the exchange {exchange_id} after all",
        "i cancelled the exchange {exchange_id} by mistake",
        "go on with the withdrawn exchange {exchange_id}",
    ),
)
async def reopen(uow: UnitOfWork, exchange_id: UUID) -> ExchangeView:
    """Go on with an exchange that was withdrawn: the replacements are kept for the customer again.

    Repeating it changes nothing.

    Args:
        exchange_id: Id of the exchange.

    Raises:
        NotFound: No such exchange, or someone else's; or its payment method is gone.
        IllegalTransition: The parcel has arrived.
        AftersalesLimit: The window is over, or the policy allows no further request.
        InvalidInput: Its units are being sent back by another request.
        OutOfStock: The new variant cannot be had any more.
        Conflict: The order or a price has changed since.
    """
    of, found = await aftersales_request.access(uow, OrderExchange, exchange_id)
    if found.state is not RequestState.REQUESTED:
        await _refuse_reopening(uow, of, found)
        aftersales_request.move(uow, found, RequestState.REQUESTED)
        await inventory.allocate(uow, order_id=OrderId(found.id))
        uow.publish(ExchangeReopened(order_id=OrderId(of.id), exchange_id=found.id))
        await uow.session.flush()
    return await exchange_view.view(uow, found, of)


async def _refuse_reopening(uow: UnitOfWork, of: Order, found: OrderExchange) -> None:
    if found.state is RequestState.REQUESTED:
        return
    if found.state is not RequestState.CANCELLED:
        raise IllegalTransition("exchange", found.state.value, RequestState.REQUESTED.value)
    lines = await exchange_view.lines_of(uow, found.id)
    wanted = [
        LineChange(sku=line.sku, new_sku=line.new_sku, quantity=line.quantity) for line in lines
    ]
    now, _ = await exchange.plan(uow, of, wanted, found.method_id)
    planned = [
        OrderExchangeLine(
            exchange_id=new_id(),
            position=position,
            line_id=change.line.id,
            **order_line.version(change),
        )
        for position, change in enumerate(now)
    ]
    aftersales_request.refuse_other_lines(lines, planned)
