"""Row-level security itself, by raw SQL: what agents could reach if all checks above it failed."""

from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.models import metadata
from db.models.agent import AgentRun
from db.models.conversation import PendingAction
from db.models.user import Role
from db.row_security import ASKING, CLOSED, GUARDED, READ_ONLY, ROLE, SHARED
from db.types import ActionId, new_id
from deps import postgres
from deps.core import ROLE_SCOPES, Actor, AgentRoleMissing, Deps, confined
from deps.embedded_postgres import EmbeddedPostgres
from deps.row_security import MEND
from tests import factories
from tests.db.privileges import PlainUser, plain_user
from tools import conversation, idempotency

CHANGES = ("UPDATE {table} SET {column} = {column}", "DELETE FROM {table}")
# Rows that exist in the shop the tests build; the others are proved by the predicates' tests.
OF_A_SHOPPER = (
    "cart", "cart_line", "conversation", "pending_action", "agent_run", "orders", "order_line",
    "payment", "payment_attempt", "outbox WHERE aggregate_type <> 'product'", "idempotency_key",
)  # fmt: skip


def test_every_table_is_classified() -> None:
    classified = [*GUARDED, *SHARED, *CLOSED, *ASKING]
    assert len(classified) == len(set(classified)), "a table is in two lists"
    assert set(metadata.tables) - set(classified) == set(), (
        "say in db/row_security.py who may see the rows of these tables"
    )


async def test_a_view_of_everybody_is_empty_without_its_scope(
    customer: Deps, guest: Deps, merchant: Deps
) -> None:
    for who in (customer, guest):
        assert await _count(who, "staff_user") == 0
    assert await _count(merchant, "staff_user") == 2
    with pytest.raises(DBAPIError, match="permission denied"):
        async with replace(merchant, as_agent=True).begin() as uow:
            await uow.session.execute(text("DELETE FROM staff_user"))


@pytest.fixture
async def shop(deps: Deps) -> Deps:
    await factories.product(deps, "MUG", stock=50)
    return deps


async def _belongings(owner: Deps) -> None:
    """Give `owner` a row in every table that holds something of a shopper."""
    await factories.placed_order(owner, MUG=1)
    async with owner.begin() as uow:
        opened = await conversation.start(uow, "mine")
        key = owner.actor.key
        assert key is not None
        uow.session.add(AgentRun(actor_id=key, actor_role="customer", started_at=uow.now))
        uow.session.add(
            PendingAction(
                id=ActionId(new_id()), conversation_id=opened.id, actor_id=key, actor_role="x",
                operation="x", arguments={}, arguments_sha256="", preview={},
                expires_at=uow.now, created_at=uow.now,
            )
        )  # fmt: skip
    actor = owner.actor
    scope = f"user:{actor.user_id}" if actor.user_id else f"guest:{actor.guest_secret_sha256}"
    await idempotency.claim(owner, scope=scope, key="key", request_sha256="x")


async def _count(deps: Deps, table: str) -> int:
    async with replace(deps, as_agent=True).begin() as uow:
        return int((await uow.session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())


@pytest.mark.parametrize("table", OF_A_SHOPPER)
async def test_a_shopper_reaches_own_rows_only(
    shop: Deps, customer: Deps, guest: Deps, table: str
) -> None:
    other = await factories.user(shop)
    stranger = factories.guest(shop, "another-guest-token-0123456789abcdef")
    for owner in (customer, guest):
        await _belongings(owner)
    for owner in (customer, guest):
        assert await _count(owner, table) > 0, "the owner sees nothing: the test proves nothing"
    for outsider in (other, stranger, shop):
        assert await _count(outsider, table) == 0
    async with shop.begin() as uow:
        everything = (await uow.session.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()
    assert await _count(customer, table) + await _count(guest, table) == everything


@pytest.mark.parametrize("table", sorted(GUARDED))
async def test_an_outsider_changes_nothing(shop: Deps, customer: Deps, table: str) -> None:
    """Every guarded table, with all of a shopper's rows in place: no row updated, none deleted."""
    await _belongings(customer)
    outsider = replace(await factories.user(shop), as_agent=True)
    column = list(metadata.tables[table].columns)[-1].name
    own = 1 if table == "app_user" else 0
    for change in CHANGES:
        statement = change.format(table=table, column=column)
        assert await _changed(outsider, statement) in (own, "permission denied")


async def _changed(outsider: Deps, statement: str) -> int | str:
    """Return how many rows a statement touches; it is rolled back."""
    touched: int | str = "nothing ran"
    try:
        async with outsider.begin() as uow:
            touched = (await uow.session.execute(text(statement))).rowcount  # type: ignore[attr-defined]
            raise _Undo
    except _Undo:
        return touched
    except DBAPIError as error:
        return "permission denied" if "permission denied" in str(error) else str(error)


class _Undo(Exception):
    pass


async def test_staff_see_the_shop_but_not_peoples_conversations(
    shop: Deps, customer: Deps, merchant: Deps
) -> None:
    await _belongings(customer)
    for table in ("orders", "order_line", "payment", "outbox"):
        assert await _count(merchant, table) > 0
    for table in ("conversation", "cart", "idempotency_key"):
        assert await _count(merchant, table) == 0


@pytest.mark.parametrize("table", sorted(CLOSED))
async def test_closed_tables_are_closed_to_every_role(deps: Deps, table: str) -> None:
    for role in (None, *Role):
        actor = Actor(role=role, user_id=None, scopes=ROLE_SCOPES[role])
        with pytest.raises(DBAPIError, match="permission denied"):
            await _count(deps.acting_as(actor), table)


async def test_read_only_tables_take_no_rows(shop: Deps, customer: Deps) -> None:
    """The audit trail and the approvals cannot be written by whom they are about."""
    await _belongings(customer)
    for table in [t for t, guard in GUARDED.items() if guard.writes == READ_ONLY]:
        with pytest.raises(DBAPIError, match="permission denied"):
            async with replace(customer, as_agent=True).begin() as uow:
                await uow.session.execute(text(f"DELETE FROM {table}"))


async def test_a_row_cannot_be_given_away(shop: Deps, customer: Deps) -> None:
    await _belongings(customer)
    other = await factories.user(shop)
    with pytest.raises(DBAPIError, match="row-level security"):
        async with replace(customer, as_agent=True).begin() as uow:
            await uow.session.execute(
                text("UPDATE cart SET customer_id = :other"), {"other": other.actor.user_id}
            )


async def test_the_restriction_ends_with_its_part_and_with_the_transaction(
    shop: Deps, customer: Deps
) -> None:
    await _belongings(customer)
    other = await factories.user(shop)
    orders = text("SELECT count(*) FROM orders")
    async with other.begin() as uow:
        async with confined(uow) as restricted:
            assert (await restricted.session.execute(orders)).scalar_one() == 0
        assert (await uow.session.execute(orders)).scalar_one() == 1
    with pytest.raises(_Undo):
        async with replace(other, as_agent=True).begin():
            raise _Undo
    # Whatever connection comes out of the pool, none kept the role.
    for _ in range(5):
        async with other.begin() as uow:
            assert (await uow.session.execute(orders)).scalar_one() == 1


async def test_checks_at_the_commit_see_everything(shop: Deps, customer: Deps) -> None:
    """Deferred checks run after the role is put down: it must not hide an unbalanced ledger."""
    await _belongings(customer)
    with pytest.raises(DBAPIError, match="balance"):
        async with replace(customer, as_agent=True).begin() as uow:
            await uow.session.execute(
                text("""
                    INSERT INTO ledger_entry
                           (transaction_id, account, amount, currency, order_id, occurred_at)
                    SELECT gen_random_uuid(), 'clearing', 5, currency, id, :now FROM orders
                """),
                {"now": uow.now},
            )


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedPostgres, None, None]:
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg"), fast=True) as running:
        yield running


@pytest.fixture
async def owner(own_server: EmbeddedPostgres) -> AsyncGenerator[PlainUser, None]:
    async with plain_user(own_server) as user:
        yield user


async def test_an_ordinary_user_who_may_create_roles_is_enough(
    owner: PlainUser, deps: Deps
) -> None:
    await owner.let_create_roles()
    await postgres.upgrade(owner.url)
    assert await postgres.agents_problem(owner.url) is None
    assert await owner.customers_seen_by_an_agent(deps) == 1


async def test_without_that_right_agents_are_off_until_the_mend_is_followed(
    owner: PlainUser, deps: Deps
) -> None:
    await postgres.upgrade(owner.url)
    assert ROLE in (await postgres.agents_problem(owner.url) or "")
    with pytest.raises(AgentRoleMissing):
        await owner.customers_seen_by_an_agent(deps)
    await owner.follow_the_mend()
    assert ROLE in MEND
    await postgres.upgrade(owner.url)
    assert await postgres.agents_problem(owner.url) is None
    assert await owner.customers_seen_by_an_agent(deps) == 1


async def test_migrating_again_takes_no_lock(owner: PlainUser, deps: Deps) -> None:
    """A shop that starts beside a running one must not wait for its transactions."""
    await owner.let_create_roles()
    await postgres.upgrade(owner.url)
    engine = postgres.create_engine(owner.url, deps.settings)
    async with engine.begin() as busy:
        await busy.execute(text("LOCK TABLE orders, app_user IN ACCESS SHARE MODE"))
        await postgres.upgrade(owner.url)
    await engine.dispose()
