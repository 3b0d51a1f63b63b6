"""The catalogue over HTTP: what is served from memory, how fresh it is, and without Redis."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from redis.asyncio import Redis

from api.app import create_app
from db.models.product import ProductStatus
from deps import cache as caching
from deps.bus import RedisStreamBus
from deps.cache import READS, Cache
from deps.core import Deps
from tests import factories
from tools import delivery, product
from tools.listing import ProductCard
from tools.page import Page
from tools.product import ProductInput, ProductView, VariantInput


@pytest.fixture(autouse=True)
def nothing_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is so for longer than a test takes on a busy machine."""
    for kind in ("category", "product", "search"):
        monkeypatch.setitem(caching.LIFETIMES_S, kind, 600.0)


@asynccontextmanager
async def _process(deps: Deps) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Another web process on the same servers: its own memory, the same Redis and database."""
    redis = deps.cache.redis
    app = create_app(deps.settings)
    app.state.deps = replace(deps, cache=Cache(redis))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://test"
    ) as http:
        yield http


def _reads(kind: str, source: str) -> float:
    return float(READS.labels(kind, source)._value.get())


async def _price(http: httpx.AsyncClient) -> int:
    listed = (await http.get("/v1/products")).json()["items"][0]["price_amount"]
    shown = (await http.get("/v1/products/mug-handle")).json()["variants"][0]["price_amount"]
    assert listed == shown
    return int(shown)


async def _put(
    http: httpx.AsyncClient,
    staff: Deps,
    *,
    price: int = 1250,
    status: ProductStatus = ProductStatus.ACTIVE,
) -> None:
    variant = VariantInput(sku="MUG", price_amount=price, currency="EUR")
    body = ProductInput(handle="mug-handle", title="Mug", status=status, variants=[variant])
    answer = await http.put(
        "/v1/products/mug-handle",
        json=body.model_dump(mode="json"),
        headers=factories.bearer(staff),
    )
    assert answer.status_code == 200, answer.text


async def test_second_read_comes_from_memory_and_is_the_same(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    await factories.product(deps, "MUG", category="kitchen")
    for path, kind, model in (
        ("/v1/products?limit=5", "search", Page[ProductCard]),
        ("/v1/products/MUG", "product", ProductView),
        ("/v1/categories", "category", None),
    ):
        first = await client.get(path)
        before = _reads(kind, "process")
        second = await client.get(path)
        assert _reads(kind, "process") == before + 1
        assert second.content == first.content
        assert second.headers["etag"] == first.headers["etag"]
        assert second.headers["cache-control"] == "private, no-cache"
        if model is not None:
            assert model.model_validate_json(first.content).model_dump_json() == first.text
        known = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (known.status_code, known.content) == (304, b"")


async def test_change_of_price_is_seen_at_once_here_and_soon_everywhere(
    client: httpx.AsyncClient, deps: Deps, merchant: Deps
) -> None:
    await factories.product(deps, "MUG", price=1250)
    async with _process(deps) as neighbour:
        assert await _price(client) == await _price(neighbour) == 1250
        await _put(client, merchant, price=990)
        assert await _price(client) == 990
        await asyncio.sleep(caching.VERSION_S + 0.05)
        assert await _price(neighbour) == 990


async def test_withdrawn_product_is_gone_for_shoppers_and_live_for_staff(
    client: httpx.AsyncClient, deps: Deps, merchant: Deps
) -> None:
    await factories.product(deps, "MUG")
    assert (await client.get("/v1/products/MUG")).status_code == 200
    await _put(client, merchant, status=ProductStatus.DRAFT)
    assert (await client.get("/v1/products/MUG")).status_code == 404
    assert (await client.get("/v1/products")).json()["items"] == []
    as_staff = await client.get("/v1/products/MUG", headers=factories.bearer(merchant))
    assert (as_staff.status_code, as_staff.json()["status"]) == (200, "draft")


async def test_process_that_died_before_it_forgot_is_followed_by_the_relay(
    client: httpx.AsyncClient, deps: Deps, redis: Redis, merchant: Deps
) -> None:
    await factories.product(deps, "MUG", price=1250)
    assert await _price(client) == 1250
    # Committed with the event, and nobody told the cache.
    silent = replace(merchant, cache=Cache(None))
    async with silent.begin() as uow:
        variant = VariantInput(sku="MUG", price_amount=990, currency="EUR")
        given = ProductInput(handle="mug-handle", title="Mug", variants=[variant])
        await product.save(uow, given)
    assert await _price(client) == 1250
    bus = RedisStreamBus.beside(redis, "events")
    await delivery.relay_once(deps, bus)
    await bus.aclose()
    assert await _price(client) == 990


async def test_stock_figures_have_a_greatest_age(
    client: httpx.AsyncClient, deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def shown(sku: str) -> int:
        return int((await client.get(f"/v1/products/{sku}")).json()["variants"][0]["available"])

    for sku in ("MUG", "CUP"):
        await factories.product(deps, sku, stock=4)
    for sku, lifetime_s in (("MUG", 600.0), ("CUP", 0.2)):
        monkeypatch.setitem(caching.LIFETIMES_S, "product", lifetime_s)
        assert await shown(sku) == 4
        await factories.receive(deps, sku, 3)
    await asyncio.sleep(0.25)
    assert (await shown("MUG"), await shown("CUP")) == (4, 7)


async def test_without_redis_a_process_remembers_by_itself(
    deps: Deps, merchant: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "ALONE_S", 30.0)
    alone = replace(deps, cache=Cache(None))
    await factories.product(alone, "MUG", price=1250)
    async with _process(alone) as http:
        assert await _price(http) == 1250
        before = _reads("product", "process")
        assert await _price(http) == 1250
        assert _reads("product", "process") == before + 1
        await _put(http, merchant, price=990)
        assert await _price(http) == 990


async def test_without_redis_others_are_followed_when_memory_ends(
    deps: Deps, merchant: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "ALONE_S", 0.2)
    alone = replace(deps, cache=Cache(None))
    await factories.product(alone, "MUG", price=1250)
    async with _process(alone) as http, _process(alone) as neighbour:
        assert await _price(neighbour) == 1250
        await _put(http, merchant, price=990)
        await asyncio.sleep(0.25)
        assert await _price(neighbour) == 990


async def test_nine_reads_of_ten_are_hits(client: httpx.AsyncClient, deps: Deps) -> None:
    for number in range(5):
        await factories.product(deps, f"MUG-{number}")
    before = {source: _reads("product", source) for source in ("process", "redis", "loaded")}
    for _ in range(20):
        for number in range(5):
            assert (await client.get(f"/v1/products/MUG-{number}")).status_code == 200
    read = {source: _reads("product", source) - before[source] for source in before}
    assert read["loaded"] == 5
    assert read["process"] / sum(read.values()) > 0.9
    scraped = (await client.get("/metrics")).text
    assert 'cache_reads_total{kind="product",source="process"}' in scraped


async def test_cart_prices_from_the_database_whatever_the_page_says(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    await factories.product(deps, "MUG", price=1250)
    assert await _price(client) == 1250
    await deps.hot.execute("UPDATE variant SET price_amount = 990")
    cart = (await client.post("/v1/carts")).json()["id"]
    line = {"sku": "MUG", "quantity": 1}
    filled = (await client.post(f"/v1/carts/{cart}/lines", json=line)).json()
    assert filled["subtotal_amount"] == 990
