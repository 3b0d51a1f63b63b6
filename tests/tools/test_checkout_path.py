"""The usual path of a checkout, in SQL: it writes what the long one does, or nothing."""

from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from deps.core import Deps
from deps.hot import HotPool
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.databases import connection_to
from tools import checkout, inventory
from tools.errors import OutOfStock, PaymentDeclined
from tools.invariant import check

# What differs between two like sales: names, numbers and whoever they are of.
_ROWS = """
    SELECT 'orders' AS of, to_jsonb(t) AS row FROM orders t WHERE id = $1 UNION ALL
    SELECT 'cart', to_jsonb(t) FROM cart t WHERE id = (SELECT cart_id FROM orders WHERE id = $1)
    UNION ALL
    SELECT 'line', to_jsonb(t) FROM order_line t WHERE order_id = $1 UNION ALL
    SELECT 'payment', to_jsonb(t) FROM payment t WHERE order_id = $1 UNION ALL
    SELECT 'attempt', to_jsonb(t) FROM payment_attempt t
    WHERE payment_id IN (SELECT id FROM payment WHERE order_id = $1) UNION ALL
    SELECT 'booked', jsonb_build_object('account', account, 'currency', currency,
                                        'amount', sum(amount))
    FROM ledger_entry WHERE order_id = $1
    GROUP BY account, currency HAVING sum(amount) <> 0 UNION ALL
    SELECT 'reservation', to_jsonb(t) FROM reservation t WHERE id = $1 UNION ALL
    SELECT 'reserved', to_jsonb(t) FROM reservation_line t WHERE reservation_id = $1 UNION ALL
    SELECT 'movement', to_jsonb(t) FROM stock_movement t WHERE reference_id = $1 UNION ALL
    SELECT 'event', to_jsonb(t) FROM outbox t WHERE aggregate_id = $1
"""
_NAMES = """
    SELECT id::text AS name, 'order' AS means FROM orders WHERE id = $1 UNION ALL
    SELECT number::text, 'number' FROM orders WHERE id = $1 UNION ALL
    SELECT cart_id::text, 'cart' FROM orders WHERE id = $1 UNION ALL
    SELECT id::text, 'payment' FROM payment WHERE order_id = $1 UNION ALL
    SELECT provider_reference, 'charge' FROM payment WHERE order_id = $1
"""
_OF_ITSELF = {"id", "seq", "secret_sha256", "guest_secret_sha256", "trace_id"}


TAX = 50
# Where `checkout_prepare` is told the tax and the discount.
TAXED = slice(7, 9)


class Watched:
    """The pool of a shop, and what its checkouts were answered.

    Every order gets a tax, and as much of a discount.
    """

    def __init__(self, pool: HotPool, *, is_refused: bool = False) -> None:
        self.pool, self.is_refused = pool, is_refused
        self.answers: list[Any] = []

    async def fetchval(self, sql: str, *args: Any) -> Any:
        name = next((n for n in ("checkout_confirm", "checkout_place") if n in sql), None)
        if "checkout_prepare" in sql:
            taxed = list(args)
            taxed[TAXED] = [TAX, TAX]
            return await self.pool.fetchval(sql, *taxed)
        if name is None:
            return await self.pool.fetchval(sql, *args)
        await self.before(name, sql, args)
        if self.is_refused:
            return False
        self.answers.append(await self.pool.fetchval(sql, *args))
        return self.answers[-1]

    async def before(self, name: str, sql: str, args: tuple[Any, ...]) -> None:
        """For those who look at a call before it runs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)


class Doubting(Watched):
    """Try each call on rows that are not as usual first; then they are as they were."""

    def __init__(self, pool: HotPool, url: str, doubts: dict[str, list[str]]) -> None:
        super().__init__(pool)
        self.url, self.doubts = url, doubts

    async def before(self, name: str, sql: str, args: tuple[Any, ...]) -> None:
        async with connection_to(self.url) as connection:
            for doubt in self.doubts[name]:
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(doubt)
                rows = await _left(connection, args[0])
                assert await connection.fetchval(sql, *args) is False, doubt
                assert await _left(connection, args[0]) == rows, doubt
                await transaction.rollback()


class Outrun(Watched):
    """While the card is authorised the hold lapses, and another buys what it held."""

    def __init__(self, deps: Deps) -> None:
        super().__init__(deps.hot)
        self.later = factories.later(deps, minutes=20)

    async def before(self, name: str, sql: str, args: tuple[Any, ...]) -> None:
        assert name == "checkout_confirm"
        assert await inventory.expire_due(self.later) == 1
        other = factories.guest(self.later, "token-of-who-buys-it-in-between-3")
        await factories.placed_order(other, MUG=2, BOWL=1)


async def _left(connection: "asyncpg.Connection[Any]", order_id: UUID) -> list[tuple[str, str]]:
    return sorted((row["of"], row["row"]) for row in await connection.fetch(_ROWS, order_id))


async def _sale(deps: Deps, pool: Watched, token: str) -> UUID:
    guest = factories.guest(replace(deps, hot=cast(HotPool, pool)), token)
    filled = await factories.filled_cart(guest, MUG=2, BOWL=1)
    return (await checkout.complete(guest, filled.id, payment_method="tok_visa")).id


async def _written(deps: Deps, order_id: UUID) -> list[str]:
    """Say what a sale wrote, in words that are the same for every such sale."""
    async with deps.begin() as uow:
        rows = await uow.fetch(_ROWS, order_id)
        names = {row["name"]: row["means"] for row in await uow.fetch(_NAMES, order_id)}
    written = []
    for row in rows:
        values = {key: str(value) for key, value in row["row"].items() if key not in _OF_ITSELF}
        if row["of"] == "payment":
            values["expires_at"] = str(row["row"]["expires_at"] is not None)  # The provider's.
        text = f"{row['of']} {sorted(values.items())}"
        for name, means in names.items():
            text = text.replace(name, means)
        written.append(text)
    return sorted(written)


async def test_the_usual_path_writes_what_the_long_one_does(
    deps: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(deps, "MUG", price=1250)
    await factories.product(deps, "BOWL", price=900)
    gateway.script.append(Fault.DECLINE)
    with pytest.raises(PaymentDeclined):
        await _sale(deps, Watched(deps.hot), "token-of-who-is-declined-00000000004")
    short, long = Watched(deps.hot), Watched(deps.hot, is_refused=True)
    driven = await _sale(deps, long, "token-of-who-takes-the-long-path-22")
    usual = await _sale(deps, short, "token-of-who-takes-the-usual-path-1")
    assert short.answers == [True, True]
    assert await _written(deps, usual) == await _written(deps, driven)
    failed = "SELECT count(*) FROM payment_attempt WHERE state <> 'succeeded'"
    assert await deps.hot.fetchval(failed) == 1, "an attempt of another order was changed"
    assert await check(deps) == []


async def test_rows_that_are_not_as_usual_are_left_to_the_long_path(
    deps: Deps, database_url: str
) -> None:
    await factories.product(deps, "MUG", price=1250)
    await factories.product(deps, "BOWL", price=900)
    pool = Doubting(
        deps.hot,
        database_url,
        {
            "checkout_confirm": [
                "UPDATE orders SET status = 'cancelled'",
                "UPDATE orders SET payment_status = 'requires_action'",
                "UPDATE payment SET state = 'unknown'",
                "UPDATE payment SET amount = amount - 1",
            ],
            "checkout_place": [
                "UPDATE orders SET status = 'cancelled'",
                "UPDATE orders SET payment_status = 'pending'",
                "UPDATE payment SET state = 'unknown'",
                "UPDATE payment SET captured_amount = 1",
                "UPDATE payment SET decline_code = 'undone'",
                "UPDATE payment SET amount = amount - 1",
            ],
        },
    )
    await _sale(deps, pool, "token-of-who-takes-the-usual-path-1")
    assert pool.answers == [True, True]


async def test_what_was_sold_in_between_is_not_sold_again(
    deps: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(deps, "MUG", price=1250, stock=2)
    await factories.product(deps, "BOWL", price=900, stock=1)
    pool = Outrun(deps)
    with pytest.raises(OutOfStock):
        await _sale(deps, pool, "token-of-who-takes-the-usual-path-1")
    assert pool.answers == []
    assert len(gateway.charges) == 1
    assert await check(pool.later) == []
