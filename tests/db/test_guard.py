"""What triggers refuse whoever writes past the operations, and what they let through."""

from collections.abc import AsyncGenerator
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from deps.core import SYSTEM, Deps
from tests import factories
from tests.databases import connection_to
from tools import checkout, credit_code, credit_desk, credit_tender

APPEND_ONLY: Final = ("stock_movement", "ledger_entry", "credit_movement", "stock_rebuild")
# Statements, and what they are told.
REFUSED: Final = {
    **{
        statement.format(table): "is append-only"
        for table in APPEND_ONLY
        for statement in ("DELETE FROM {0}", "UPDATE {0} SET id = DEFAULT")
    },
    **{
        f"UPDATE stock_level SET {counter} = {counter} + 1": "stock levels change"
        for counter in ("on_hand", "reserved", "allocated", "incoming")
    },
    "DELETE FROM stock_level": "stock levels change",
    "INSERT INTO stock_level (sku, location_id, on_hand, reserved, allocated, reorder_point) "
    "SELECT 'BOWL', id, 0, 0, 0, 0 FROM location": "stock levels change",
    **{
        f"UPDATE stock_item SET {change}": "stock items change"
        for change in (
            "free = free + 1",
            "backordered = 1, backorder_limit = 1, policy = 'backorder'",
            "sku = 'BOWL'",
        )
    },
    "DELETE FROM stock_item": "stock items change",
    "INSERT INTO stock_item (sku, free) VALUES ('BOWL', 1)": "stock items change",
    "INSERT INTO stock_item (sku, backordered, backorder_limit, policy) "
    "VALUES ('BOWL', 1, 1, 'backorder')": "stock items change",
    "UPDATE credit_account SET balance_amount = balance_amount + 1": "credit changes",
    "UPDATE credit_account SET held_amount = held_amount - 1": "credit changes",
    "INSERT INTO credit_account (id, kind, code_last4, currency, balance_amount, held_amount, "
    "is_active, created_at) VALUES (uuidv7(), 'gift_card', '', 'EUR', 1, 0, true, now())": (
        "credit changes"
    ),
}
TAKEN: Final = (
    "UPDATE stock_level SET reorder_point = 5",
    "UPDATE stock_item SET policy = 'backorder', backorder_limit = 5",
    "INSERT INTO stock_item (sku) VALUES ('BOWL'); DELETE FROM stock_item WHERE sku = 'BOWL'; "
    "DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM stock_item WHERE sku = 'BOWL'); END $$",
    "UPDATE credit_account SET is_active = false",
    "INSERT INTO credit_account (id, kind, code_last4, currency, balance_amount, held_amount, "
    "is_active, created_at) VALUES (uuidv7(), 'gift_card', '', 'EUR', 0, 0, true, now())",
)
_BOOK: Final = """
    INSERT INTO ledger_entry (transaction_id, account, amount, currency, occurred_at)
    VALUES ($1, $2, $3, $4, now())
"""

_DISCOUNT: Final = """
    INSERT INTO discount (id, code, percent, currency, minimum_amount, uses_max, uses, is_active,
                          created_at)
    VALUES (uuidv7(), $1, 10, 'EUR', 0, $2, 0, true, now())
"""
_ORDER: Final = """
    INSERT INTO orders (id, email, status, payment_status, fulfillment_status, currency,
                        subtotal_amount, shipping_amount, tax_amount, discount_amount, total_amount,
                        shipping_address, shipping_method, captures_later, version, created_at,
                        discount_code)
    VALUES (uuidv7(), 'ada@example.com', $1, 'pending', 'unfulfilled', 'EUR', 0, 0, 0, 0, 0,
            '{}', 'standard', false, 1, now(), $2)
    RETURNING id
"""


@pytest.fixture
async def sold(deps: Deps, database_url: str) -> "AsyncGenerator[asyncpg.Connection[Any], None]":
    """A shop that sold a mug for credit and a card, seen past its operations."""
    await factories.product(deps, "MUG", price=1250)
    await factories.product(deps, "BOWL", stock=0)
    async with deps.acting_as(SYSTEM).begin() as uow:
        card = await credit_desk.issue_gift_card(uow, 1_000)
        code = (await credit_code.reveal(uow, card.id)).code
    guest = factories.guest(deps)
    filled = await factories.filled_cart(guest, MUG=1)
    await credit_tender.choose(guest, filled.id, codes=[code], uses_account=False)
    await checkout.complete(guest, filled.id, payment_method="tok_visa")
    async with connection_to(database_url) as connection:
        await connection.execute(
            "INSERT INTO stock_rebuild (is_dry_run, differences, started_at) "
            "VALUES (true, '[]', now())"
        )
        yield connection


async def _attempt(connection: "asyncpg.Connection[Any]", statement: str) -> str:
    """Say why the statement is refused, or nothing; then it is undone."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return str(error)
    finally:
        await attempt.rollback()
    return ""


async def test_only_the_ledgers_move_what_they_count(sold: "asyncpg.Connection[Any]") -> None:
    for statement, reason in REFUSED.items():
        assert reason in await _attempt(sold, statement), statement
    for statement in TAKEN:
        assert await _attempt(sold, statement) == "", statement


async def test_a_ledger_transaction_balances_when_it_commits(database_url: str) -> None:
    async with connection_to(database_url) as connection:
        booked, other = [await connection.fetchval("SELECT uuidv7()") for _ in range(2)]
        clearing = (booked, "clearing", 100, "EUR")
        for rest in (
            [],
            [(booked, "revenue", -100, "USD")],
            [(booked, "revenue", -99, "EUR")],
            [(other, "revenue", -100, "EUR")],
        ):
            with pytest.raises(asyncpg.RaiseError, match="does not balance"):
                await connection.executemany(_BOOK, [clearing, *rest])
        await connection.executemany(_BOOK, [clearing, (booked, "revenue", -100, "EUR")])
        assert await connection.fetchval("SELECT count(*) FROM ledger_entry") == 2


async def test_a_bundle_is_made_of_what_is_no_bundle_and_has_no_stock(deps: Deps) -> None:
    for sku in ("SET", "BOX", "CUP", "LID"):
        await factories.product(deps, sku, stock=5 if sku == "LID" else 0)
    bundle = "INSERT INTO bundle_part (bundle_sku, part_sku, quantity) VALUES ($1, $2, 1)"
    async with deps.begin() as uow:
        await uow.fetch(bundle, "SET", "CUP")
    for name, part in (("BOX", "SET"), ("CUP", "LID"), ("LID", "CUP")):
        with pytest.raises(asyncpg.CheckViolationError, match="cannot be a bundle of"):
            async with deps.begin() as uow:
                await uow.fetch(bundle, name, part)
    async with deps.begin() as uow:
        await uow.fetch(bundle, "BOX", "CUP")


async def test_orders_count_the_uses_of_their_code_when_they_commit(database_url: str) -> None:
    async with connection_to(database_url) as connection:

        async def order(status: str, code: str | None) -> UUID:
            order_id: UUID = await connection.fetchval(_ORDER, status, code)
            return order_id

        async def uses() -> dict[str, int]:
            return dict(await connection.fetch("SELECT code, uses FROM discount"))

        await connection.executemany(_DISCOUNT, [("SALE", 2), ("OTHER", 1), ("ANY", None)])
        plain = await order("pending", None)
        sold = await order("pending", "SALE")
        await order("cancelled", "SALE")
        assert await uses() == {"SALE": 1, "OTHER": 0, "ANY": 0}
        async with connection.transaction():
            await order("placed", "SALE")
            assert (await uses())["SALE"] == 1, "locked before the end"
        await order("pending", "ANY")
        assert await uses() == {"SALE": 2, "OTHER": 0, "ANY": 1}
        with pytest.raises(asyncpg.PostgresError, match=r"^SALE$") as refused:
            await order("pending", "SALE")
        assert refused.value.sqlstate == checkout.USED_UP
        assert await connection.fetchval("SELECT count(*) FROM orders") == 5

        change = "UPDATE orders SET status = $2 WHERE id = $1"
        for status, left in (("placed", 2), ("cancelled", 1), ("cancelled", 1)):
            await connection.execute(change, sold, status)
            await connection.execute(change, plain, status)
            assert await uses() == {"SALE": left, "OTHER": 0, "ANY": 1}, status
        await order("pending", "SALE")
        assert (await uses())["SALE"] == 2
