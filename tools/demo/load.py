"""Filling a new shop with the demo: catalogue, stock, people and a year of trade.

Every piece has a key that does not depend on when it is loaded, and each batch is one transaction
that skips what is there. So running it again changes nothing, not even what a merchant has changed
since, and after an interruption it goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel

from db.models.inventory import Location
from db.models.user import User
from db.types import LocationId, new_id
from deps import security
from deps.core import SYSTEM, Deps, UnitOfWork
from tools import catalog_import, promotion
from tools.demo import catalog, history
from tools.demo.history import People
from tools.events import OrderPlaced
from tools.handlers import handlers_of

LOCATIONS = (("HAM", "Hamburg", 10), ("ROT", "Rotterdam", 20), ("GDN", "Gdansk", 30))
PASSWORD = "harbour-and-pine"
DEMO_USERS = (
    ("shopper@example.com", "Sanne Visser", "customer"),
    ("merchant@example.com", "Mats Lindqvist", "merchant"),
    ("admin@example.com", "Ada Brandt", "admin"),
)
PRODUCTS_BATCH = 136
ORDERS_BATCH = 250
REORDER_POINT = 5
CURRENCY = "EUR"
Progress = Callable[[str, int, int], None]

_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('demo_load'))")


class LoadReport(BaseModel):
    """What this run added; all zeros when everything was there."""

    products: int = 0
    variants: int = 0
    locations: int = 0
    users: int = 0
    orders: int = 0
    seconds: float = 0.0


async def load(deps: Deps, *, progress: Progress | None = None) -> LoadReport:
    """Load the demo into the shop, adding only what is missing.

    Args:
        progress: Called with (what, done, of how many) after each batch.
    """
    started = time.monotonic()
    deps = deps.acting_as(SYSTEM)
    tell = progress or (lambda what, done, of: None)
    report = LoadReport()
    locations = await _locations(deps, report)
    tell("locations", len(locations), len(locations))
    await _discounts(deps)
    await _products(deps, locations["HAM"], report, tell)
    await _stock(deps, locations, tell)
    people = await _people(deps, report)
    tell("people", len(people.ids), len(people.ids))
    await _orders(deps, people, locations["HAM"], report, tell)
    report.seconds = round(time.monotonic() - started, 2)
    return report


async def _insert(uow: UnitOfWork, model: type[SQLModel], rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        table = SQLModel.metadata.tables[str(model.__tablename__)]
        await uow.session.execute(insert(table).on_conflict_do_nothing(), rows)


async def _locations(deps: Deps, report: LoadReport) -> dict[str, LocationId]:
    async with deps.begin() as uow:
        await uow.session.execute(_LOCK)
        known = set((await uow.session.execute(text("SELECT code FROM location"))).scalars())
        rows = [
            {"id": new_id(), "code": code, "name": name, "priority": priority, "is_active": True}
            for code, name, priority in LOCATIONS
            if code not in known
        ]
        await _insert(uow, Location, rows)
        report.locations = len(rows)
        found = await uow.session.execute(text("SELECT code, id FROM location"))
        return {row.code: row.id for row in found}


async def _discounts(deps: Deps) -> None:
    async with deps.begin() as uow:
        await promotion.create_code(uow, "WELCOME10", percent=10)


async def _products(
    deps: Deps, location_id: LocationId, report: LoadReport, tell: Progress
) -> None:
    wanted = catalog.products()
    for start in range(0, len(wanted), PRODUCTS_BATCH):
        batch = wanted[start : start + PRODUCTS_BATCH]
        async with deps.begin() as uow:
            rows = await uow.session.execute(
                text("SELECT handle FROM product WHERE handle = ANY(:handles)"),
                {"handles": [product.handle for product in batch]},
            )
            there = set(rows.scalars())
            missing = [product for product in batch if product.handle not in there]
            saved = await catalog_import.save(uow, missing, CURRENCY, location_id)
        report.products += saved.created
        report.variants += sum(len(product.variants) for product in missing)
        tell("products", start + len(batch), len(wanted))


_RECEIVE = text("""
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, occurred_at)
    SELECT x.sku, x.location_id, 'receive', x.units, 0, 0, 'opening stock', :now
    FROM unnest(CAST(:skus AS text[]), CAST(:locations AS uuid[]), CAST(:units AS int[]))
        AS x(sku, location_id, units)
    JOIN variant v ON v.sku = x.sku
    WHERE NOT EXISTS (SELECT 1 FROM stock_level l
                      WHERE l.sku = x.sku AND l.location_id = x.location_id)
    ORDER BY x.sku, x.location_id
    RETURNING sku
""")
_REORDER = text("""
    UPDATE stock_level SET reorder_point = :point WHERE sku = ANY(:skus) AND reorder_point = 0
""")


def opening_stock() -> Iterator[tuple[str, str, int]]:
    """Yield (SKU, location code, units): most plenty, some scarce, a few sold out."""
    for product in catalog.products():
        for variant in product.variants:
            rng = Random(f"{catalog.SEED}/stock/{variant.sku}")
            luck = rng.random()
            if luck < 0.03:
                continue
            for code, _, _ in LOCATIONS:
                if luck < 0.08:
                    units = rng.randint(1, 3) if code == "GDN" else 0
                else:
                    most = {"HAM": 60, "ROT": 30, "GDN": 20}[code]
                    units = rng.randint(15 if code == "HAM" else 0, most)
                if units:
                    yield variant.sku, code, units


async def _stock(deps: Deps, locations: dict[str, LocationId], tell: Progress) -> None:
    wanted = list(opening_stock())
    size = 1000
    for start in range(0, len(wanted), size):
        batch = wanted[start : start + size]
        async with deps.begin() as uow:
            await uow.session.execute(_LOCK)
            received = await uow.session.execute(
                _RECEIVE,
                {
                    "skus": [sku for sku, _, _ in batch],
                    "locations": [locations[code] for _, code, _ in batch],
                    "units": [units for _, _, units in batch],
                    "now": uow.now - history.SPAN,
                },
            )
            skus = sorted(set(received.scalars()))
            await uow.session.execute(_REORDER, {"skus": skus, "point": REORDER_POINT})
        tell("stock", start + len(batch), len(wanted))


async def _people(deps: Deps, report: LoadReport) -> People:
    wanted = [*DEMO_USERS, *((email, name, "customer") for email, name in history.customers())]
    emails = [email for email, _, _ in wanted]
    query = text("SELECT email, id FROM app_user WHERE email = ANY(:emails)")
    async with deps.begin() as uow:
        there = {r.email for r in await uow.session.execute(query, {"emails": emails})}
    # One hash for all: they share the demo's password, and a hash costs a third of a second.
    password_hash = await security.hash_password(PASSWORD) if len(there) < len(emails) else ""
    async with deps.begin() as uow:
        await uow.session.execute(_LOCK)
        rows = [
            {
                "id": new_id(),
                "email": email,
                "name": name,
                "password_hash": password_hash,
                "role": role,
                "is_active": True,
                "created_at": uow.now - history.SPAN,
            }
            for email, name, role in wanted
            if email not in there
        ]
        await _insert(uow, User, rows)
        report.users = len(rows)
        found = await uow.session.execute(query, {"emails": emails})
        ids = {row.email: row.id for row in found}
    return People(ids=ids, names={email: name for email, name, _ in wanted})


async def _orders(
    deps: Deps, people: People, location_id: LocationId, report: LoadReport, tell: Progress
) -> None:
    async with deps.begin() as uow:
        rows = await uow.session.execute(text("SELECT handle, id FROM product"))
        product_ids = {row.handle: row.id for row in rows}
    sales = history.sales()
    for start in range(0, len(sales), ORDERS_BATCH):
        batch = sales[start : start + ORDERS_BATCH]
        async with deps.begin() as uow:
            await uow.session.execute(_LOCK)
            rows = await uow.session.execute(
                text("SELECT id FROM orders WHERE id = ANY(:ids)"),
                {"ids": [sale.order_id for sale in batch]},
            )
            there = set(rows.scalars())
            missing = [sale for sale in batch if sale.order_id not in there]
            tables = history.rows(missing, people, product_ids, location_id, uow.now)
            for model, values in tables:
                await _insert(uow, model, values)
            ids = [sale.order_id for sale in missing]
            await uow.session.execute(history.PUBLISHED, {"ids": ids, "now": uow.now})
            reactions = [handler.name for handler in handlers_of(OrderPlaced)]
            await uow.session.execute(history.HANDLED, {"ids": ids, "handlers": reactions})
        report.orders += len(missing)
        tell("orders", start + len(batch), len(sales))
