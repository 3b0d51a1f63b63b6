"""The catalogue's pages as bytes: what most requests of a shop ask for, made once for everybody.

For those who see what shoppers see. Staff see drafts too, and read live. A change of price or
publication is seen by the next read of the process that made it and within `VERSION_S` in the
others; stock figures are at most five seconds old (`deps.cache.LIFETIMES_S`). Carts and checkout
never read here: they price and promise from the database.
"""

from typing import Final

import orjson
from pydantic import TypeAdapter

from deps.cache import Body
from deps.core import Deps
from tools import listing, product
from tools.listing import Filter
from tools.product import CategoryView

TAG: Final = "catalog"
_CATEGORIES: Final = TypeAdapter(list[CategoryView])


async def find(deps: Deps, wanted: Filter) -> Body:
    """Return a page of products. Raises as `listing.find`."""
    wanted = wanted.checked()

    async def load() -> bytes:
        page = await listing.find(deps.hot_work(), wanted)
        return page.model_dump_json().encode()

    return await deps.cache.body(TAG, "search", _key(wanted), load)


async def read(deps: Deps, handle_or_sku: str) -> Body:
    """Return one product. Raises as `product.read`."""

    async def load() -> bytes:
        found = await product.read(deps.hot_work(), handle_or_sku)
        return found.model_dump_json().encode()

    return await deps.cache.body(TAG, "product", handle_or_sku, load)


async def categories(deps: Deps) -> Body:
    """Return the categories with how many products each has on sale."""

    async def load() -> bytes:
        return _CATEGORIES.dump_json(await product.read_categories(deps.hot_work()))

    return await deps.cache.body(TAG, "category", "", load)


def _key(wanted: Filter) -> str:
    return orjson.dumps(wanted).decode()
