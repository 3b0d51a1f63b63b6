"""Who reacts to which event: the one table, and the reactions.

A handler runs in a transaction with the inbox row that says so, and is therefore applied exactly
once. It never calls a vendor: it writes down what is to be sent, as the mail queue does.

Handlers of one group see events in the order of the stream, except where one is retried and where
several workers share a group; a handler reads the current state rather than trust in the order.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deps.bus import Envelope
from deps.core import Event, UnitOfWork
from tools import aftersales_mail, audit, handover, notification, refund_view, return_refund
from tools.events import (
    AuditFailed,
    DisputeLost,
    DisputeWon,
    ExchangeRequested,
    HandoverRequested,
    OrderAddressChanged,
    OrderCancelled,
    OrderEdited,
    OrderPaymentChanged,
    OrderPlaced,
    OrderShipped,
    RefundSucceeded,
    ReturnRequested,
)
from tools.reversal import HandoverReopened, OrderUnshipped


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """`uow` is the transaction that also records the handling; whoever calls commits it."""

    uow: UnitOfWork


@dataclass(frozen=True, slots=True)
class Handler:
    """One reaction. `group` is its domain: a group has its own consumer and its own progress.

    `name` is stored in the inbox: renaming the function would apply past events again, so give the
    old name in `known_as`.
    """

    group: str
    run: Callable[[HandlerContext, Any, Envelope], Awaitable[None]]
    known_as: str = ""

    @property
    def name(self) -> str:
        return self.known_as or f"{self.group}.{self.run.__name__}"


Handlers = Mapping[type[Event], tuple[Handler, ...]]


async def confirm_order(context: HandlerContext, event: OrderPlaced, envelope: Envelope) -> None:
    await notification.queue_order_confirmation(context.uow, event.order_id)


async def tell_cancellation(
    context: HandlerContext, event: OrderCancelled, envelope: Envelope
) -> None:
    await notification.queue_order_cancelled(context.uow, event.order_id)


async def tell_refund(context: HandlerContext, event: RefundSucceeded, envelope: Envelope) -> None:
    await refund_view.queue_mail(context.uow, event.refund_id)


async def tell_staff_of_handover(
    context: HandlerContext, event: HandoverRequested, envelope: Envelope
) -> None:
    await handover.tell_staff(context.uow, event.handover_id)


async def tell_staff_of_reopening(
    context: HandlerContext, event: HandoverReopened, envelope: Envelope
) -> None:
    await handover.tell_reopened(context.uow, event.handover_id, envelope.id)


async def tell_staff_of_audit(
    context: HandlerContext, event: AuditFailed, envelope: Envelope
) -> None:
    await audit.tell_staff(context.uow, event)


async def tell_return(context: HandlerContext, event: ReturnRequested, envelope: Envelope) -> None:
    await aftersales_mail.tell_return(context.uow, event)


async def close_return(context: HandlerContext, event: RefundSucceeded, envelope: Envelope) -> None:
    await return_refund.complete_refunded(context.uow, event.refund_id)


async def settle_returns(
    context: HandlerContext, event: DisputeWon | DisputeLost, envelope: Envelope
) -> None:
    await return_refund.settle_contested(context.uow, event.order_id)


async def tell_exchange(
    context: HandlerContext, event: ExchangeRequested, envelope: Envelope
) -> None:
    await aftersales_mail.tell_exchange(context.uow, event)


async def tell_shipped(context: HandlerContext, event: OrderShipped, envelope: Envelope) -> None:
    await aftersales_mail.tell_shipped(context.uow, event)


async def tell_unshipped(
    context: HandlerContext, event: OrderUnshipped, envelope: Envelope
) -> None:
    await aftersales_mail.tell_unshipped(context.uow, event)


async def tell_change(
    context: HandlerContext,
    event: OrderEdited | OrderAddressChanged | OrderPaymentChanged,
    envelope: Envelope,
) -> None:
    await aftersales_mail.tell_change(context.uow, event)


HANDLERS: Final[Handlers] = {
    ReturnRequested: (Handler("notification", tell_return),),
    ExchangeRequested: (Handler("notification", tell_exchange),),
    OrderShipped: (Handler("notification", tell_shipped),),
    OrderUnshipped: (Handler("notification", tell_unshipped),),
    OrderEdited: (Handler("notification", tell_change),),
    OrderAddressChanged: (Handler("notification", tell_change),),
    OrderPaymentChanged: (Handler("notification", tell_change),),
    AuditFailed: (Handler("notification", tell_staff_of_audit),),
    OrderPlaced: (Handler("notification", confirm_order),),
    OrderCancelled: (Handler("notification", tell_cancellation),),
    RefundSucceeded: (
        Handler("notification", tell_refund),
        Handler("aftersales", close_return),
    ),
    DisputeWon: (Handler("aftersales", settle_returns),),
    DisputeLost: (Handler("aftersales", settle_returns),),
    HandoverRequested: (Handler("notification", tell_staff_of_handover),),
    HandoverReopened: (Handler("notification", tell_staff_of_reopening),),
}


def groups(handlers: Handlers = HANDLERS) -> tuple[str, ...]:
    return tuple(sorted({handler.group for row in handlers.values() for handler in row}))


def handlers_of(
    event: type[Event], group: str | None = None, handlers: Handlers = HANDLERS
) -> tuple[Handler, ...]:
    row = handlers.get(event, ())
    return tuple(handler for handler in row if group in (None, handler.group))


def _names_are_unambiguous() -> bool:
    by_name: dict[str, Handler] = {}
    return all(
        by_name.setdefault(handler.name, handler).run is handler.run
        for row in HANDLERS.values()
        for handler in row
    )


assert _names_are_unambiguous(), "two functions would share inbox rows"
