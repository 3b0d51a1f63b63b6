"""The database of a test is as the template is, whatever the test before did to it."""

import pytest

from deps.embedded_postgres import EmbeddedPostgres
from tests.databases import Clones, connection_to

ROWS = """
    INSERT INTO location (id, code, name, priority, is_active)
    SELECT gen_random_uuid(), 'L' || i, 'x', 1, true FROM generate_series(1, {count}) i
"""


async def run(url: str, statement: str) -> object:
    async with connection_to(url) as connection:
        return await connection.fetchval(statement)


@pytest.mark.parametrize("count", [3, 20_000], ids=["few", "many"])
async def test_rows_and_numbers_begin_anew(
    server: EmbeddedPostgres, template: str, count: int
) -> None:
    clones = Clones(server, template)
    async with clones.taken() as first:
        sequence = await run(first, "SELECT min(sequencename) FROM pg_sequences")
        number = f"SELECT nextval('{sequence}')"
        began = await run(first, number)
        await run(first, ROWS.format(count=count))
    async with clones.taken() as second:
        assert second == first
        assert await run(second, "SELECT count(*) FROM location") == 0
        assert await run(second, number) == began
    await clones.aclose()


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX ix_orders_created_at_number",
        "ALTER TABLE orders DISABLE TRIGGER ALL",
        "ALTER TABLE orders ADD COLUMN more int",
        "ALTER TABLE cart DISABLE ROW LEVEL SECURITY",
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM postal_area WHERE ctid = '(0,1)'",
    ],
)
async def test_what_changed_more_than_rows_is_not_used_again(
    server: EmbeddedPostgres, template: str, statement: str
) -> None:
    clones = Clones(server, template)
    async with clones.taken() as first:
        await run(first, statement)
    async with clones.taken() as second:
        assert second != first
    await clones.aclose()
