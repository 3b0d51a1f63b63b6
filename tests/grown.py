"""A shop in which one of everything happened, thousands of times over.

What one person did, and staff about it, happens through the operations; tables that this leaves
empty get a row made from their columns. Then every table that grows with use gets copies of its
row. Copies belong together as the rows do, a copy of an order having the copies of its lines, and
their states vary, so that the planner meets this schema's widths, selectivities and joins.
"""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
from sqlalchemy import CheckConstraint, Column, Enum, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

from db.models import metadata
from db.models.user import Role
from db.types import new_id
from deps.core import SYSTEM, Deps
from tests import aftersales as shop
from tests import factories
from tests.databases import connect
from tools import (
    address,
    bundle,
    checkout,
    credit_code,
    credit_desk,
    credit_tender,
    exchange,
    handover,
    ledger,
    order_edit,
    promotion,
    refund_desk,
    return_,
    stock_count,
    stock_ledger,
    transfer,
)
from tools.line_change import LineChange, LineRequest

ROWS: Final = 4_000
# A copy is so much older than the one before: the past is half a year.
APART: Final = "interval '1 hour'"
# What does not grow with use, but with what staff set up, with days, or with the language.
SMALL: Final = frozenset({
    "aftersales_policy", "category", "catalog_change", "event_checkpoint", "ledger_closing",
    "ledger_day", "location", "postal_area", "search_word", "stock_rule", "stock_snapshot_day",
})  # fmt: skip
# What another refers to comes first.
GROWING: Final = tuple(
    table.name
    for table in metadata.sorted_tables
    if table.name not in SMALL and not table.info.get("is_view")
)
# The id of a hold is that of its order.
_SAME_ID: Final = {"reservation": "orders"}
# Every other one is a guest's.
_OWNERS: Final = {
    "cart": ("customer_id", "secret_sha256"),
    "orders": ("customer_id", "guest_secret_sha256"),
    "conversation": ("user_id", "secret_sha256"),
    "handover": ("user_id", "secret_sha256"),
}
# What most have come to, where that is not the last of the states there are: carts are left.
_MOSTLY: Final = {"cart": "open"}
# Few in any shop, however many rows name them.
_FEW: Final = frozenset({"provider", "currency", "account", "operation", "template", "type"})


@dataclass
class Grown:
    """People, and what the first of everything is called. A newcomer, who has signed in, and a
    stranger, who has not, have nothing yet."""

    staff: Deps
    customer: Deps
    guest: Deps
    newcomer: Deps
    stranger: Deps
    ids: tuple[UUID, ...]
    numbers: tuple[int, ...]


async def grow(deps: Deps, database_url: str, client: httpx.AsyncClient) -> Grown:
    """Fill the empty shop behind `deps`; the address is of the same database."""
    staff, customer = await _live(deps, client)
    connection = await connect(database_url)
    # Neither triggers nor foreign keys: the copies only have to be there.
    await connection.execute("SET session_replication_role = replica")
    for table in GROWING:
        if not await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table})"):
            await _invent(connection, metadata.tables[table])
    ids = await _ids(connection)
    numbers = [row[0] for row in await connection.fetch("SELECT number FROM orders")]
    for table in GROWING:
        await _copy(connection, metadata.tables[table])
    await connection.execute("UPDATE outbox SET published_at = occurred_at")
    await connection.close()
    # As the worker has done every night.
    await ledger.close_days(deps.acting_as(SYSTEM))
    connection = await connect(database_url)
    await connection.execute("VACUUM (ANALYZE)")
    for table in GROWING:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") > ROWS, table
    await connection.close()
    newcomer = await factories.user(deps, email="newcomer@example.com")
    stranger = factories.guest(deps, "somebody-else-0123456789abcdefghijk")
    guest = factories.guest(deps)
    return Grown(staff, customer, guest, newcomer, stranger, ids, tuple(numbers))


async def _live(deps: Deps, client: httpx.AsyncClient) -> tuple[Deps, Deps]:
    """Let one customer do everything that a customer can, and staff what follows."""
    staff = await factories.user(deps, role=Role.MERCHANT)
    customer = await factories.user(deps, email="ada@example.com")
    # The first product, so the one that is copied.
    await factories.product(deps, "SET", title="Mug and lamp", stock=0, category="gifts")
    await shop.lamp(deps)
    await factories.receive(deps, "MUG", 5, "ROT")
    card = await shop.card(customer)
    async with customer.begin() as uow:
        await address.set_default(uow, factories.ADDRESS)
    delivered = await shop.delivered(customer, steel=2, MUG=1)
    steel = [LineRequest(sku="LAMP-STEEL")]
    oak = [LineChange(sku="LAMP-STEEL", new_sku="LAMP-OAK")]
    async with customer.begin() as uow:
        await return_.request(uow, delivered.number, steel, card, "too small")
        await exchange.request(uow, delivered.number, oak, card)
    placed = await shop.ordered(customer, steel=1)
    await order_edit.modify_items(customer, placed.number, oak, card)
    await refund_desk.request(staff, delivered.number, "arrived broken", amount=500)
    await _with_credit(customer)
    await factories.placed_order(factories.guest(deps), MUG=1)
    await _talk(client, factories.bearer(customer))
    async with customer.begin() as uow:
        await handover.request(uow, "please call me")
    async with staff.begin() as uow:
        await promotion.create_code(uow, "SALE", percent=10)
        await bundle.define(uow, "SET", [bundle.BundlePartInput(sku="MUG", quantity=1)])
        sent = await transfer.create(
            uow, "HAM", "ROT", [transfer.TransferUnits(sku="MUG", quantity=1)]
        )
        await transfer.ship(uow, sent.id)
        count = await stock_count.start(uow, "HAM")
        await stock_count.record(uow, count.id, "LAMP-OAK", 9)
    await stock_ledger.snapshot(factories.later(deps, days=1))
    return staff, customer


async def _with_credit(customer: Deps) -> None:
    async with customer.acting_as(SYSTEM).begin() as uow:
        issued = await credit_desk.issue_gift_card(uow, 500)
        code = (await credit_code.reveal(uow, issued.id)).code
    filled = await factories.filled_cart(customer, MUG=1)
    await credit_tender.choose(customer, filled.id, codes=[code], uses_account=False)
    await checkout.complete(customer, filled.id, payment_method=shop.CARD)


async def _talk(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for text in ("show my orders", "add a mug to my cart", "check out"):
        said = await client.post("/v1/chat", json={"text": text}, headers=headers)
        assert said.status_code == 200, said.text


async def _invent(connection: "asyncpg.Connection[Any]", table: Table) -> None:
    """Insert a row of the columns' defaults, and of whatever fits where they have none."""
    given: dict[str, Any] = {}
    for column in table.columns:
        if column.computed is not None or column.identity is not None:
            continue
        default = getattr(column.default, "arg", None)
        if default is not None:
            made = default(None) if callable(default) else getattr(default, "value", default)
            given[column.name] = json.dumps(made) if isinstance(column.type, JSONB) else made
        elif column.foreign_keys and not column.nullable:
            (key,) = column.foreign_keys
            parent = key.column.table.name
            query = f"SELECT {key.column.name} FROM {parent} LIMIT 1"
            given[column.name] = await connection.fetchval(query)
        elif not column.nullable and column.server_default is None:
            given[column.name] = _any_of(column)
    places = ", ".join(f"${place}" for place in range(1, len(given) + 1))
    await connection.execute(
        f"INSERT INTO {table.name} ({', '.join(given)}) VALUES ({places})", *given.values()
    )


def _any_of(column: Column[Any]) -> Any:
    if isinstance(column.type, JSONB):
        return "{}"
    kind = _kind(column)
    if kind is datetime:
        # The end of a period comes after its start.
        return datetime(2026, 1, 30 if "end" in column.name else 29, tzinfo=UTC)
    simple: dict[type, Any] = {
        UUID: new_id(), str: "x", int: 1, bool: True, date: date(2026, 1, 29), float: 1.0
    }  # fmt: skip
    return simple[kind]


def _kind(column: Column[Any]) -> type:
    declared: Any = column.type
    kind: type = (
        declared.impl_instance if isinstance(declared, TypeDecorator) else declared
    ).python_type
    return kind


async def _ids(connection: "asyncpg.Connection[Any]") -> tuple[UUID, ...]:
    """Return the ids of all that can be asked for by one."""
    tables = [
        name for name in GROWING if [c.name for c in metadata.tables[name].primary_key] == ["id"]
    ]
    uuids = [name for name in tables if _kind(metadata.tables[name].c.id) is UUID]
    found = [row[0] for name in uuids for row in await connection.fetch(f"SELECT id FROM {name}")]
    return tuple(UUID(int=each.int) for each in found)


async def _copy(connection: "asyncpg.Connection[Any]", table: Table) -> None:
    """Multiply the first row of `table`."""
    columns = [c for c in table.columns if c.computed is None and c.identity is None]
    values = ", ".join(_varied(table, column) for column in columns)
    names = ", ".join(column.name for column in columns)
    order = ", ".join(column.name for column in table.primary_key)
    await connection.execute(
        f"INSERT INTO {table.name} ({names}) SELECT {values}"
        f" FROM (SELECT * FROM {table.name} ORDER BY {order} LIMIT 1) r,"
        f" generate_series(1, {ROWS}) g"
    )


def _varied(table: Table, column: Column[Any]) -> str:
    """Return the SQL of a column of copy `g` of row `r`."""
    value = f"r.{column.name}"
    owner, secret = _OWNERS.get(table.name, ("", ""))
    if column.name == secret:
        return "CASE WHEN g % 2 = 0 THEN md5('guest' || g) END"
    if column.name == owner:
        return "CASE WHEN g % 2 = 1 THEN md5('app_user' || g)::uuid END"
    parents = [key.column.table.name for key in column.foreign_keys]
    kind = None if isinstance(column.type, JSONB) else _kind(column)
    if kind is UUID:
        if column.name == "category_id":
            # Half are in the category, and those are the dearer ones.
            return f"CASE WHEN g > {ROWS // 2} THEN {value} END"
        if parents and parents[0] in SMALL:
            return value
        is_id = [column.name] == [c.name for c in table.primary_key]
        of = parents[0] if parents else _SAME_ID.get(table.name, table.name)
        if not parents and not is_id:
            of = f"{table.name}.{column.name}"
        return f"CASE WHEN {value} IS NULL THEN NULL ELSE md5('{of}' || g)::uuid END"
    if isinstance(column.type, Enum) and not _is_bound(table, column):
        options = ", ".join(f"'{option}'" for option in column.type.enums)
        most = _MOSTLY.get(table.name, column.type.enums[-1])
        # Nearly all have come to the last state there is; the others are what people look for.
        return (
            f"CASE WHEN g % 40 > 0 THEN '{most}'"
            f" ELSE (ARRAY[{options}])[1 + g / 40 % {len(column.type.enums)}] END"
        )
    if kind is datetime:
        return f"{value} - g * {APART}"
    if column.name == "price_amount":
        return f"{value} + g"
    is_key = _is_indexed(table, column) or column.name == "sku"
    if kind is str and is_key and column.name not in _FEW and not isinstance(column.type, Enum):
        width = getattr(column.type, "length", None) or 64
        short = f"right(repeat('0', {width}) || g, {width})"
        return short if width < 12 else f"left({value}, {width - 6}) || '-' || g"
    if kind is int and _is_unique(table, column):
        return f"{value} + g"
    return value


def _is_indexed(table: Table, column: Column[Any]) -> bool:
    return _is_unique(table, column) or any(column.name in index.columns for index in table.indexes)


def _is_unique(table: Table, column: Column[Any]) -> bool:
    unique = [
        c for c in table.constraints if isinstance(c, PrimaryKeyConstraint | UniqueConstraint)
    ]
    return bool(column.unique) or any(column.name in constraint.columns for constraint in unique)


def _is_bound(table: Table, column: Column[Any]) -> bool:
    """Whether other columns have to fit the column's state."""
    checks = [c for c in table.constraints if isinstance(c, CheckConstraint)]
    named = getattr(column.type, "name", None)
    return any(column.name in str(check.sqltext) for check in checks if check.name != named)
