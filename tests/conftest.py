"""Fixtures: real servers, a database migrated once, and a clone of it that no other test sees."""

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import hypothesis
import pytest
from pydantic_ai import models
from redis.asyncio import Redis

from db.models.user import Role
from db.types import new_id
from deps import hot, postgres
from deps.cache import Cache
from deps.core import Deps
from deps.credit import CreditGateway
from deps.embedded_postgres import EmbeddedPostgres
from deps.embedded_valkey import EmbeddedValkey
from deps.hot import HotPool
from deps.runtime import open_deps
from deps.scripted import ScriptedGateway
from deps.settings import Settings
from tests import factories, homes
from tests.databases import Clones
from tests.factories import RecordingMailer
from tools.demo.load import load

models.ALLOW_MODEL_REQUESTS = False
# A loaded machine is slow, which says nothing about the code. The examples are the same in every
# run, so that what fails is a change; `--hypothesis-profile=searching` looks for new ones.
_PATIENT = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("searching", _PATIENT)
hypothesis.settings.register_profile("shopkeeper", _PATIENT, derandomize=True)
hypothesis.settings.load_profile("shopkeeper")
OWN_RUN = pytest.StashKey[str]()
NOW = datetime(2026, 1, 30, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session", autouse=True)
def patience() -> Generator[None, None, None]:
    """On a machine that is busy with other things a server takes long, and is not away."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (postgres, hot):
            patched.setattr(module, "CONNECT_TIMEOUT_S", 60.0)
            patched.setattr(module, "POOL_TIMEOUT_S", 60.0)
        for name in ("MIGRATION_TURN_TIMEOUT", "MIGRATION_LOCK_TIMEOUT"):
            patched.setattr(postgres, name, "300s")
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Name the run, unless it has a name: workers are told it, and mutants too."""
    if homes.RUN not in os.environ:
        run = config.stash[OWN_RUN] = os.environ[homes.RUN] = new_id().hex
        config.option.testrunuid = run


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(OWN_RUN, None)
    if run is not None:
        del os.environ[homes.RUN]
        homes.remove(run)


@pytest.fixture(scope="session")
def run_home() -> Path:
    return homes.home()


@pytest.fixture(scope="session")
def server(run_home: Path) -> Generator[EmbeddedPostgres, None, None]:
    with EmbeddedPostgres(run_home / "pg", fast=True) as running:
        yield running


@pytest.fixture(scope="session")
def valkey(run_home: Path, worker_id: str) -> Generator[EmbeddedValkey, None, None]:
    """One Valkey per worker: tests flush it."""
    with EmbeddedValkey(run_home / f"valkey-{worker_id}", fast=True) as running:
        yield running


@pytest.fixture(scope="session")
async def template(server: EmbeddedPostgres, worker_id: str) -> str:
    """A migrated, empty database to clone; cloning takes milliseconds, migrating takes seconds."""
    name = f"template_{worker_id}"
    await postgres.drop_database(server.dsn(name))
    await postgres.ensure_database(server.dsn(name))
    await postgres.upgrade(server.dsn(name))
    return name


@pytest.fixture(scope="session")
async def demo_template(server: EmbeddedPostgres, template: str, worker_id: str) -> str:
    """The demo shop to clone: loading it takes seconds."""
    name = f"demo_{worker_id}"
    await postgres.drop_database(server.dsn(name))
    await postgres.clone_database(server.dsn(name), template)
    settings = Settings(_env_file=None)
    async with open_deps(settings, database_url=server.dsn(name), redis_url=None) as deps:
        await load(deps)
    return name


@pytest.fixture
async def demo_url(server: EmbeddedPostgres, demo_template: str) -> AsyncGenerator[str, None]:
    name = f"test_{new_id().hex}"
    await postgres.clone_database(server.dsn(name), demo_template)
    yield server.dsn(name)
    await postgres.drop_database(server.dsn(name))


@pytest.fixture(scope="session")
async def clones(server: EmbeddedPostgres, template: str) -> AsyncGenerator[Clones, None]:
    made = Clones(server, template)
    yield made
    await made.aclose()


@pytest.fixture
async def database_url(clones: Clones) -> AsyncGenerator[str, None]:
    async with clones.taken() as url:
        yield url


@pytest.fixture
def settings() -> Settings:
    """Of a shop in which nothing is given up because the machine is busy with other things."""
    return Settings(
        _env_file=None,
        rate_limits=False,
        database_pool_size=30,
        statement_timeout_ms=60_000,
        lock_timeout_ms=60_000,
    )


@pytest.fixture
async def redis(valkey: EmbeddedValkey) -> AsyncGenerator[Redis, None]:
    client = Redis.from_url(valkey.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
def mailer() -> RecordingMailer:
    return RecordingMailer()


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway(clock=lambda: NOW)


@pytest.fixture
async def deps(
    database_url: str,
    redis: Redis,
    settings: Settings,
    gateway: ScriptedGateway,
    mailer: RecordingMailer,
) -> AsyncGenerator[Deps, None]:
    """Real dependencies over a private database, as a guest; tests commit and race for real."""
    async with _deps_on(database_url, redis, settings, gateway, mailer) as made:
        yield made


@pytest.fixture
async def demo(
    demo_url: str,
    redis: Redis,
    settings: Settings,
    gateway: ScriptedGateway,
    mailer: RecordingMailer,
) -> AsyncGenerator[Deps, None]:
    """The same over a demo shop of one's own."""
    async with _deps_on(demo_url, redis, settings, gateway, mailer) as made:
        yield made


@asynccontextmanager
async def _deps_on(
    url: str, redis: Redis, settings: Settings, gateway: ScriptedGateway, mailer: RecordingMailer
) -> AsyncGenerator[Deps, None]:
    engine = postgres.create_engine(url, settings)
    hot = await HotPool.open(url, settings)
    sessions = postgres.session_factory(engine)
    yield Deps(
        db=sessions,
        hot=hot,
        cache=Cache(redis),
        gateways={
            gateway.name: gateway,
            "credit": CreditGateway(sessions, clock=lambda: NOW),
        },
        mailer=mailer,
        settings=settings,
        clock=lambda: NOW,
    )
    await hot.aclose()
    await engine.dispose()


@pytest.fixture
async def customer(deps: Deps) -> Deps:
    return await factories.user(deps, role=Role.CUSTOMER)


@pytest.fixture
async def merchant(deps: Deps) -> Deps:
    return await factories.user(deps, role=Role.MERCHANT)


@pytest.fixture
async def guest(deps: Deps) -> Deps:
    return factories.guest(deps)


@pytest.fixture
async def client(deps: Deps) -> AsyncGenerator[httpx.AsyncClient, None]:
    """The HTTP API, called as a guest with a token; add `Authorization` to be someone."""
    from api import chat
    from api.app import create_app

    app = create_app(deps.settings)
    app.state.deps = deps
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://test",
        headers={"X-Guest-Token": factories.GUEST_TOKEN},
    ) as client:
        yield client
    await chat.close(app)
