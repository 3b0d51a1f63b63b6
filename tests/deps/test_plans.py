"""Every statement that requests send, functions' own included, on tables of a few thousand rows:
none may read one of the growing tables from end to end.

The plans are those the server really used: `auto_explain` reports each to the connection that ran
it. The rows are copies of what one real sale left, so that the planner meets this schema's widths
and selectivities.
"""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import event

from api.app import create_app
from db.models.user import Role
from deps import postgres
from deps.core import Deps
from deps.hot import HotPool
from tests import factories

ROWS: Final = 6_000
GROWING: Final = (
    "product",
    "variant",
    "stock_item",
    "stock_level",
    "stock_movement",
    "orders",
    "payment",
    "payment_attempt",
    "reservation",
    "reservation_line",
    "outbox",
    "cart",
    "cart_line",
    "idempotency_key",
    "aggregate_counter",
)
REPORT: Final = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "client_min_messages": "notice",
}
# Copies of one row: fresh ids, unique columns made unique again, times spread over the past.
_COLUMNS: Final = """
    SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type,
           EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique
                     AND a.attnum = ANY(i.indkey))
               OR a.attname = 'sku' AS is_unique,
           EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conrelid = a.attrelid AND c.contype = 'c'
                     AND a.attnum = ANY(c.conkey)) AS is_checked
      FROM pg_attribute a
     WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
       AND a.attgenerated = '' AND a.attidentity = ''
"""


@dataclass
class Plans:
    """What the server said it did."""

    seen: list[dict[str, Any]] = field(default_factory=list)

    def heard(self, _: Any, message: Any) -> None:
        _, found, plan = str(message).partition("plan:\n")
        if found:
            self.seen.append(json.loads(plan))

    def scanned(self) -> set[str]:
        """Return `table: statement` for each growing table that was read from end to end."""
        return {
            f"{node['Relation Name']}: {' '.join(plan['Query Text'].split())[:300]}"
            for plan in self.seen
            for node in _nodes(plan["Plan"])
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING
        }


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


@pytest.fixture
def plans() -> Plans:
    return Plans()


@pytest.fixture
async def watched(deps: Deps, database_url: str, plans: Plans) -> AsyncGenerator[Deps, None]:
    """The same dependencies on connections that report their plans."""

    async def report(connection: Any) -> None:
        await postgres.set_json_codecs(connection)
        await connection.execute("LOAD 'auto_explain'")
        for name, value in REPORT.items():
            await connection.execute("SELECT set_config($1, $2, false)", name, value)
        connection.add_log_listener(plans.heard)

    engine = postgres.create_engine(database_url, deps.settings)

    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.run_async(report)

    parsed = postgres.normalise(database_url)
    _, address = parsed.get_dialect()().create_connect_args(parsed)
    server_settings = postgres.server_settings(deps.settings, "plans")
    # `setup`, not `init`: what is given back to a pool forgets its listeners and settings.
    pool = await asyncpg.create_pool(
        **address, min_size=0, max_size=4, setup=report, server_settings=server_settings
    )
    hot = HotPool(pool, "plans")
    yield replace(deps, db=postgres.session_factory(engine), hot=hot)
    await hot.aclose()
    await engine.dispose()


async def _copy(connection: "asyncpg.Connection[Any]", table: str) -> None:
    columns = await connection.fetch(_COLUMNS, table)
    values = []
    for name, type_, is_unique, is_checked in columns:
        value = f"r.{name}"
        if type_ == "uuid":
            value = f"CASE WHEN {value} IS NULL THEN NULL ELSE gen_random_uuid() END"
        elif is_unique and not is_checked and type_ in ("text", "character varying"):
            value = f"left({value}, 40) || '-' || g"
        elif is_unique and type_ in ("integer", "bigint"):
            value = f"{value} + g"
        elif type_ == "timestamp with time zone":
            value = f"{value} - g * interval '1 minute'"
        elif name == "price_amount":
            value = f"{value} + g"
        values.append(value)
    names = ", ".join(column["name"] for column in columns)
    await connection.execute(
        f"INSERT INTO {table} ({names}) SELECT {', '.join(values)}"
        f" FROM (SELECT * FROM {table} LIMIT 1) r, generate_series(1, {ROWS}) g"
    )


@pytest.fixture
async def grown(deps: Deps, database_url: str, client: httpx.AsyncClient) -> Deps:
    """A shop in which one real sale happened, six thousand times over."""
    await factories.product(deps, "MUG", category="kitchen", stock=50)
    await factories.placed_order(await factories.user(deps), MUG=2)
    headers = {"Idempotency-Key": "k-0"}
    assert (await client.post("/v1/carts", headers=headers)).status_code == 201
    async with deps.begin() as uow:
        await uow.fetch("UPDATE outbox SET published_at = now()")
    parsed = postgres.normalise(database_url)
    _, address = parsed.get_dialect()().create_connect_args(parsed)
    connection = await asyncpg.connect(**address)
    # Neither triggers nor foreign keys: the copies only have to be there.
    await connection.execute("SET session_replication_role = replica")
    for table in GROWING:
        await _copy(connection, table)
    # Variants belong to products, and the one that is looked at has its own few only.
    await connection.execute("""
        WITH p AS (SELECT id, row_number() OVER () AS n FROM product),
             v AS (SELECT sku, row_number() OVER () AS n FROM variant WHERE sku <> 'MUG')
        UPDATE variant SET product_id = p.id FROM p, v WHERE variant.sku = v.sku AND p.n = v.n
    """)
    await connection.execute("ANALYZE")
    for table in GROWING:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") > ROWS, table
    await connection.close()
    return deps


async def _browse(http: httpx.AsyncClient) -> None:
    for sort in ("newest", "title", "price", "-price"):
        page = (await http.get("/v1/products", params={"sort": sort})).json()
        assert len(page["items"]) == 24
        again = {"sort": sort, "cursor": page["next_cursor"]}
        assert len((await http.get("/v1/products", params=again)).json()["items"]) == 24
    for params in (
        {"category": "kitchen"},
        {"min_price_amount": 3000, "max_price_amount": 3100},
        {"in_stock": "true"},
        {"q": "mug-17"},
        {"q": "nothing of the kind"},
        {"q": "stonewear"},
    ):
        assert (await http.get("/v1/products", params=params)).status_code == 200
    for name in ("MUG", "mug-handle", str(uuid4())):
        assert (await http.get(f"/v1/products/{name}")).status_code in (200, 404)


async def _buy(http: httpx.AsyncClient) -> int:
    cart = f"/v1/carts/{(await http.post('/v1/carts')).json()['id']}"
    await http.post(f"{cart}/lines", json={"sku": "MUG", "quantity": 1})
    details = {
        "email": "ada@example.com",
        "shipping_address": factories.ADDRESS.model_dump(mode="json"),
        "shipping_method": "standard",
    }
    assert (await http.put(f"{cart}/details", json=details)).status_code == 200
    bought = await http.post(
        f"{cart}/complete",
        json={"payment_method": "tok_visa"},
        headers={"Idempotency-Key": uuid4().hex},
    )
    assert bought.status_code == 200, bought.text
    return int(bought.json()["number"])


# The pool warns that its connections are listened to, which is the point.
@pytest.mark.filterwarnings("ignore:.*active log listener")
async def test_no_request_reads_a_growing_table_from_end_to_end(
    grown: Deps, watched: Deps, plans: Plans
) -> None:
    app = create_app(grown.settings)
    app.state.deps = watched
    staff = factories.bearer(await factories.user(grown, role=Role.MERCHANT))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://test",
        headers={"X-Guest-Token": factories.GUEST_TOKEN},
    ) as http:
        await _browse(http)
        number = await _buy(http)
        for path in (f"/v1/orders/{number}", f"/v1/orders/{number}/timeline"):
            assert (await http.get(path)).status_code == 200
        for path in (
            "/v1/orders",
            f"/v1/orders/{number}/payments",
            "/v1/stock/MUG",
            "/v1/stock/MUG/movements",
        ):
            answer = await http.get(path, headers=staff)
            assert answer.status_code == 200, answer.text
    said = [plan["Query Text"] for plan in plans.seen]
    assert len(said) > 30
    assert any("INSERT INTO stock_movement" in sql for sql in said), "functions' statements too"
    assert plans.scanned() == set()


@pytest.mark.filterwarnings("ignore:.*active log listener")
async def test_scan_would_be_noticed(grown: Deps, watched: Deps, plans: Plans) -> None:
    await watched.hot.fetch("SELECT count(*) FROM product WHERE brand = 'x'")
    assert [line.partition(":")[0] for line in plans.scanned()] == ["product"]
