"""Handlers whose effect is a row in a table, so that what was applied can be counted."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import text

from db.types import OrderId, new_id
from deps.bus import Envelope, Message, RedisStreamBus
from deps.core import Deps, Event
from tools import delivery
from tools.delivery import Reconciler
from tools.events import OrderCancelled, OrderPlaced
from tools.handlers import Handler, HandlerContext, Handlers


async def make_table(deps: Deps) -> None:
    async with deps.begin() as uow:
        await uow.session.execute(
            text("""
                CREATE TABLE effect (id bigint GENERATED ALWAYS AS IDENTITY, handler text,
                                     event_id uuid, aggregate_id uuid, aggregate_seq int)
            """)
        )


async def write(context: HandlerContext, handler: str, envelope: Envelope) -> None:
    await context.uow.session.execute(
        text(
            "INSERT INTO effect (handler, event_id, aggregate_id, aggregate_seq)"
            " VALUES (:handler, :event_id, :aggregate_id, :aggregate_seq)"
        ),
        {
            "handler": handler,
            "event_id": envelope.id,
            "aggregate_id": envelope.aggregate_id,
            "aggregate_seq": envelope.aggregate_seq,
        },
    )


@dataclass
class Effects:
    """Two groups: `ledger` counts both order events, `letters` only placed orders.

    `poison` holds the numbers of orders that `ledger` cannot take; `reached` is set when
    `expected` effects were attempted.
    """

    poison: set[int] = field(default_factory=set)
    expected: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    attempts: int = 0

    async def note(self, context: HandlerContext, event: Event, envelope: Envelope) -> None:
        await write(context, "ledger.note", envelope)
        self._attempted()
        if isinstance(event, OrderPlaced) and event.number in self.poison:
            raise ValueError(f"order {event.number} is poison")

    async def post(self, context: HandlerContext, event: OrderPlaced, envelope: Envelope) -> None:
        await write(context, "letters.post", envelope)
        self._attempted()

    def _attempted(self) -> None:
        self.attempts += 1
        if self.attempts >= self.expected:
            self.reached.set()

    @property
    def handlers(self) -> Handlers:
        note = Handler("ledger", self.note)
        return {OrderPlaced: (note, Handler("letters", self.post)), OrderCancelled: (note,)}


async def announce(
    deps: Deps, *numbers: int, order_id: OrderId | None = None, cancel: bool = False
) -> None:
    """Commit an event for each order number, each order an aggregate of its own by default."""
    async with deps.begin() as uow:
        for number in numbers:
            of = order_id or OrderId(new_id())
            if cancel:
                uow.publish(OrderCancelled(order_id=of, reason=str(number)))
            else:
                uow.publish(
                    OrderPlaced(
                        order_id=of,
                        number=number,
                        customer_id=None,
                        total_amount=100,
                        currency="EUR",
                    )
                )


async def counted(deps: Deps) -> Counter[tuple[str, int]]:
    """Count effects by handler and by the event's `seq`."""
    async with deps.begin() as uow:
        rows = await uow.session.execute(
            text("SELECT e.handler, o.seq FROM effect e JOIN outbox o ON o.id = e.event_id")
        )
        return Counter((row.handler, row.seq) for row in rows)


def once(*seqs: int) -> Counter[tuple[str, int]]:
    """What is to be counted when both handlers applied each of `seqs` exactly once."""
    return Counter((name, seq) for seq in seqs for name in ("ledger.note", "letters.post"))


async def scalar(deps: Deps, query: str) -> int | str | UUID | None:
    async with deps.begin() as uow:
        value: int | str | UUID | None = await uow.session.scalar(text(query))
        return value


class Killed(BaseException):
    """Stands for the end of the process: no handler of errors runs after it."""


class DyingBus(RedisStreamBus):
    """Dies where it is told to, after the server has answered and before the caller knows."""

    def __init__(
        self, of: RedisStreamBus, *, after_publish: bool = False, before_ack: bool = False
    ) -> None:
        super().__init__(of.redis, of.stream)
        self.after_publish = after_publish
        self.before_ack = before_ack

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        await super().publish(envelopes)
        if self.after_publish:
            raise Killed

    async def ack(self, group: str, messages: Sequence[Message]) -> None:
        if self.before_ack and messages:
            raise Killed
        await super().ack(group, messages)


async def consume(
    deps: Deps, bus: RedisStreamBus, effects: Effects, consumer: str = "one", idle_ms: int = 60_000
) -> None:
    """Take over what is idle and read what is new, for both groups, as the worker does."""
    for group in ("ledger", "letters"):
        await bus.ensure_group(group)
        messages = await bus.claim(group, consumer, idle_ms=idle_ms, limit=100)
        messages += await bus.read(group, consumer, limit=100, wait_ms=1)
        envelopes = [message.envelope for message in messages if message.envelope]
        await delivery.apply(deps, group, envelopes, effects.handlers)
        await bus.ack(group, messages)


async def settled(reconciler: Reconciler, deps: Deps) -> None:
    """Run until every checkpoint stands at the outbox's height.

    A checkpoint waits for every transaction that was running, in any database of the server, and
    other tests' are among them: how many runs it takes is theirs to say.
    """
    behind = """
        SELECT count(*) FROM event_checkpoint
        WHERE seq < (SELECT coalesce(max(seq), 0) FROM outbox)
    """
    async with asyncio.timeout(60):
        await reconciler.run_once(deps, settle_s=0)
        while await scalar(deps, behind):
            await reconciler.run_once(deps, settle_s=0)
