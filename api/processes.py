"""What the commands do, apart from the demo and the terminal chat."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import orjson
import typer
from rich.console import Console

from api import serving
from api.servers import DATABASE, CommandFailed, Servers, open_servers
from api.workers import worker_pool
from db.models.user import Role
from db.types import new_id
from deps import postgres
from deps.core import SYSTEM, Deps
from deps.runtime import open_deps
from deps.settings import Settings
from deps.telemetry import configure, configure_logging, flush

console = Console(highlight=False)


async def serve(settings: Settings, workers: int = 1) -> None:
    """Serve the web application until a signal, in this process or in several."""
    configure_logging("web")
    configure(settings, "web")
    async with serving.stop_on_signals() as stop:
        listener = serving.bind(settings.host, settings.port)
        with listener, open_servers(settings) as servers:
            await serving.require_migrated(servers)
            async with (
                _web(settings, servers, listener)
                if workers == 1
                else worker_pool(servers, listener, workers)
            ) as web:
                console.print(f"Serving at {serving.address_of(listener)}")
                await serving.until_stopped(stop, web)
    flush()


@asynccontextmanager
async def _web(
    settings: Settings, servers: Servers, listener: socket.socket
) -> AsyncGenerator[asyncio.Task[None], None]:
    async with (
        opened(settings, servers, "web") as deps,
        serving.web(settings, deps, listener) as web,
    ):
        yield web


async def work(settings: Settings) -> None:
    """Deliver events until a signal."""
    configure_logging("worker")
    configure(settings, "worker")
    async with serving.stop_on_signals() as stop:
        with open_servers(settings) as servers:
            await serving.require_migrated(servers)
            async with opened(settings, servers, "worker") as deps, serving.worker(deps) as worker:
                console.print("Working.")
                await serving.until_stopped(stop, worker)
    flush()


async def migrate(settings: Settings, down: str | None) -> str:
    """Migrate up, or down to a revision, and tell where the schema is."""
    with open_servers(settings) as servers:
        if down is None:
            await serving.migrate(servers)
        else:
            await postgres.downgrade(servers.database_url, down)
        current, head = await postgres.revisions(servers.database_url)
    newest = "the newest" if current == head else f"the newest is {head}"
    return f"The schema is at revision {current or 'base'}; {newest}."


async def check_migrations(settings: Settings) -> str:
    """Run every migration up, compare with the models, and go one down and up again.

    Raises:
        MigrationError: A step failed or the models say something else.
    """
    with open_servers(settings) as servers:
        async with scratch(servers) as own:
            await postgres.upgrade(own.database_url)
            await postgres.check(own.database_url)
            await postgres.downgrade(own.database_url, "-1")
            await postgres.upgrade(own.database_url)
            await postgres.check(own.database_url)
            await postgres.downgrade(own.database_url, "base")
    return "The migrations run up and down and make what the models say."


async def import_catalogue(
    settings: Settings,
    source: Path,
    currency: str | None,
    errors_path: Path | None,
    location: str | None,
) -> int:
    """Import a file and print the counts; return 1 if a row was refused."""
    from tools.catalog_import import import_file

    with open_servers(settings) as servers:
        await serving.require_migrated(servers)
        async with opened(settings, servers, "import") as deps:
            with console.status("Reading") as status:
                report = await import_file(
                    deps.acting_as(SYSTEM),
                    source,
                    currency=currency or settings.currency,
                    location=location,
                    errors_path=errors_path,
                    on_progress=lambda done, of: status.update(f"{done} of {of} products"),
                )
    typer.echo(
        f"{report.rows} rows as {report.format}: {report.created} products created, "
        f"{report.updated} updated, {report.unchanged} unchanged, {report.stocked} SKUs stocked."
    )
    for warning in report.warnings:
        typer.echo(f"warning: {warning}")
    if report.errors:
        typer.echo(f"{report.refused} rows were refused; see {report.errors_file}")
    return 1 if report.errors else 0


async def tail_events(settings: Settings, after: int | None, as_json: bool) -> None:
    """Print events until interrupted."""
    from tools import event_log

    async with _system(settings) as deps:
        async for event in event_log.tail(deps, after_seq=after):
            if as_json:
                typer.echo(event.model_dump_json())
            else:
                at = event.occurred_at.strftime("%H:%M:%S")
                payload = orjson.dumps(event.payload).decode()
                typer.echo(f"{event.seq:>8} {at} {event.type} by {event.actor_role} {payload}")


async def list_dead(settings: Settings, as_json: bool) -> None:
    """Print the dead letters, newest first."""
    from tools import event_log

    async with _system(settings) as deps, deps.begin() as uow:
        page = await event_log.dead(uow)
    if as_json:
        typer.echo(page.model_dump_json())
        return
    for letter in page.items:
        typer.echo(
            f"{letter.id} {letter.failed_at:%Y-%m-%d %H:%M} {letter.type} → {letter.handler} "
            f"after {letter.attempts} attempts: {letter.reason}"
        )
    if not page.items:
        typer.echo("No dead letters.")
    elif page.next_cursor:
        typer.echo("There are more.")


async def replay_events(
    settings: Settings,
    letter: UUID | None,
    event: UUID | None,
    from_seq: int | None,
    to_seq: int | None,
    handler: str | None,
    force: bool,
) -> str:
    """Replay one dead letter, one event or a range.

    Raises:
        CommandFailed: Nothing was chosen.
    """
    from tools import event_log

    if letter is None and event is None and from_seq is None and to_seq is None:
        raise CommandFailed("Choose what to replay: --letter, --event, --from or --to.")
    async with _system(settings) as deps:
        if letter is not None:
            report = await event_log.replay_dead(deps, letter)
        else:
            report = await event_log.replay(
                deps,
                event_id=event,
                from_seq=from_seq,
                to_seq=to_seq,
                handler=handler,
                force=force,
            )
    return ", ".join(f"{count} {name}" for name, count in report.model_dump().items())


async def set_role(settings: Settings, email: str, role: Role) -> str:
    """Give a sign-in another role and say since when it holds.

    Raises:
        NotFound: Nobody has registered with the address.
    """
    from tools import user

    async with _system(settings) as deps, deps.begin() as uow:
        await user.set_role(uow, email=email, role=role)
    minutes = -(-settings.access_token_ttl_s // 60)
    return f"{email} is {role.value} from the next sign-in on, and in {minutes} minutes at most."


async def check_invariants(settings: Settings, as_json: bool) -> int:
    """Print what does not hold; return 1 if anything does not."""
    from tools.invariant import INVARIANTS, check

    async with _system(settings) as deps:
        violations = await check(deps)
    if as_json:
        rows = [violation.model_dump() for violation in violations]
        typer.echo(orjson.dumps({"checked": len(INVARIANTS), "violations": rows}))
    else:
        for violation in violations:
            typer.echo(f"{violation.invariant}: {violation.count}, e.g. {violation.offenders}")
        typer.echo(f"{len(INVARIANTS) - len(violations)} of {len(INVARIANTS)} invariants hold.")
    return 1 if violations else 0


@asynccontextmanager
async def scratch(servers: Servers) -> AsyncGenerator[Servers, None]:
    """Yield the servers with an empty database that is dropped afterwards."""
    database = f"{DATABASE}_scratch_{new_id().hex}"
    # Not str(): that would hide the password.
    url = postgres.normalise(servers.database_url).set(database=database)
    own = replace(servers, database_url=url.render_as_string(hide_password=False))
    await postgres.ensure_database(own.database_url)
    try:
        yield own
    finally:
        await postgres.drop_database(own.database_url)


@asynccontextmanager
async def _system(settings: Settings) -> AsyncGenerator[Deps, None]:
    with open_servers(settings) as servers:
        await serving.require_migrated(servers)
        async with opened(settings, servers, "cli") as deps:
            yield deps.acting_as(SYSTEM)


@asynccontextmanager
async def opened(settings: Settings, servers: Servers, part: str) -> AsyncGenerator[Deps, None]:
    """Yield dependencies on `servers`, named after the part of the program that asks."""
    async with open_deps(
        settings,
        database_url=servers.database_url,
        redis_url=servers.redis_url,
        name=f"shopkeeper-{part}",
    ) as deps:
        yield deps
