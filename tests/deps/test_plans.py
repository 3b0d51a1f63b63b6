"""Every statement that requests send, functions' own included, in a shop where everything happened
thousands of times: none may read much of a table that grows with use.

Requests are every operation that reads, with every filter, every order and the page after, as REST
runs it and as an agent does; and what people do: look, buy, change, send back, talk, approve. The
plans are those the server really used: `auto_explain` reports each, with the rows it read, to
the connection that ran it.
"""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import event

from api import chat
from api.app import create_app
from deps import postgres
from deps.core import Deps
from deps.hot import HotPool
from tests import factories, grown
from tests.grown import GROWING, ROWS, Grown
from tests.tools.synthesis import Things, refers, value_of
from tools import arguments as argument_json
from tools.errors import DomainError
from tools.registry import OPERATIONS, Operation, Risk
from tools.surface import load_operations

load_operations()

# A page, what stands beside it, and the month of a report; a walk past all the rest is far more.
READ_MAX: Final = ROWS // 4
REPORT: Final = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "client_min_messages": "notice",
}


# What filters are about, where their names do not say it.
TEXTS: Final = {
    "code": "SALE",
    "target": "ROT",
    "location_code": "HAM",
    "sku_prefix": "MUG",
    "provider": "scripted",
    "template": "order_confirmation",
}


@dataclass
class Plans:
    """What the server said it did."""

    seen: list[dict[str, Any]] = field(default_factory=list)

    def heard(self, _: Any, message: Any) -> None:
        _, found, plan = str(message).partition("plan:\n")
        if found:
            self.seen.append(json.loads(plan))

    def wide(self) -> set[str]:
        """Return `table, rows: statement` for each that read much of a growing table."""
        return {
            f"{node['Relation Name']}, {rows}: {' '.join(plan['Query Text'].split())[:400]}"
            for plan in self.seen
            for node in _nodes(plan["Plan"])
            if node.get("Relation Name") in GROWING and (rows := _rows(node)) > READ_MAX
        }


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _rows(node: dict[str, Any]) -> int:
    """How many rows a node looked at, those it threw away included."""
    each = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return int((each + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"])


@pytest.fixture
def plans() -> Plans:
    return Plans()


@pytest.fixture
async def shop(deps: Deps, database_url: str, client: httpx.AsyncClient) -> Grown:
    return await grown.grow(deps, database_url, client)


@pytest.fixture
async def watched(
    shop: Grown, deps: Deps, database_url: str, plans: Plans
) -> AsyncGenerator[Deps, None]:
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


# The pool warns that its connections are listened to, which is the point.
pytestmark = pytest.mark.filterwarnings("ignore:.*active log listener")


@pytest.mark.slow
async def test_what_is_read_does_not_grow_with_the_shop(
    shop: Grown, watched: Deps, plans: Plans
) -> None:
    """Every operation that reads, as people and as their agents."""
    things = Things(shop.ids, shop.numbers, ("ada@example.com",))
    things = replace(things, texts={**things.texts, **TEXTS})
    of_set = replace(things, texts={**things.texts, "sku": "SET"})
    everybody = (shop.staff, shop.customer, shop.guest, shop.newcomer, shop.stranger)
    people = [watched.acting_as(who.actor) for who in everybody]
    ran: dict[str, int] = {}
    for operation in OPERATIONS.values():
        if operation.risk is not Risk.READ or operation.is_process:
            continue
        given_all = list(_arguments(operation, things))
        if "sku" in operation.parameters:
            given_all += [g for g in _arguments(operation, of_set) if g not in given_all]
        for given in given_all:
            for who in people:
                if not who.actor.may(operation.scope):
                    continue
                answered = await _read(who, operation, given)
                # What somebody does not see, no agent of theirs does.
                if answered:
                    answered += await _read(replace(who, as_agent=True), operation, given)
                ran[operation.key] = ran.get(operation.key, 0) + answered
    assert len(ran) > 50
    assert [key for key, times in ran.items() if not times] == [], "never answered"
    assert len(plans.seen) > 1000
    assert not plans.wide(), "\n".join(sorted(plans.wide()))


def _arguments(operation: Operation, things: Things) -> Iterator[dict[str, Any]]:
    """Yield what is required, with each thing it can be about; then each optional one besides."""
    hints = get_type_hints(operation.run, include_extras=True)
    optional = [name for name, p in operation.parameters.items() if p.default is not p.empty]
    required = [name for name in operation.parameters if name not in optional]
    widest = len(things.ids) if any(refers(hints[name], name) for name in required) else 1
    seen: list[dict[str, Any]] = []
    for index in range(widest):
        given = {name: value_of(hints[name], name, things, index) for name in required}
        if given in seen:
            continue
        seen.append(given)
        yield given
        if index:
            continue
        for name in optional:
            if name not in ("cursor", "limit"):
                for value in _choices(hints[name], name, things):
                    yield given | {name: value}


def _choices(hint: Any, name: str, things: Things) -> list[Any]:
    if get_origin(hint) in (Union, UnionType):
        hint = next(inner for inner in get_args(hint) if inner is not type(None))
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return list(hint)
    if hint is bool:
        return [True, False]
    return [value_of(hint, name, things, 0)]


async def _read(deps: Deps, operation: Operation, given: dict[str, Any]) -> int:
    """Run an operation, and again for the page after; return whether it answered."""
    arguments = argument_json.parse(operation, argument_json.dump(given))
    try:
        async with deps.begin() as uow:
            page = await operation.run(uow, **arguments)
            cursor = getattr(page, "next_cursor", None)
            if cursor is not None:
                await operation.run(uow, **(arguments | {"cursor": cursor}))
    except DomainError:
        return 0
    return 1


async def test_what_people_do_does_not_grow_with_the_shop(
    shop: Grown, watched: Deps, plans: Plans
) -> None:
    """Over HTTP: browse, buy, pay with credit, change, send back, get money back, talk, approve."""
    app = create_app(watched.settings)
    app.state.deps = watched
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://test",
        headers={"X-Guest-Token": factories.GUEST_TOKEN},
    ) as http:
        await _browse(http)
        await _buy(http)
        customer, staff = factories.bearer(shop.customer), factories.bearer(shop.staff)
        number = await _after_the_sale(http, customer, staff)
        for who in ({}, customer, staff):
            await _talk(http, who)
        traced = await http.get("/v1/provenance", params={"number": number}, headers=staff)
        assert traced.json()["events"]
        await chat.close(app)
    said = [plan["Query Text"] for plan in plans.seen]
    assert any("INSERT INTO stock_movement" in sql for sql in said), "functions' statements too"
    for table in ("refund_part", "order_return_line", "chat_event", "pending_action", "agent_call"):
        assert any(table in sql for sql in said), table
    assert not plans.wide(), "\n".join(sorted(plans.wide()))
    await _walk_and_scan(watched)
    assert sorted(line.partition(",")[0] for line in plans.wide()) == ["product", "refund"]


async def _walk_and_scan(watched: Deps) -> None:
    """Do what would have been noticed."""
    await watched.hot.fetch("SELECT count(*) FROM product WHERE brand = 'x'")
    await watched.hot.fetch(
        "SELECT id FROM refund WHERE reason = 'x' ORDER BY created_at, id LIMIT 1"
    )


async def _browse(http: httpx.AsyncClient) -> None:
    for sort in ("newest", "title", "price", "-price"):
        page = (await http.get("/v1/products", params={"sort": sort})).json()
        assert len(page["items"]) == 24
        again = {"sort": sort, "cursor": page["next_cursor"]}
        assert len((await http.get("/v1/products", params=again)).json()["items"]) == 24
    searches: tuple[dict[str, str], ...] = (
        {"category": "gifts"},
        {"category": "gifts", "sort": "title"},
        {"category": "gifts", "sort": "price"},
        {"min_price_amount": "9000", "max_price_amount": "9100"},
        {"in_stock": "true"},
        {"q": "mug-17"},
        {"q": "nothing of the kind"},
        # A word that every product has, spelt right and wrong, in every order and narrowed.
        {"q": "lamp"},
        {"q": "lamo"},
        {"q": "desk lamp"},
        {"q": "lamp", "sort": "price"},
        {"q": "lamp", "sort": "newest", "max_price_amount": "9000"},
        {"q": "lamp", "category": "gifts"},
    )
    for params in searches:
        assert (await http.get("/v1/products", params=params)).status_code == 200
    for name in ("MUG", "mug-handle", str(uuid4())):
        assert (await http.get(f"/v1/products/{name}")).status_code in (200, 404)
    assert (await http.get("/v1/categories")).status_code == 200


async def _post(
    http: httpx.AsyncClient, path: str, body: Any, headers: dict[str, str] | None = None
) -> Any:
    key = {"Idempotency-Key": uuid4().hex}
    answer = await http.post(path, json=body, headers={**(headers or {}), **key})
    assert answer.status_code in (200, 201), f"{path}: {answer.text}"
    return answer.json()


async def _buy(http: httpx.AsyncClient, headers: dict[str, str] | None = None) -> int:
    cart = f"/v1/carts/{(await _post(http, '/v1/carts', None, headers))['id']}"
    for sku in ("MUG", "LAMP-STEEL"):
        await _post(http, f"{cart}/lines", {"sku": sku, "quantity": 1}, headers)
    details = {
        "email": "ada@example.com",
        "shipping_address": factories.ADDRESS.model_dump(mode="json"),
        "shipping_method": "standard",
    }
    described = await http.put(f"{cart}/details", json=details, headers=headers)
    assert described.status_code == 200
    for path in (f"{cart}/credit", "/v1/carts/current", cart):
        assert (await http.get(path, headers=headers)).status_code == 200, path
    paid = {"payment_method": "tok_visa"}
    return int((await _post(http, f"{cart}/complete", paid, headers))["number"])


async def _after_the_sale(
    http: httpx.AsyncClient, customer: dict[str, str], staff: dict[str, str]
) -> int:
    """Return the number of the order that was changed, refunded, delivered and sent back."""
    number = await _buy(http, customer)
    path = f"/v1/orders/{number}"
    [method] = (await http.get("/v1/me/payment-methods", headers=customer)).json()
    oak = [{"sku": "LAMP-STEEL", "new_sku": "LAMP-OAK"}]
    edited = {"changes": oak, "payment_method": method["id"]}
    await _post(http, f"{path}/edits", edited, customer)
    await _post(http, f"{path}/refunds", {"amount": 100, "reason": "late"}, staff)
    await _post(http, f"{path}/ship", {"tracking_number": "T-9"}, staff)
    await _post(http, f"{path}/deliver", None, staff)
    back = {"lines": [{"sku": "LAMP-OAK"}], "payment_method": method["id"]}
    asked = await _post(http, f"{path}/returns", back, customer)
    await _post(http, f"/v1/returns/{asked['id']}/receive", {}, staff)
    other = await _buy(http, customer)
    await _post(http, f"/v1/orders/{other}/cancel", {"reason": "twice"}, staff)
    return number


async def _talk(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    conversation_id = None
    for text in ("do you have a desk lamp?", "show my orders", "add a mug to my cart", "check out"):
        body = {"text": text, "conversation_id": conversation_id}
        said = await http.post("/v1/chat", json=body, headers=headers)
        assert said.status_code == 200, said.text
        conversation_id = json.loads(said.text.partition("data: ")[2].partition("\n")[0])["id"]
    for path in (
        f"/v1/chat/{conversation_id}",
        f"/v1/conversations/{conversation_id}",
        "/v1/conversations",
        "/v1/conversations?q=lamp",
        "/v1/actions",
    ):
        answer = await http.get(path, headers=headers)
        assert answer.status_code == 200, f"{path}: {answer.text}"
    for waiting in (await http.get("/v1/actions", headers=headers)).json():
        await http.post(f"/v1/actions/{waiting['id']}/approve", headers=headers)
