"""What SKUs cost: lists, one product, a reservation and a sale at ever more of them."""

import random
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from bench import load
from bench.growth import timing
from db.models.inventory import Location
from db.types import OrderId, new_id
from deps.core import SYSTEM, Deps
from tools import inventory, listing, product
from tools.listing import Filter

STOCK: Final = 1_000_000
BATCH: Final = 20_000
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
      FROM generate_series($1::int, $2::int) g JOIN product p ON p.handle = 'grown-' || g
"""
_MOVEMENTS: Final = """
    INSERT INTO stock_movement (sku, location_id, kind, on_hand_delta, reserved_delta,
                                allocated_delta, reason, occurred_at)
    SELECT 'GROWN-' || g, $3, 'receive', $4, 0, 0, 'growth', $5
      FROM generate_series($1::int, $2::int) g ORDER BY 1
"""


async def open_shop(staff: Deps) -> UUID:
    """Make the categories and the location that everything is at."""
    place = Location(code=load.LOCATION, name="Benchmark")
    async with staff.begin() as uow:
        uow.session.add(place)
        await uow.fetch(
            "INSERT INTO category (id, slug, name) SELECT uuidv7(), 'c-' || g, 'C ' || g"
            " FROM generate_series(1, 12) g"
        )
    return place.id


async def grow(staff: Deps, location_id: UUID, have: int, size: int) -> None:
    """Add SKUs, each with more stock than a run can sell, until there are `size`."""
    for first in range(have + 1, size + 1, BATCH):
        last = min(first + BATCH - 1, size)
        async with staff.begin() as uow:
            await uow.fetch("SET LOCAL statement_timeout = 0")
            await uow.fetch(_PRODUCTS, first, last, staff.settings.currency, uow.now)
            await uow.fetch(_VARIANTS, first, last)
            await uow.fetch(_MOVEMENTS, first, last, location_id, STOCK, uow.now)
    async with staff.begin() as uow:
        await uow.fetch("SET LOCAL statement_timeout = 0")
        await uow.fetch("ANALYZE")


async def measure(deps: Deps, size: int) -> dict[str, float]:
    """Return the median of each operation in milliseconds."""
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
        "common_word": lambda: listing.find(work, Filter(query="mug")),
        "misspelt": lambda: listing.find(work, Filter(query="blankt")),
        "categories": lambda: product.read_categories(work),
        "detail": lambda: product.read(work, sku()),
        "reserve": reserve,
    }
    found = {name: await timing.p50_ms(run) for name, run in costs.items()}
    return {**found, "place": await timing.place_ms(deps, size)}
