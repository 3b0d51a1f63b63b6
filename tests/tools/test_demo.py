"""The demo shop: the same everywhere, loaded once however often it is loaded."""

from datetime import UTC, datetime
from uuid import UUID
from xml.etree import ElementTree

import pytest
from sqlalchemy import text

from db.models.order import Order
from deps import security
from deps.core import Deps
from tools import delivery, invariant
from tools.demo import catalog, history, picture
from tools.demo.load import PASSWORD, load

COUNTS = {
    "category": 12,
    "product": 408,
    "location": 3,
    "app_user": 63,
    "orders": 1500,
    "reservation": 1500,
    "payment": 1500,
}
UNCHANGING = (*COUNTS, "variant", "stock_movement", "stock_level", "order_line", "ledger_entry",
              "outbox", "aggregate_counter")  # fmt: skip


async def counts(deps: Deps) -> dict[str, int]:
    async with deps.begin() as uow:
        return {
            table: (await uow.session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()
            for table in UNCHANGING
        }


async def one(deps: Deps, sql: str) -> object:
    async with deps.begin() as uow:
        return (await uow.session.execute(text(sql))).scalar_one()


def test_the_catalogue_is_the_same_every_time_and_names_nothing_twice() -> None:
    first = catalog.products()
    catalog.products.cache_clear()
    assert catalog.products() == first
    assert len({product.handle for product in first}) == len({p.title for p in first}) == 408
    skus = [variant.sku for product in first for variant in product.variants]
    assert len(set(skus)) == len(skus)
    assert len({product.description for product in first}) == 408


def test_every_product_has_a_picture() -> None:
    for product in catalog.products():
        document = picture.svg(product.handle)
        assert ElementTree.fromstring(document).tag.endswith("svg")
        assert len(document) < 3000
    with pytest.raises(KeyError):
        picture.svg("no-such-product")


async def test_loading_twice_changes_nothing_and_every_invariant_holds(demo: Deps) -> None:
    before = await counts(demo)
    assert {table: before[table] for table in COUNTS} == COUNTS
    assert await invariant.check(demo) == []
    assert await one(demo, "SELECT sum(amount) FROM ledger_entry") == 0
    unpublished = "SELECT count(*) FROM outbox WHERE type = 'OrderPlaced' AND published_at IS NULL"
    assert await one(demo, unpublished) == 0
    again = await load(demo)
    assert again.model_dump(exclude={"seconds"}) == dict.fromkeys(
        ("products", "variants", "locations", "users", "orders"), 0
    )
    assert await counts(demo) == before


async def test_an_interrupted_load_goes_on(deps: Deps) -> None:
    class Interrupted(Exception):
        pass

    def stop(what: str, done: int, of: int) -> None:
        if what == "orders" and done >= 500:
            raise Interrupted

    with pytest.raises(Interrupted):
        await load(deps, progress=stop)
    told: list[tuple[str, int, int]] = []
    report = await load(deps, progress=lambda *step: told.append(step))
    assert (report.products, report.users, report.orders) == (0, 0, 1000)
    assert told[-1] == ("orders", 1500, 1500)
    assert {table: n for table, n in (await counts(deps)).items() if table in COUNTS} == COUNTS
    assert await invariant.check(deps) == []


async def test_what_a_merchant_changed_stays_changed(demo: Deps) -> None:
    handle = catalog.products()[0].handle
    async with demo.begin() as uow:
        await uow.session.execute(
            text("UPDATE product SET title = 'Mine' WHERE handle = :handle"), {"handle": handle}
        )
    await load(demo)
    assert await one(demo, f"SELECT title FROM product WHERE handle = '{handle}'") == "Mine"
    stored = await one(
        demo, "SELECT password_hash FROM app_user WHERE email = 'shopper@example.com'"
    )
    assert await security.verify_password(PASSWORD, str(stored))


def test_sales_are_the_same_every_time() -> None:
    first = history.sales()
    history.sales.cache_clear()
    assert history.sales() == first
    assert sum(sale.email == "shopper@example.com" for sale in first) >= 8


@pytest.mark.parametrize(
    "now",
    [
        datetime(2026, 12, 31, 0, 0, tzinfo=UTC),
        datetime(2027, 3, 1, 0, 0, 10, tzinfo=UTC),
        datetime(2028, 2, 29, 7, 0, tzinfo=UTC),
        datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
    ],
)
def test_something_was_sold_today_however_early_it_is(now: datetime) -> None:
    sales = history.sales()
    named = {sale.email: sale.email for sale in sales}
    people = history.People(ids=dict.fromkeys(named, UUID(int=7)), names=named)
    handles = {product.handle: UUID(int=7) for product in catalog.products()}
    tables = dict(history.rows(sales, people, handles, UUID(int=7), now))
    placed = [order["placed_at"] for order in tables[Order]]
    assert placed == sorted(placed)
    assert placed[-1] <= now
    assert sum(at.date() == now.date() for at in placed) >= 5


async def test_the_past_sends_no_mail(demo: Deps) -> None:
    reconciler = delivery.Reconciler()
    for _ in range(20):
        await reconciler.run_once(demo)
    assert await one(demo, "SELECT count(*) FROM notification") == 0
