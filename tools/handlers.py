"""Who reacts to which event: the one table, and the reactions.

A handler that writes to the database runs in a transaction with the inbox row that says so, and is
therefore applied exactly once. One whose effect lies elsewhere is marked `external`: it runs before
the inbox row is written, so it may run twice and must bear it.

Handlers of one group see events in the order of the stream, except where one is retried and where
several workers share a group; a handler reads the current state rather than trust in the order.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from db.models.product import Product
from deps.bus import Envelope
from deps.core import Deps, Event, UnitOfWork
from tools import notification
from tools.events import OrderCancelled, OrderPlaced, ProductSaved, StockAdjusted


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """`uow` is the transaction that records the handling; external handlers get None."""

    deps: Deps
    open_uow: UnitOfWork | None

    @property
    def uow(self) -> UnitOfWork:
        assert self.open_uow is not None, "an external handler has no transaction"
        return self.open_uow


@dataclass(frozen=True, slots=True)
class Handler:
    """One reaction. `group` is its domain: a group has its own consumer and its own progress.

    `name` is stored in the inbox: renaming the function would apply past events again, so give the
    old name in `known_as`.
    """

    group: str
    run: Callable[[HandlerContext, Any, Envelope], Awaitable[None]]
    external: bool = False
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


async def forget_cached_product(
    context: HandlerContext, event: ProductSaved | StockAdjusted, envelope: Envelope
) -> None:
    """Repeat the invalidation that the writer did after its commit, in case it died before."""
    async with context.deps.begin() as uow:
        product = await uow.session.get(Product, event.product_id)
    if product is not None:
        await context.deps.cache.invalidate("product", product.handle)


HANDLERS: Final[Handlers] = {
    OrderPlaced: (Handler("notification", confirm_order),),
    OrderCancelled: (Handler("notification", tell_cancellation),),
    ProductSaved: (Handler("catalog", forget_cached_product, external=True),),
    StockAdjusted: (Handler("catalog", forget_cached_product, external=True),),
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
