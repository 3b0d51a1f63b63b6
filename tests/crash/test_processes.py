"""Races over HTTP against two web processes: the counters, the codes and the audit must agree."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any
from uuid import uuid4

import orjson
import pytest

from bench import load
from deps import postgres
from deps.core import SYSTEM, Deps
from deps.embedded_postgres import EmbeddedPostgres
from deps.embedded_valkey import EmbeddedValkey
from deps.runtime import open_deps
from deps.settings import Settings
from tests import factories
from tools import invariant

pytestmark = pytest.mark.slow

DETAILS = {
    "email": "ada@example.com",
    "shipping_address": factories.ADDRESS.model_dump(),
    "shipping_method": "standard",
}


@pytest.fixture(scope="module")
async def deps(
    server: EmbeddedPostgres, template: str, valkey: EmbeddedValkey
) -> AsyncGenerator[Deps, None]:
    """One shop for the whole module, since two web processes take seconds to start."""
    url = server.dsn(f"processes_{uuid4().hex}")
    await postgres.clone_database(url, template)
    # For the web processes too, which read their settings from here: nothing is given up because
    # the machine is busy with other things.
    with pytest.MonkeyPatch.context() as patience:
        for name in ("STATEMENT_TIMEOUT_MS", "LOCK_TIMEOUT_MS", "REQUEST_TIMEOUT_S"):
            patience.setenv(f"SHOPKEEPER_{name}", "120000")
        settings = Settings(_env_file=None, rate_limits=False)
        async with open_deps(settings, database_url=url, redis_url=valkey.url) as opened:
            yield opened
    await postgres.drop_database(url)


@pytest.fixture(scope="module")
async def shop(deps: Deps) -> AsyncGenerator[load.Shop, None]:
    async with load.serve(deps, workers=2) as running:
        yield running


async def _cart(shop: load.Shop, guest: dict[str, str], *lines: tuple[str, int]) -> str:
    status, body = await shop.client.request("POST", "/v1/carts", guest)
    assert status == 201, body
    path = f"/v1/carts/{orjson.loads(body)['id']}"
    for sku, quantity in lines:
        status, body = await shop.client.request(
            "POST", f"{path}/lines", guest, {"sku": sku, "quantity": quantity}
        )
        assert status == 200, body
    status, body = await shop.client.request("PUT", f"{path}/details", guest, DETAILS)
    assert status == 200, body
    return path


async def _pay(
    shop: load.Shop, guest: dict[str, str], cart: str, key: str = ""
) -> tuple[int, dict[str, Any]]:
    status, body = await shop.client.request(
        "POST",
        f"{cart}/complete",
        {**guest, "Idempotency-Key": key or uuid4().hex},
        {"payment_method": "tok_visa"},
    )
    return status, orjson.loads(body)


def _guest() -> dict[str, str]:
    return {"X-Guest-Token": uuid4().hex * 2}


async def test_two_hundred_buyers_of_fifty_units(deps: Deps, shop: load.Shop) -> None:
    await factories.product(deps, "LAST", stock=50)
    buyers = [_guest() for _ in range(200)]
    carts = await asyncio.gather(*(_cart(shop, guest, ("LAST", 1)) for guest in buyers))
    answers = await asyncio.gather(
        *(_pay(shop, guest, cart) for guest, cart in zip(buyers, carts, strict=True))
    )
    assert Counter(status for status, _ in answers) == {200: 50, 409: 150}
    assert {body["code"] for status, body in answers if status == 409} == {"out_of_stock"}
    assert len({body["number"] for status, body in answers if status == 200}) == 50
    assert await invariant.check(deps) == []


async def test_baskets_in_opposite_order(deps: Deps, shop: load.Shop) -> None:
    for sku in ("MUG", "TEA", "JAR"):
        await factories.product(deps, sku, stock=1000)
    buyers = [_guest() for _ in range(60)]
    lines = [("JAR", 1), ("MUG", 2), ("TEA", 1)]
    carts = await asyncio.gather(
        *(
            _cart(shop, guest, *(lines if number % 2 else reversed(lines)))
            for number, guest in enumerate(buyers)
        )
    )
    answers = await asyncio.gather(
        *(_pay(shop, guest, cart) for guest, cart in zip(buyers, carts, strict=True))
    )
    assert Counter(status for status, _ in answers) == {200: 60}
    assert await invariant.check(deps) == []


async def test_one_cart_bought_fifty_times_at_once(deps: Deps, shop: load.Shop) -> None:
    await factories.product(deps, "ONE", stock=50)
    guest = _guest()
    cart = await _cart(shop, guest, ("ONE", 1))
    answers = await asyncio.gather(*(_pay(shop, guest, cart) for _ in range(50)))
    assert Counter(status for status, _ in answers) == {200: 50}
    assert all(body == answers[0][1] for _, body in answers)
    placed = await deps.hot.fetchval(
        "SELECT count(*) FROM orders WHERE cart_id = $1", cart.rpartition("/")[2]
    )
    assert placed == 1
    assert await invariant.check(deps) == []


async def test_a_code_for_twenty_orders_and_sixty_buyers(deps: Deps, shop: load.Shop) -> None:
    await factories.product(deps, "GIFT", stock=100)
    await factories.discount(deps.acting_as(SYSTEM), "TWENTY", percent=25, uses_max=20)
    buyers = [_guest() for _ in range(60)]
    carts = await asyncio.gather(*(_cart(shop, guest, ("GIFT", 1)) for guest in buyers))
    for guest, cart in zip(buyers, carts, strict=True):
        status, body = await shop.client.request(
            "PUT", f"{cart}/discount", guest, {"code": "twenty"}
        )
        assert status == 200, body
    answers = await asyncio.gather(
        *(_pay(shop, guest, cart) for guest, cart in zip(buyers, carts, strict=True))
    )
    assert Counter(status for status, _ in answers) == {200: 20, 409: 40}
    assert {body["code"] for status, body in answers if status == 409} == {"checkout_incomplete"}
    assert {body["discount_code"] for status, body in answers if status == 200} == {"TWENTY"}
    assert await deps.hot.fetchval("SELECT uses FROM discount") == 20
    assert await invariant.check(deps) == []
