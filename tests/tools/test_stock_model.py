"""The stock functions of the database against a model too simple to be wrong.

The model knows SKUs, not locations: how many units there are, who holds how many, and who waits in
line. Everything a caller can see of a SKU must agree after every step.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from db.models.inventory import StockPolicy
from db.types import OrderId, new_id
from deps.core import SYSTEM, Deps
from tests import factories
from tools import bundle, inventory, stock, transfer
from tools.bundle import BundlePartInput
from tools.errors import Conflict, OutOfStock
from tools.invariant import check
from tools.transfer import TransferUnits
from tools.transfer_step import ReceivedUnits

LIVE = ("held", "allocated")
PLACES = ("HAM", "ROT")


@dataclass
class Held:
    status: str
    expires_at: datetime
    taken: Counter[str] = field(default_factory=Counter)
    owed: Counter[str] = field(default_factory=Counter)

    @property
    def wanted(self) -> Counter[str]:
        return self.taken + self.owed


@dataclass
class Notebook:
    """What a person with a notebook would know."""

    skus: tuple[str, str]
    bundle: str
    on_hand: Counter[str] = field(default_factory=Counter)
    caps: Counter[str] = field(default_factory=Counter)
    orders: dict[OrderId, Held] = field(default_factory=dict)
    queue: list[tuple[OrderId, str]] = field(default_factory=list)

    def taken(self, sku: str) -> int:
        return sum(o.taken[sku] for o in self.orders.values() if o.status in LIVE)

    def owed(self, sku: str) -> int:
        return sum(o.owed[sku] for o in self.orders.values() if o.status in LIVE)

    def free(self, sku: str) -> int:
        return self.on_hand[sku] - self.taken(sku)

    def available(self, sku: str) -> int:
        if sku == self.bundle:  # Two of the first and one of the second.
            first, second = self.skus
            return min(self.available(first) // 2, self.available(second))
        return max(0, self.free(sku) - self.owed(sku)) + self.caps[sku] - self.owed(sku)

    def parts(self, units: Counter[str]) -> Counter[str]:
        parts = Counter({sku: units[sku] for sku in self.skus if units[sku]})
        if units[self.bundle]:
            parts += Counter(
                {self.skus[0]: 2 * units[self.bundle], self.skus[1]: units[self.bundle]}
            )
        return parts

    def take(self, order_id: OrderId, parts: Counter[str]) -> bool:
        """Give an order its units, or promise them; False when that is not possible."""
        if any(quantity > self.available(sku) for sku, quantity in parts.items()):
            return False
        held = self.orders[order_id]
        for sku, quantity in sorted(parts.items()):
            now = min(quantity, max(0, self.free(sku) - self.owed(sku)))
            held.taken[sku] = now
            held.owed[sku] = quantity - now
            if quantity > now:
                self.queue.append((order_id, sku))
        return True

    def fill(self, now: datetime, skus: Iterable[str]) -> None:
        """Give free units of `skus` to who waits longest for them; a lapsed hold is passed over."""
        for order_id, sku in list(self.queue):
            held = self.orders[order_id]
            if sku not in skus or (held.status == "held" and held.expires_at <= now):
                continue
            units = min(held.owed[sku], self.free(sku))
            held.taken[sku] += units
            held.owed[sku] -= units
        self.queue = [(o, sku) for o, sku in self.queue if self.orders[o].owed[sku]]

    def leave(self, order_id: OrderId, status: str) -> None:
        self.orders[order_id].status = status
        self.queue = [(o, sku) for o, sku in self.queue if o != order_id]


unit = st.integers(1, 4)
which = st.integers(0, 9)
place = st.sampled_from(PLACES)
sku_no = st.integers(0, 1)
basket = st.tuples(*[st.integers(0, 3)] * 3).filter(lambda units: sum(units) > 0)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("receive"), sku_no, place, unit),
        st.tuples(st.just("remove"), sku_no, place, unit),
        st.tuples(st.just("reserve"), basket),
        st.tuples(st.just("reserve"), basket),
        st.tuples(st.just("allocate"), which),
        st.tuples(st.just("release"), which),
        st.tuples(st.just("ship"), which),
        st.tuples(st.just("extend"), which),
        st.tuples(st.just("wait"), st.integers(1, 20)),
        st.tuples(st.just("sweep")),
        st.tuples(st.just("cap"), sku_no, st.integers(0, 5)),
        st.tuples(st.just("move"), sku_no, place, unit, st.integers(0, 4)),
    ),
    min_size=8,
    max_size=25,
)
CAPS = st.tuples(st.integers(0, 8), st.integers(0, 8))


class Shop:
    def __init__(self, deps: Deps, book: Notebook) -> None:
        self.start, self.deps, self.book = deps, deps, book
        self.waited = 0

    @property
    def now(self) -> datetime:
        return self.deps.clock()

    def pick(self, number: int) -> OrderId | None:
        orders = list(self.book.orders)
        return orders[number % len(orders)] if orders else None

    async def receive(self, sku_no: int, place: str, units: int) -> None:
        sku = self.book.skus[sku_no]
        async with self.deps.begin() as uow:
            await stock.receive(uow, sku, place, units)
        self.book.on_hand[sku] += units
        self.book.fill(self.now, [sku])

    async def remove(self, sku_no: int, place: str, units: int) -> None:
        sku = self.book.skus[sku_no]
        try:
            async with self.deps.begin() as uow:
                await stock.adjust(uow, sku, place, -units, "gone")
        except Conflict:
            return  # Whether a place has enough is beyond the notebook; that none is sold is not.
        self.book.on_hand[sku] -= units

    async def reserve(self, wanted: tuple[int, int, int]) -> None:
        names = (*self.book.skus, self.book.bundle)
        units = {name: quantity for name, quantity in zip(names, wanted, strict=True) if quantity}
        order_id = OrderId(new_id())
        self.book.orders[order_id] = Held("held", self.now + inventory.HOLD_TTL)
        expected = self.book.take(order_id, self.book.parts(Counter(units)))
        short: str | None = None
        try:
            async with self.deps.begin() as uow:
                await inventory.reserve(uow, order_id=order_id, units=units)
        except OutOfStock as refused:
            short = refused.extra["sku"]
            del self.book.orders[order_id]
        assert (short is None) == expected
        assert short is None or short in units

    async def allocate(self, number: int) -> None:
        order_id = self.pick(number)
        if order_id is None:
            return
        held = self.book.orders[order_id]
        expected, parts = True, held.wanted
        if held.status in ("released", "expired"):
            # Its lines still say what it had, which was less than all if some was owed.
            before = held.taken, held.owed
            held.taken, held.owed = Counter(), Counter()
            expected = self.book.take(order_id, parts)
            if not expected:
                held.taken, held.owed = before
        try:
            async with self.deps.begin() as uow:
                await inventory.allocate(uow, order_id=order_id)
        except OutOfStock:
            assert not expected
            return
        assert expected
        if held.status != "shipped":
            held.status = "allocated"
        self.book.fill(self.now, +held.owed)

    async def release(self, number: int) -> None:
        order_id = self.pick(number)
        if order_id is None:
            return
        async with self.deps.begin() as uow:
            await inventory.release(uow, order_id=order_id, reason="no more")
        held = self.book.orders[order_id]
        if held.status in LIVE:
            self.book.leave(order_id, "released")
            # What nobody had is nobody's to give: other units wait for the sweep.
            self.book.fill(self.now, +held.taken)

    async def ship(self, number: int) -> None:
        order_id = self.pick(number)
        if order_id is None:
            return
        held = self.book.orders[order_id]
        ready = held.status == "allocated" and not +held.owed
        try:
            async with self.deps.begin() as uow:
                await inventory.ship(uow, order_id=order_id)
        except Conflict:
            assert not ready
            assert held.status != "shipped"
            return
        if held.status == "allocated":
            assert ready
            held.status = "shipped"
            self.book.on_hand -= held.taken

    async def extend(self, number: int) -> None:
        order_id = self.pick(number)
        if order_id is None:
            return
        held = self.book.orders[order_id]
        async with self.deps.begin() as uow:
            until = await inventory.extend(uow, order_id=order_id)
        assert (until is not None) == (held.status == "held" and held.expires_at > self.now)
        if until is not None:
            assert held.expires_at <= until <= self.now + inventory.HOLD_TTL
            held.expires_at = until

    async def wait(self, minutes: int) -> None:
        self.waited += minutes
        later = self.start.clock() + timedelta(minutes=self.waited)
        self.deps = replace(self.start, clock=lambda: later)

    async def sweep(self) -> None:
        await inventory.expire_due(self.deps)
        due = [
            order_id
            for order_id, held in self.book.orders.items()
            if held.status == "held" and held.expires_at <= self.now
        ]
        for order_id in sorted(due, key=lambda o: self.book.orders[o].expires_at):
            self.book.leave(order_id, "expired")
        self.book.fill(self.now, self.book.skus)
        await inventory.fill_due(self.deps)

    async def cap(self, sku_no: int, limit: int) -> None:
        sku = self.book.skus[sku_no]
        policy = StockPolicy.BACKORDER if limit else StockPolicy.DENY
        try:
            async with self.deps.begin() as uow:
                await stock.set_policy(uow, sku, policy, limit)
        except Conflict:
            assert limit < self.book.owed(sku)
            return
        assert limit >= self.book.owed(sku)
        self.book.caps[sku] = limit

    async def move(self, sku_no: int, source: str, units: int, lost: int) -> None:
        """Send units to the other place, where some may turn out to be lost."""
        sku, lost = self.book.skus[sku_no], min(lost, units)
        target = PLACES[1 - PLACES.index(source)]
        async with self.deps.begin() as uow:
            planned = await transfer.create(
                uow, source, target, [TransferUnits(sku=sku, quantity=units)]
            )
        try:
            async with self.deps.begin() as uow:
                await transfer.ship(uow, planned.id)
        except Conflict:
            return
        async with self.deps.begin() as uow:
            arrived = ReceivedUnits(sku=sku, received=units - lost, lost=lost, reason="fell off")
            done = await transfer.receive(uow, planned.id, [arrived])
        assert done.status == "received"
        self.book.on_hand[sku] -= lost
        self.book.fill(self.now, [sku])

    async def compare(self) -> None:
        async with self.deps.begin() as uow:
            for sku in (*self.book.skus, self.book.bundle):
                seen = await inventory.levels(uow, sku)
                assert seen.available == self.book.available(sku), sku
                if sku == self.book.bundle:
                    continue
                assert seen.backordered == self.book.owed(sku), sku
                assert sum(level.on_hand for level in seen.levels) == self.book.on_hand[sku]
                assert sum(
                    level.reserved + level.allocated for level in seen.levels
                ) == self.book.taken(sku)
                assert all(level.incoming == 0 for level in seen.levels)
            for order_id, held in self.book.orders.items():
                row = await uow.fetchrow(
                    """SELECT status, (SELECT coalesce(sum(quantity), 0) FROM reservation_line
                                       WHERE reservation_id = $1) AS taken
                       FROM reservation WHERE id = $1""",
                    UUID(str(order_id)),
                )
                assert row["status"] == held.status
                assert row["taken"] == sum(held.taken.values())


@pytest.fixture
async def staff(deps: Deps) -> Deps:
    return deps.acting_as(SYSTEM)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, caps=CAPS)
@example(  # Taken anew in vain, and once more.
    steps=[
        ("reserve", (0, 1, 0)), ("release", 0), ("cap", 1, 0), ("allocate", 0), ("allocate", 0),
    ],
    caps=(1, 1),
)  # fmt: skip
@example(  # A hold that lapsed waits before others when an order is released that had nothing.
    steps=[
        ("receive", 0, "HAM", 2), ("reserve", (0, 1, 0)), ("allocate", 0), ("reserve", (4, 0, 0)),
        ("reserve", (1, 0, 0)), ("wait", 18), ("receive", 0, "HAM", 1), ("reserve", (0, 0, 1)),
        ("release", 0),
    ],
    caps=(5, 7),
)  # fmt: skip
async def test_the_functions_agree_with_a_notebook(
    staff: Deps, steps: list[tuple[Any, ...]], caps: tuple[int, int]
) -> None:
    tag = new_id().hex[-12:].upper()
    book = Notebook(skus=(f"A{tag}", f"B{tag}"), bundle=f"S{tag}")
    for sku in (*book.skus, book.bundle):
        await factories.product(staff, sku, stock=0)
    for code in PLACES:  # Locations outlive the examples; only their stock is new.
        await factories.receive(staff, book.skus[0], 1, code)
    book.on_hand[book.skus[0]] = 2
    async with staff.begin() as uow:
        await bundle.define(
            uow,
            book.bundle,
            [
                BundlePartInput(sku=book.skus[0], quantity=2),
                BundlePartInput(sku=book.skus[1], quantity=1),
            ],
        )
    shop = Shop(staff, book)
    for number, limit in enumerate(caps):
        await shop.cap(number, limit)
    for name, *arguments in steps:
        await getattr(shop, name)(*arguments)
        await shop.compare()
    violations = await check(shop.deps)
    assert violations == []
