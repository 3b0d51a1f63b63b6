"""A small shop whose stock is looked at to the row: what moved, who has what and who waits."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, Final

from db.models.inventory import StockPolicy
from db.types import OrderId, new_id
from deps.core import Deps
from tests import factories
from tools import bundle, inventory, stock
from tools.bundle import BundlePartInput

# The deltas of a movement by the words used here.
COUNTERS: Final = {
    "on_hand_delta": "here",
    "reserved_delta": "held",
    "allocated_delta": "sold",
    "incoming_delta": "coming",
    "backordered_delta": "owed",
}
DUE: Final = date(2026, 3, 31)
NOW: Final = datetime(2026, 2, 1, 12, tzinfo=UTC)


# How `other` stands.
OTHERS: tuple[str, list[str], list[str]] = ("held", ["MUG HAM 1", "TEA HAM 1"], [])


class Shop:
    """Three mugs in HAM, two in ROT and up to nine promised; nine teas in HAM.

    `other` is an order that has a mug and a tea all the time, as nobody does anything with it.
    """

    other: OrderId

    def __init__(self, deps: Deps) -> None:
        self.deps = replace(deps, clock=lambda: NOW)
        self.seen: dict[OrderId, int] = {}

    async def open(self) -> None:
        await factories.product(self.deps, "MUG", stock=3)
        await factories.receive(self.deps, "MUG", 2, "ROT")
        await factories.product(self.deps, "TEA", title="Tea", stock=9)
        async with self.deps.begin() as uow:
            await stock.set_policy(uow, "MUG", StockPolicy.BACKORDER, 9, DUE)
        self.other = await self.reserve(MUG=1, TEA=1)

    async def reserve(self, **units: int) -> OrderId:
        order_id = OrderId(new_id())
        async with self.deps.begin() as uow:
            await inventory.reserve(uow, order_id=order_id, units=units)
        return order_id

    async def receive(self, sku: str, location: str, units: int) -> None:
        async with self.deps.begin() as uow:
            await stock.receive(uow, sku, location, units)

    async def define(self, name: str, **parts: int) -> None:
        units = [BundlePartInput(sku=sku, quantity=quantity) for sku, quantity in parts.items()]
        async with self.deps.begin() as uow:
            await bundle.define(uow, name, units)

    async def step(self, name: str, order_id: OrderId, **more: Any) -> None:
        async with self.deps.begin() as uow:
            await getattr(inventory, name)(uow, order_id=order_id, **more)

    async def moved(self, order_id: OrderId) -> list[str]:
        """Say what moved for an order since the last look, all of it by us and now."""
        async with self.deps.begin() as uow:
            rows = await uow.fetch(
                """SELECT m.*, p.code FROM stock_movement m
                   LEFT JOIN location p ON p.id = m.location_id
                   WHERE m.reference_id = $1 AND m.id > $2 ORDER BY m.id""",
                order_id,
                self.seen.get(order_id, 0),
            )
        for row in rows:
            assert (row["actor_id"], row["occurred_at"]) == (
                self.deps.actor.user_id,
                self.deps.clock(),
            )
            self.seen[order_id] = row["id"]
        return [_said(row) for row in rows]

    async def has(self, order_id: OrderId) -> tuple[str, list[str], list[str]]:
        """Say how an order stands, what it has and what it waits for."""
        async with self.deps.begin() as uow:
            status = await uow.fetchval("SELECT status FROM reservation WHERE id = $1", order_id)
            lines = await uow.fetch(
                """SELECT l.sku || ' ' || p.code || ' ' || l.quantity AS line
                   FROM reservation_line l JOIN location p ON p.id = l.location_id
                   WHERE l.reservation_id = $1 ORDER BY 1""",
                order_id,
            )
            owed = await uow.fetch(
                "SELECT * FROM backorder WHERE reservation_id = $1 ORDER BY sku", order_id
            )
        waits = []
        for row in owed:
            assert row["promised_for"] == DUE
            waits.append(f"{row['sku']} {row['quantity']}{'' if row['is_open'] else ' no more'}")
        return status, [row["line"] for row in lines], waits

    async def told(self, order_id: OrderId) -> list[tuple[int, int]]:
        """Return units that came and units still owed, as it was told."""
        async with self.deps.begin() as uow:
            rows = await uow.fetch(
                """SELECT * FROM outbox WHERE type = 'BackorderFilled' AND aggregate_id = $1
                   AND aggregate_type = 'order' AND schema_version = 1 ORDER BY seq""",
                order_id,
            )
        found = []
        for row in rows:
            assert (row["actor_id"], row["actor_role"]) == (self.deps.actor.user_id, "system")
            told = dict(row["payload"])
            found.append((told.pop("quantity"), told.pop("open_quantity")))
            assert told == {"order_id": str(order_id), "sku": "MUG"}
        return found


def _said(row: Mapping[str, Any]) -> str:
    deltas = [f"{word}{row[name]:+}" for name, word in COUNTERS.items() if row[name]]
    return " ".join([row["kind"], row["sku"], row["code"] or "nowhere", *deltas])
