"""What size costs: lists, one product, a reservation and a sale at ever more SKUs.

Example: ./shopkeeper bench growth --sizes 1000,100000,1000000

Nothing is cached: each figure is one operation asking PostgreSQL, one after the other, in
milliseconds. What should not grow is what a shopper waits for; a word that a thousandth of the
titles share has a thousandth of the shop to rank.
"""

import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from bench import load
from db.models.inventory import Location
from db.types import OrderId, new_id
from deps.core import ROLE_SCOPES, SYSTEM, Actor, Deps
from tools import cart, checkout, inventory, listing, product
from tools.address import Address
from tools.listing import Filter

SLOW: Final = True
SIZES: Final = "1000,100000"
RUNS: Final = 60
STOCK: Final = 1_000_000
ADDRESS: Final = Address(
    name="Ada Lovelace",
    line1="12 Quay Street",
    city="Hamburg",
    postal_code="20457",
    country_code="DE",
)
_PRODUCTS: Final = """
    INSERT INTO product (id, handle, title, description, brand, category_id, attributes, tags,
                         status, sku, price_amount, currency, variant_count, created_at, updated_at)
    SELECT uuidv7(), 'grown-' || g,
           (ARRAY['Mug','Board','Apron','Lamp','Blanket','Kettle','Basket'])[1 + g % 7]
               || ' series' || g % 1000 || ' No. ' || g,
           'Made for measuring.', 'Brand ' || g % 50, c.ids[1 + g % 12], '{}', '', 'active',
           'GROWN-' || g, 500 + (g * 7919::bigint) % 20000, $3, 1, $4, $4
      FROM generate_series($1::int, $2::int) g,
           (SELECT array_agg(id ORDER BY slug) AS ids FROM category) c
"""
_VARIANTS: Final = """
    INSERT INTO variant (sku, product_id, title, options, price_amount, currency, is_active,
                         position)
    SELECT p.sku, p.id, '', '{}', p.price_amount, p.currency, true, 0
      FROM product p WHERE p.handle LIKE 'grown-%'
       AND NOT EXISTS (SELECT 1 FROM variant v WHERE v.sku = p.sku)
"""
_MOVEMENTS: Final = """
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, occurred_at)
    SELECT v.sku, $1, 'receive', $2, 0, 0, 'growth', $3 FROM variant v
     WHERE NOT EXISTS (SELECT 1 FROM stock_item i WHERE i.sku = v.sku)
     ORDER BY v.sku LIMIT $4
"""


async def main(deps: Deps, *, sizes: str = SIZES, as_json: bool = False) -> int:
    """Grow the shop size by size and measure each. Return 1 for a bad list of sizes."""
    try:
        steps = sorted(int(size) for size in sizes.split(","))
    except ValueError:
        sys.stderr.write("--sizes is a list of whole numbers, as in 1000,100000\n")
        return 1
    staff = deps.acting_as(SYSTEM)
    location_id = await _open(staff)
    rows: list[dict[str, Any]] = []
    have = 0
    for size in steps:
        await _grow(staff, location_id, have, size)
        have = size
        rows.append({"skus": size, **await _measure(deps, size)})
    sys.stdout.write(orjson.dumps({"sizes": rows}).decode() + "\n" if as_json else _table(rows))
    return 0


async def _open(staff: Deps) -> Any:
    place = Location(code=load.LOCATION, name="Benchmark")
    async with staff.begin() as uow:
        uow.session.add(place)
        await uow.fetch(
            "INSERT INTO category (id, slug, name) SELECT uuidv7(), 'c-' || g, 'C ' || g"
            " FROM generate_series(1, 12) g"
        )
    return place.id


async def _grow(staff: Deps, location_id: Any, have: int, size: int) -> None:
    batch = 20_000
    for first in range(have + 1, size + 1, batch):
        last = min(first + batch - 1, size)
        async with staff.begin() as uow:
            await uow.fetch("SET LOCAL statement_timeout = 0")
            await uow.fetch(_PRODUCTS, first, last, staff.settings.currency, uow.now)
            await uow.fetch(_VARIANTS)
            await uow.fetch(_MOVEMENTS, location_id, STOCK, uow.now, batch)
    async with staff.begin() as uow:
        await uow.fetch("SET LOCAL statement_timeout = 0")
        await uow.fetch("ANALYZE")


async def _measure(deps: Deps, size: int) -> dict[str, float]:
    work = deps.hot_work()
    middle = await listing.find(work, Filter(sort="price", min_price_amount=10_000))

    def sku() -> str:
        return f"GROWN-{random.randint(1, size)}"

    async def reserve() -> None:
        async with deps.acting_as(SYSTEM).begin() as uow:
            units = {name: 1 for name in {sku(), sku()}}
            await inventory.reserve(uow, order_id=OrderId(new_id()), units=units)

    costs: dict[str, Callable[[], Awaitable[Any]]] = {
        "newest": lambda: listing.find(work, Filter()),
        "by_price": lambda: listing.find(work, Filter(sort="price")),
        "deep_page": lambda: listing.find(work, Filter(sort="price", cursor=middle.next_cursor)),
        "category": lambda: listing.find(work, Filter(category=f"c-{random.randint(1, 12)}")),
        "search": lambda: listing.find(work, Filter(query=f"mug series{random.randint(0, 999)}")),
        "detail": lambda: product.read(work, sku()),
        "reserve": reserve,
    }
    found = {name: await _p50_ms(run) for name, run in costs.items()}
    return {**found, "place": await _place_ms(deps, sku)}


async def _p50_ms(run: Callable[[], Awaitable[Any]]) -> float:
    samples = load.Samples()
    for _ in range(5):
        await run()
    for _ in range(RUNS):
        with samples.measure():
            await run()
    return samples.percentile_ms(50)


async def _place_ms(deps: Deps, sku: Callable[[], str]) -> float:
    samples = load.Samples()
    deps = deps.acting_as(Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256="growth"))
    for _ in range(RUNS // 2):
        async with deps.begin() as uow:
            opened = await cart.create(uow)
            for name in {sku(), sku()}:
                await cart.add(uow, opened.id, name, 1)
            await cart.set_details(
                uow,
                opened.id,
                email="shopper@example.com",
                shipping_address=ADDRESS,
                shipping_method="standard",
            )
        with samples.measure():
            await checkout.complete(deps, opened.id, payment_method="tok_visa")
    return samples.percentile_ms(50)


def _table(rows: list[dict[str, Any]]) -> str:
    return load.table(rows) + "milliseconds at the median, one at a time, uncached\n"
