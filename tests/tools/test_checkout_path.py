"""The usual path of a checkout, in SQL: it writes what the long one does, or nothing."""

from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import asyncpg
import pytest

from deps.core import Deps
from deps.hot import HotPool
from deps.postgres import set_json_codecs
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tests.databases import connection_to
from tools import checkout, inventory
from tools.errors import Conflict, OutOfStock, PaymentDeclined
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
# Where `checkout_prepare` is told whose cart it is, the order, what is added, and the tenders.
SECRET, PREPARED, SHIPPING, TAXED, TENDERS = 2, 5, 6, (7, 9), 11


class Watched:
    """The pool of a shop, and what its checkouts were answered once the order was prepared.

    Every order gets a tax, and as much of a discount.
    """

    def __init__(self, pool: HotPool, *, is_refused: bool = False) -> None:
        self.pool, self.is_refused = pool, is_refused
        self.answers: list[Any] = []

    async def fetchval(self, sql: str, *args: Any) -> Any:
        name = next((n for n in ("checkout_confirm", "checkout_place") if n in sql), None)
        if "checkout_prepare" in sql:
            taxed = list(args)
            for place in TAXED:
                taxed[place] = TAX
            await self.before("checkout_prepare", sql, tuple(taxed))
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


CHANGED = {"refusal": "changed"}


class Doubting(Watched):
    """Try each call on rows that are not as usual first; then they are as they were."""

    def __init__(self, pool: HotPool, url: str, doubts: dict[str, list[str]]) -> None:
        super().__init__(pool)
        self.url, self.doubts = url, doubts

    async def before(self, name: str, sql: str, args: tuple[Any, ...]) -> None:
        is_prepared = name != "checkout_prepare"
        order_id, refusal = (args[0], False) if is_prepared else (args[PREPARED], CHANGED)
        async with connection_to(self.url) as connection:
            await set_json_codecs(connection)
            for doubt in self.doubts.get(name, []):
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(doubt)
                rows = await _left(connection, order_id)
                assert await connection.fetchval(sql, *args) == refusal, doubt
                assert await _left(connection, order_id) == rows, doubt
                await transaction.rollback()
            if not is_prepared:
                closed = [*args[:TENDERS], None, *args[TENDERS + 1 :]]
                assert await connection.fetchval(sql, *closed) == CHANGED
                strange = [*args[:SECRET], "another's", *args[SECRET + 1 :]]
                assert await connection.fetchval(sql, *strange) == {"refusal": "not_found"}
                unpaid = [*args[:TENDERS], [], *args[TENDERS + 1 :]]
                dearer = [*args[:SHIPPING], args[SHIPPING] + 1, *args[SHIPPING + 1 :]]
                for wrong in (unpaid, dearer):
                    with pytest.raises(asyncpg.RaiseError, match="do not bring the total"):
                        await connection.fetchval(sql, *wrong)
            paid_for = "SELECT count(*) FROM cart WHERE status = 'completing'"
            assert await connection.fetchval(paid_for) == is_prepared, "carts that are paid for"


class Outrun(Watched):
    """Before a step another buys the same: before there is a hold, or while the card is authorised
    and the hold lapses.
    """

    def __init__(self, deps: Deps, step: str) -> None:
        super().__init__(deps.hot)
        self.step = step
        self.later = factories.later(deps, minutes=20)

    async def before(self, name: str, sql: str, args: tuple[Any, ...]) -> None:
        if name != self.step:
            return
        assert await inventory.expire_due(self.later) == (name == "checkout_confirm")
        other = factories.guest(self.later, "token-of-who-buys-it-in-between-3")
        await factories.placed_order(other, MUG=2, BOWL=1)


class Restless(Watched):
    """Change the cart as often as is said, each time just before it is bought."""

    def __init__(self, pool: HotPool, times: int) -> None:
        super().__init__(pool)
        self.times = times

    async def before(self, name: str, sql: str, args: tuple[Any, ...]) -> None:
        if name == "checkout_prepare" and self.times:
            self.times -= 1
            await self.pool.execute("UPDATE cart SET version = version + 1 WHERE status = 'open'")


async def _left(connection: "asyncpg.Connection[Any]", order_id: UUID) -> list[str]:
    return sorted(f"{row['of']} {row['row']}" for row in await connection.fetch(_ROWS, order_id))


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
            "checkout_prepare": [
                "UPDATE cart SET status = 'merged'",
                "UPDATE cart SET version = version + 1",
                "UPDATE variant SET price_amount = price_amount + 1 WHERE sku = 'BOWL'",
                "UPDATE variant SET is_active = false WHERE sku = 'BOWL'",
                "UPDATE product SET status = 'archived' WHERE handle = 'bowl-handle'",
                """INSERT INTO discount (id, code, percent, currency, minimum_amount, uses,
                                         is_active, created_at)
                   VALUES (uuidv7(), 'ENDED', 10, 'EUR', 0, 0, false, now());
                   UPDATE cart SET discount_code = 'ENDED'""",
            ],
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


@pytest.mark.parametrize("step", ["checkout_prepare", "checkout_confirm"])
async def test_what_was_sold_in_between_is_not_sold_again(
    deps: Deps, gateway: ScriptedGateway, step: str
) -> None:
    await factories.product(deps, "MUG", price=1250, stock=2)
    await factories.product(deps, "BOWL", price=900, stock=1)
    pool = Outrun(deps, step)
    with pytest.raises(OutOfStock):
        await _sale(deps, pool, "token-of-who-takes-the-usual-path-1")
    assert pool.answers == []
    assert len(gateway.charges) == 1
    assert await check(pool.later) == []


async def test_a_cart_that_changes_at_every_look_is_not_bought_until_it_rests(
    deps: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(deps, "MUG", price=1250)
    await factories.product(deps, "BOWL", price=900)
    always = Restless(deps.hot, checkout.READS_MAX)
    with pytest.raises(Conflict, match="keeps changing"):
        await _sale(deps, always, "token-of-who-cannot-make-up-his-mind")
    assert (always.times, gateway.calls) == (0, 0)
    assert await deps.hot.fetchval("SELECT count(*) FROM orders") == 0
    assert await inventory.expire_due(factories.later(deps, days=1)) == 0, "nothing was held"
    rests = Restless(deps.hot, checkout.READS_MAX - 1)
    await _sale(deps, rests, "token-of-who-rests-at-the-last-look-5")
    assert rests.answers == [True, True]


async def test_a_cart_that_was_bought_is_answered_with_its_order(guest: Deps) -> None:
    await factories.product(guest, "MUG", price=1250)
    filled = await factories.filled_cart(guest, MUG=2)
    bought = await checkout.complete(guest, filled.id, payment_method="tok_visa")
    assert await checkout.complete(guest, filled.id, payment_method="tok_visa") == bought
    assert await guest.hot.fetchval("SELECT count(*) FROM orders") == 1


async def test_what_was_ordered_and_held_is_told(guest: Deps) -> None:
    for sku in ("MUG", "BOWL"):
        await factories.product(guest, sku, price=1250)
    order = await factories.placed_order(guest, MUG=2, BOWL=1)
    rows = await guest.hot.fetch(
        """SELECT type, aggregate_type, payload FROM outbox WHERE aggregate_id = $1
           ORDER BY aggregate_seq LIMIT 2""",
        order.id,
    )
    ordered = {"order_id": str(order.id), "total_amount": order.total_amount, "currency": "EUR"}
    assert [tuple(row) for row in rows] == [
        ("OrderCreated", "order", ordered),
        ("StockReserved", "order", {"order_id": str(order.id), "units": {"MUG": 2, "BOWL": 1}}),
    ]
