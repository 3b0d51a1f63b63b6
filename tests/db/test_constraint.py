"""What the database refuses by itself, tried on empty copies of its tables.

A copy has the table's checks and unique indexes, but none of its other columns has to be filled.
"""

from collections.abc import AsyncGenerator
from itertools import chain
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy import Enum

from db.models import metadata
from tests.databases import connection_to

ONE, TWO = ("00000000-0000-0000-0000-00000000000" + digit for digit in "12")
Row = tuple[int | str | bool | None, ...]
# Table, check, the columns it is about, rows it takes and rows it refuses.
CHECKS: Final[list[tuple[str, str, str, list[Row], list[Row]]]] = [
    ("aftersales_policy", "one_row", "id", [(1,)], [(0,), (2,)]),
    (
        "agent_spend",
        "only_ever_added_to",
        "requests, tokens, cost_micros",
        [(0, 0, 0)],
        [(-1, 0, 0), (0, -1, 0), (0, 0, -1)],
    ),
    (
        "backorder",
        "open_is_owed",
        "quantity, is_open",
        [(1, True), (1, False), (0, False)],
        [(0, True), (-1, False)],
    ),
    ("bundle_part", "not_of_itself", "bundle_sku, part_sku", [("A", "B")], [("A", "A")]),
    ("bundle_part", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    ("cart_line", "quantity_range", "quantity", [(1,), (999,)], [(0,), (1000,)]),
    (
        "credit_account",
        "no_overdraft",
        "held_amount, balance_amount",
        [(0, 0), (5, 5), (0, 5)],
        [(-1, 5), (6, 5)],
    ),
    ("credit_hold", "authorized_positive", "authorized_amount", [(1,)], [(0,), (-1,)]),
    (
        "credit_hold",
        "refunded_within_captured",
        "refunded_amount, captured_amount",
        [(0, 0), (5, 5)],
        [(-1, 5), (6, 5)],
    ),
    (
        "credit_hold",
        "within_authorized",
        "captured_amount, released_amount, authorized_amount",
        [(0, 0, 5), (3, 2, 5)],
        [(-1, 0, 5), (0, -1, 5), (3, 3, 5)],
    ),
    (
        "credit_movement",
        "moves",
        "balance_delta, held_delta",
        [(1, 0), (-1, 0), (0, 1), (0, -1)],
        [(0, 0)],
    ),
    (
        "discount",
        "code_is_plain",
        "code, percent",
        [("SALE", 1), ("5-OFF_X", 1), ("A" * 32, 1)],
        [("AB", 1), ("sale", 1), ("-ALE", 1), ("SA LE", 1), ("ŠALE", 1)],
    ),
    (
        "discount",
        "percent_or_amount",
        "percent, amount",
        [(10, None), (None, 10)],
        [(10, 10), (None, None)],
    ),
    ("discount", "percent_range", "percent", [(1,), (100,)], [(0,), (101,)]),
    ("discount", "amount_positive", "amount", [(1,)], [(0,), (-1,)]),
    ("discount", "minimum_not_negative", "minimum_amount, percent", [(0, 1)], [(-1, 1)]),
    (
        "discount",
        "uses_within_max",
        "uses, uses_max, percent",
        [(0, 1, 1), (1, 1, 1), (5, None, 1)],
        [(2, 1, 1), (-1, 1, 1), (-1, None, 1)],
    ),
    (
        "discount",
        "ends_after_start",
        "starts_at, ends_at, percent",
        [("2026-01-01", "2026-01-02", 1), (None, "2026-01-01", 1), ("2026-01-01", None, 1)],
        [("2026-01-01", "2026-01-01", 1), ("2026-01-02", "2026-01-01", 1)],
    ),
    ("dispute", "amount_positive", "amount", [(1,)], [(0,), (-1,)]),
    (
        "dispute",
        "withdrawn_within_amount",
        "withdrawn_amount, amount",
        [(0, 5), (5, 5)],
        [(-1, 5), (6, 5)],
    ),
    ("fulfillment_line", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    ("ledger_entry", "amount_not_zero", "amount", [(1,), (-1,)], [(0,)]),
    ("order_edit_line", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    ("order_exchange_line", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    (
        "order_line",
        "line_adds_up",
        "unit_price_amount, quantity, total_amount",
        [(250, 3, 750)],
        [(250, 3, 749), (250, 3, 751), (250, 3, 0)],
    ),
    ("order_line", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    ("order_return_line", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    (
        "order_return_line",
        "restocked_within_returned",
        "restocked_quantity, quantity",
        [(0, 2), (2, 2)],
        [(-1, 2), (3, 2)],
    ),
    (
        "orders",
        "total_adds_up",
        "subtotal_amount, shipping_amount, tax_amount, discount_amount, total_amount",
        [(1000, 100, 20, 3, 1117)],
        [(1000, 100, 20, 3, 1116), (1000, 100, 20, 3, 1118)],
    ),
    (
        "orders",
        "discount_of_goods",
        "discount_amount, subtotal_amount",
        [(0, 5), (5, 5)],
        [(-1, 5), (6, 5)],
    ),
    ("orders", "tax_not_negative", "tax_amount, tax_rate", [(0, 0)], [(-1, 0), (0, -1)]),
    ("orders", "total_not_negative", "total_amount", [(0,)], [(-1,)]),
    ("payment", "amount_positive", "amount", [(1,)], [(0,), (-1,)]),
    (
        "payment",
        "captured_within_authorized",
        "captured_amount, amount",
        [(0, 5), (5, 5)],
        [(-1, 5), (6, 5)],
    ),
    ("payment", "disputed_not_negative", "disputed_amount", [(0,)], [(-1,)]),
    (
        "payment",
        "refunded_within_captured",
        "refunded_amount, captured_amount",
        [(0, 0), (5, 5)],
        [(-1, 5), (6, 5)],
    ),
    (
        "payment",
        "refunding_within_captured",
        "refunded_amount, refunding_amount, captured_amount",
        [(0, 0, 0), (2, 3, 5)],
        [(0, -1, 5), (2, 4, 5)],
    ),
    (
        "reconciliation_run",
        "period_not_empty",
        "period_start, period_end",
        [("2026-01-01", "2026-01-02")],
        [("2026-01-01", "2026-01-01"), ("2026-01-02", "2026-01-01")],
    ),
    ("refund", "amount_positive", "amount", [(1,)], [(0,), (-1,)]),
    ("refund_part", "amount_positive", "amount", [(1,)], [(0,), (-1,)]),
    ("reservation_line", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    ("stock_count_line", "counted_not_negative", "counted", [(0,)], [(-1,)]),
    (
        "stock_item",
        "deny_promises_nothing",
        "policy, backorder_limit",
        [("deny", 0), ("backorder", 1)],
        [("deny", 1)],
    ),
    ("stock_item", "free_not_negative", "free", [(0,)], [(-1,)]),
    (
        "stock_item",
        "preorder_dated",
        "policy, available_on",
        [("preorder", "2026-02-01"), ("deny", None)],
        [("preorder", None)],
    ),
    (
        "stock_item",
        "within_the_cap",
        "backordered, backorder_limit",
        [(0, 0), (5, 5)],
        [(-1, 5), (6, 5)],
    ),
    ("stock_level", "allocated_not_negative", "allocated", [(0,)], [(-1,)]),
    ("stock_level", "incoming_not_negative", "incoming", [(0,)], [(-1,)]),
    (
        "stock_level",
        "no_oversell",
        "reserved, allocated, on_hand",
        [(0, 0, 0), (2, 3, 5)],
        [(3, 3, 5), (0, 0, -1)],
    ),
    ("stock_level", "reserved_not_negative", "reserved", [(0,)], [(-1,)]),
    (
        "stock_level",
        "thresholds_not_negative",
        "safety_stock, reorder_point",
        [(0, 0)],
        [(-1, 0), (0, -1)],
    ),
    (
        "stock_movement",
        "moves",
        "location_id, on_hand_delta, reserved_delta, allocated_delta, incoming_delta, "
        "backordered_delta",
        [
            (ONE, *(sign * (place == at) for at in range(5)))
            for place in range(5)
            for sign in (1, -1)
        ],
        [(ONE, 0, 0, 0, 0, 0)],
    ),
    (
        "stock_movement",
        "units_are_somewhere",
        "location_id, on_hand_delta, reserved_delta, allocated_delta, incoming_delta",
        [(ONE, 1, 1, 1, 1), (None, 0, 0, 0, 0)],
        [(None, *(int(place == at) for at in range(4))) for place in range(4)],
    ),
    (
        "stock_rule",
        "preferred_names_a_location",
        "kind, location_id",
        [("preferred", ONE), ("nearest", None)],
        [("preferred", None), ("nearest", ONE)],
    ),
    ("stock_transfer", "goes_somewhere_else", "source_id, target_id", [(ONE, TWO)], [(ONE, ONE)]),
    (
        "stock_transfer_line",
        "no_more_than_sent",
        "received, lost, returned, quantity",
        [(0, 0, 0, 6), (1, 2, 3, 6)],
        [(-1, 0, 0, 6), (0, -1, 0, 6), (0, 0, -1, 6), (2, 2, 3, 6)],
    ),
    ("stock_transfer_line", "quantity_positive", "quantity", [(1,)], [(0,), (-1,)]),
    ("variant", "price_not_negative", "price_amount", [(0,)], [(-1,)]),
    ("webhook_event", "attempts_not_negative", "attempts", [(0,)], [(-1,)]),
]
# Table, the columns that together are unique, a row, and a row that differs in every column.
UNIQUE: Final[list[tuple[str, str, Row, Row]]] = [
    ("backorder", "reservation_id, sku", (ONE, "A"), (TWO, "B")),
    ("balance_entry", "provider, line_id", ("stripe", "1"), ("paypal", "2")),
    ("credit_account", "code_sha256", ("1",), ("2",)),
    ("credit_movement", "key", ("1",), ("2",)),
    ("dispute", "provider, provider_dispute_id", ("stripe", "1"), ("paypal", "2")),
    ("ledger_entry", "transaction_id, account", (ONE, "clearing"), (TWO, "revenue")),
    ("location", "code", ("HAM",), ("BER",)),
    ("orders", "cart_id", (ONE,), (TWO,)),
    ("orders", "number", (1,), (2,)),
    ("outbox", "aggregate_id, aggregate_seq", (ONE, 1), (TWO, 2)),
    ("outbox", "id", (ONE,), (TWO,)),
    ("payment_attempt", "key", ("1",), ("2",)),
    ("payment_attempt", "payment_id, kind, number", (ONE, "capture", 1), (TWO, "void", 2)),
    ("refund_part", "refund_id, payment_id", (ONE, ONE), (TWO, TWO)),
    ("stock_item", "id", (ONE,), (TWO,)),
    ("stock_rule", "position", (1,), (2,)),
    ("stored_method", "customer_id, provider, token", (ONE, "a", "b"), (TWO, "c", "d")),
    ("webhook_event", "provider, event_id", ("stripe", "1"), ("paypal", "2")),
]
# Table, column and the values of the enum. A view has no checks.
ENUMS: Final = [
    (table.name, column.name, column.type.enums)
    for table in metadata.tables.values()
    for column in table.columns
    if isinstance(column.type, Enum) and not table.info.get("is_view")
]
_COPIES = "CREATE TEMPORARY TABLE of_{0} (LIKE {0} INCLUDING CONSTRAINTS INCLUDING INDEXES)"
_LOOSEN: Final = """
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)
    FROM pg_constraint WHERE conrelid = $1::text::regclass AND contype IN ('p', 'n')
    ORDER BY contype DESC
"""


@pytest.fixture
async def copies(database_url: str) -> "AsyncGenerator[asyncpg.Connection[Any], None]":
    async with connection_to(database_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        for table in {each[0] for each in chain(CHECKS, UNIQUE)} | {table for table, *_ in ENUMS}:
            await connection.execute(_COPIES.format(table))
            for (loosen,) in await connection.fetch(_LOOSEN, f"of_{table}"):
                await connection.execute(loosen)
        yield connection
        await transaction.rollback()


async def _refusal(
    connection: "asyncpg.Connection[Any]", table: str, columns: str, *rows: Row
) -> asyncpg.PostgresError | None:
    """Say what the table has against the rows; they are gone afterwards."""
    values = ", ".join(
        f"({', '.join('NULL' if value is None else repr(value) for value in row)})" for row in rows
    )
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(f"INSERT INTO of_{table} ({columns}) VALUES {values}")
    except asyncpg.IntegrityConstraintViolationError as error:
        return error
    finally:
        await attempt.rollback()
    return None


async def test_a_check_holds_up_to_its_limit_and_no_further(
    copies: "asyncpg.Connection[Any]",
) -> None:
    for table, check, columns, taken, refused in CHECKS:
        for row in taken:
            assert await _refusal(copies, table, columns, row) is None, (table, check, row)
        for row in refused:
            error = await _refusal(copies, table, columns, row)
            assert error is not None, (table, check, row)
            assert error.constraint_name == f"ck_{table}_{check}", row


async def test_every_check_is_tried(database_url: str) -> None:
    async with connection_to(database_url) as connection:
        rows = await connection.fetch("""
            SELECT conrelid::regclass::text, conname FROM pg_constraint
            WHERE contype = 'c' AND connamespace = 'public'::regnamespace
              AND pg_get_constraintdef(oid) NOT LIKE '%= ANY%'
        """)
    assert {tuple(row) for row in rows} == {
        (table, f"ck_{table}_{check}") for table, check, *_ in CHECKS
    }


async def test_a_column_of_named_values_takes_no_other(copies: "asyncpg.Connection[Any]") -> None:
    for table, column, values in ENUMS:
        error = await _refusal(copies, table, column, ("else",))
        assert error is not None, (table, column)
        for value in values:
            other = await _refusal(copies, table, column, (value,))
            assert other is None or other.constraint_name != error.constraint_name, (table, value)


async def test_what_is_unique_is_refused_twice(copies: "asyncpg.Connection[Any]") -> None:
    for table, columns, row, other in UNIQUE:
        error = await _refusal(copies, table, columns, row, row)
        assert isinstance(error, asyncpg.UniqueViolationError), (table, columns)
        assert f"Key ({columns})=" in str(error.detail).replace('"', ""), (table, columns)
        for place in range(len(row)):
            differs = (*row[:place], other[place], *row[place + 1 :])
            assert await _refusal(copies, table, columns, row, differs) is None, (table, columns)


async def test_a_code_is_of_one_discount(copies: "asyncpg.Connection[Any]") -> None:
    columns = "code, percent"
    error = await _refusal(copies, "discount", columns, ("SALE", 5), ("SALE", 10))
    assert isinstance(error, asyncpg.UniqueViolationError)
    assert await _refusal(copies, "discount", columns, ("SALE", 5), ("SPRING", 5)) is None


async def test_an_order_has_one_pending_edit(copies: "asyncpg.Connection[Any]") -> None:
    columns = "order_id, state"
    error = await _refusal(copies, "order_edit", columns, (ONE, "pending"), (ONE, "pending"))
    assert isinstance(error, asyncpg.UniqueViolationError)
    for rows in (
        [(ONE, "pending"), (TWO, "pending")],
        [(ONE, "applied"), (ONE, "applied"), (ONE, "pending")],
    ):
        assert await _refusal(copies, "order_edit", columns, *rows) is None, rows
