"""`./shopkeeper`: the commands. Each loads what it needs only when it runs; loading it all takes
seconds."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from api import loop
from api.servers import CommandFailed

T = TypeVar("T")

app = typer.Typer(
    name="shopkeeper",
    help="A commerce backend run by agents and kept honest by plain code.\n\n"
    "Start with: ./shopkeeper demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
events_app = typer.Typer(help="Read, follow and replay what happened.", no_args_is_help=True)
app.add_typer(events_app, name="events")
users_app = typer.Typer(help="Look after the people who sign in.", no_args_is_help=True)
app.add_typer(users_app, name="users")

SEQ_MAX = 2**63 - 1  # Of events: they are counted in a bigint.
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def say(message: str = "") -> None:
    typer.echo(message)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command to its end; an expected failure becomes one sentence and exit code 1."""
    try:
        return loop.run(_cancelled_by_signals(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(130) from None
    except Exception as error:  # The edge of the program: what nobody expected is re-raised.
        sentence = expected(error)
        if sentence is None:
            raise
        typer.secho(sentence, fg="red", err=True)
        raise typer.Exit(1) from error


async def _cancelled_by_signals(work: Coroutine[Any, Any, T]) -> T:
    # Ctrl-C does so by itself. The others would end the process before it stopped its servers.
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def expected(error: Exception) -> str | None:
    """Return what to tell about a failure that is not a bug, or None."""
    from deps.postgres import DatabaseUnavailable, MigrationError
    from deps.process import EmbeddedError
    from tools.errors import DomainError

    known = (CommandFailed, DatabaseUnavailable, EmbeddedError, MigrationError, DomainError)
    if isinstance(error, known):
        return str(error)
    if isinstance(error, PermissionError | ConnectionError):
        place = f" {error.filename}" if error.filename else ""
        return f"{error.strerror or error}:{place or ' the connection'}"
    if isinstance(error, OSError) and error.strerror and "space" in error.strerror:
        return f"{error.strerror}: make room and try again."
    return None


def load_settings(**overrides: Any) -> Any:
    """Read settings; a wrong one is one sentence."""
    from pydantic import ValidationError

    from deps.settings import Settings

    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = "_".join(str(part) for part in problem["loc"]).upper()
        shared = name.startswith(("DATABASE_URL", "REDIS_URL", "OPENAI", "SHOPKEEPER")) or not name
        setting = name if shared else f"SHOPKEEPER_{name}"
        message = problem["msg"].removeprefix("Value error, ")
        typer.secho(f"{setting}: {message}" if setting else message, fg="red", err=True)
        raise typer.Exit(1) from error


def from_caller(path: Path) -> Path:
    """Resolve a path as whoever called the launcher, which changed directory, meant it."""
    return Path(os.environ.get("SHOPKEEPER_CALLED_FROM", ".")) / path.expanduser()


@app.command()
def demo(
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier demo first.")] = False,
    port: Annotated[int | None, typer.Option(help="0 takes any free one. Default: 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no window.")] = False,
) -> None:
    """Start the whole shop with demo data: servers, API, chat, console and worker.

    Example: ./shopkeeper demo --port 9000
    """
    from api import demo as demo_shop

    settings = load_settings(port=port, host=host)
    run(demo_shop.run(settings, fresh=fresh, open_browser=not no_browser))


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="Default: 8080.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that answer on the one port.")
    ] = 1,
) -> None:
    """Serve API, chat and console; run `worker` beside it.

    Example: DATABASE_URL=postgresql://… REDIS_URL=redis://… ./shopkeeper serve --workers 4
    """
    from api import processes

    run(processes.serve(load_settings(port=port, host=host), workers))


@app.command()
def worker() -> None:
    """Deliver events, retry what failed, and finish what a crash interrupted.

    Example: DATABASE_URL=postgresql://… REDIS_URL=redis://… ./shopkeeper worker
    """
    from api import processes

    run(processes.work(load_settings()))


@app.command()
def migrate(
    down: Annotated[str | None, typer.Option(help="Go back to this revision; -1 is one.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Try all migrations, both ways, on a scratch database.")
    ] = False,
) -> None:
    """Bring the database's schema to the newest revision.

    Example: ./shopkeeper migrate --down -1
    """
    from api import processes

    settings = load_settings()
    say(run(processes.check_migrations(settings) if check else processes.migrate(settings, down)))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, JSON or another supported format.")],
    currency: Annotated[str | None, typer.Option(help="Of the file's prices.")] = None,
    errors: Annotated[Path | None, typer.Option(help="Where to write bad rows.")] = None,
    location: Annotated[str | None, typer.Option(help="Code of what receives the stock.")] = None,
) -> None:
    """Import a catalogue; a second run changes only what changed.

    Example: ./shopkeeper import products.csv --currency EUR --errors bad-rows.csv
    """
    from api import processes

    source = from_caller(file)
    if not source.exists():
        typer.secho(f"There is no {source}.", fg="red", err=True)
        raise typer.Exit(1)
    errors_path = from_caller(errors) if errors else None
    work = processes.import_catalogue(load_settings(), source, currency, errors_path, location)
    raise typer.Exit(run(work))


@app.command()
def chat(
    as_: Annotated[str, typer.Option("--as", help="guest, customer or merchant.")] = "guest",
    once: Annotated[str | None, typer.Option(help="Say this, print the answer, end.")] = None,
    url: Annotated[str | None, typer.Option(help="A running shop; else one is started.")] = None,
) -> None:
    """Talk to the shop in the terminal.

    Example: ./shopkeeper chat --as merchant --once "What sold today?"
    """
    from api import terminal

    if as_ not in ("guest", "customer", "merchant"):
        raise typer.BadParameter("choose guest, customer or merchant", param_hint="--as")
    raise typer.Exit(run(terminal.chat(load_settings(), role=as_, once=once, url=url)))


@events_app.command()
def tail(
    after: Annotated[
        int | None, typer.Option(min=0, max=SEQ_MAX, help="Begin behind this number.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print events as they happen.

    Example: ./shopkeeper events tail --after 0
    """
    from api import processes

    run(processes.tail_events(load_settings(), after, as_json))


@events_app.command()
def dead(as_json: Json = False) -> None:
    """List deliveries that were given up.

    Example: ./shopkeeper events dead
    """
    from api import processes

    run(processes.list_dead(load_settings(), as_json))


@events_app.command()
def replay(
    letter: Annotated[str | None, typer.Option(help="Id of a dead letter.")] = None,
    event: Annotated[str | None, typer.Option(help="Id of an event.")] = None,
    from_seq: Annotated[
        int | None, typer.Option("--from", min=0, max=SEQ_MAX, help="First number.")
    ] = None,
    to_seq: Annotated[
        int | None, typer.Option("--to", min=0, max=SEQ_MAX, help="Last number.")
    ] = None,
    handler: Annotated[str | None, typer.Option(help="Only this one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what was applied.")] = False,
) -> None:
    """Deliver past events again; without --force only what was never applied.

    Example: ./shopkeeper events replay --from 100 --to 200
    """
    from uuid import UUID

    from api import processes

    try:
        letter_id = UUID(letter) if letter else None
        event_id = UUID(event) if event else None
    except ValueError as error:
        raise typer.BadParameter("is not an id", param_hint="--letter or --event") from error
    work = processes.replay_events(
        load_settings(), letter_id, event_id, from_seq, to_seq, handler, force
    )
    say(run(work))


@users_app.command("role")
def set_role(
    email: Annotated[str, typer.Argument(help="Whom: the address they registered with.")],
    role: Annotated[str, typer.Argument(help="customer, merchant or admin.")],
) -> None:
    """Give somebody who has registered another role: how a shop gets its first admin.

    Example: ./shopkeeper users role ada@example.com admin
    """
    from api import processes
    from db.models.user import Role

    given = {known.value: known for known in Role if known is not Role.SYSTEM}
    if role not in given:
        raise typer.BadParameter(f"choose {', '.join(given)}", param_hint="ROLE")
    say(run(processes.set_role(load_settings(), email, given[role])))


@app.command()
def invariants(as_json: Json = False) -> None:
    """Check on the live database what must always hold of money and stock.

    Example: ./shopkeeper invariants --json
    """
    from api import processes

    raise typer.Exit(run(processes.check_invariants(load_settings(), as_json)))


Data = Annotated[Path | None, typer.Option(help="Input file, where the run takes one.")]


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="What to measure; unknown names list all.")],
    data: Data = None,
    server: Annotated[str | None, typer.Option(help="uvicorn or granian.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Web processes.")] = None,
    sizes: Annotated[str | None, typer.Option(help="SKUs, as in 1000,100000.")] = None,
    lines: Annotated[str | None, typer.Option(help="Lines of a cart, as in 1,10,100.")] = None,
    orders: Annotated[str | None, typer.Option(help="Past orders, as in 0,1000000.")] = None,
    as_json: Json = False,
) -> None:
    """Measure, on a scratch database of this machine.

    Example: ./shopkeeper bench checkout --json
    """
    growth = {"sizes": sizes, "lines": lines, "orders": orders}
    _measure("bench", name, data=data, server=server, workers=workers, **growth, as_json=as_json)


@app.command("eval")
def eval_(
    name: Annotated[str | None, typer.Argument(help="Without one: all that are quick.")] = None,
    data: Data = None,
    tasks: Annotated[Path | None, typer.Option(help="Which tasks of the data to run.")] = None,
    payloads: Annotated[Path | None, typer.Option(help="Other attacks to try.")] = None,
    k: Annotated[int | None, typer.Option("--k", min=1, max=20, help="Runs of a case.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Ask the configured model.")] = False,
    as_json: Json = False,
) -> None:
    """Score the agents against written cases.

    Example: ./shopkeeper eval routing --json
    """
    files = {"data": data, "tasks": tasks, "payloads": payloads}
    _measure("evals", name, **files, k=k, live=live, as_json=as_json)


def _measure(package: str, name: str | None, **given: Any) -> None:
    from api import measures

    for option, value in given.items():
        if isinstance(value, Path):
            given[option] = from_caller(value)
    raise typer.Exit(run(measures.run(load_settings(), package, name, given)))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine and the settings, and say what to mend.

    Example: ./shopkeeper doctor
    """
    from api.doctor import examine

    findings = run(examine())
    if as_json:
        say(json.dumps([vars(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.secho(
                "ok   " if finding.ok else "fail ", nl=False, fg="green" if finding.ok else "red"
            )
            say(f"{finding.name}: {finding.state}")
            if not finding.ok:
                say(f"     mend: {finding.mend}")
    raise typer.Exit(0 if all(finding.ok for finding in findings) else 1)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def test(context: typer.Context) -> None:
    """Run the tests; arguments go to pytest. Without -n, two processes are used.

    Without a path or -m, those that take minutes are left out: crashes at every place, races of
    processes, every operation against every foreign thing. `./shopkeeper test -m slow` runs them.

    Example: ./shopkeeper test tests/tools -k cart
    """
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *pytest_arguments(context.args)])


def pytest_arguments(given: list[str]) -> list[str]:
    """Return what pytest is called with when `./shopkeeper test` is called with `given`."""
    names_tests = any(Path(argument.partition("::")[0]).exists() for argument in given)
    chosen = [] if names_tests or any(a.startswith("-m") for a in given) else ["-m", "not slow"]
    is_numbered = any(argument.startswith(("-n", "--numprocesses")) for argument in given)
    return [*([] if is_numbered else ["-n", "2"]), *chosen, *given]


if __name__ == "__main__":
    app(prog_name="shopkeeper")
