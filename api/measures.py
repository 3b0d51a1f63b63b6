"""Benchmarks and evals: found by name, each run on a database of its own.

One is a module `<package>/<name>.py`, or `<package>/<name>/run.py`, with

    async def main(deps: Deps, *, data: Path | None = None, as_json: bool = False) -> int

that prints its report and returns an exit code. What else a command may be told (`tasks`,
`payloads`, `live`, `k`) is whatever further keywords its `main` names. A module with `SLOW = True`
runs only when it is named, or when a real model is asked.
"""

import importlib
import inspect
import io
import pkgutil
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import typer

from api import processes
from api.servers import CommandFailed, Servers, open_servers
from deps import postgres
from deps.settings import Settings


async def run(settings: Settings, package: str, name: str | None, given: Mapping[str, Any]) -> int:
    """Run `name` of `package`, or every quick one, and return 1 if any did not pass.

    Args:
        settings: Say which servers; embedded ones are started when they name none.
        package: `bench` or `evals`.
        name: Absent: list all, and run those that are quick and understand `given`.
        given: Options as typed; those left out are None or False.

    Raises:
        CommandFailed: There is no such module, or it does not take such an option, or a file is
            not there.
    """
    options = {key: value for key, value in given.items() if value not in (None, False)}
    names = runnable(package)
    if name is None:
        modules = {found: module(package, found) for found in names}
        return await _run_all(settings, package, modules, options)
    if name not in names:
        raise CommandFailed(f"There is no {name} in {package}; there is: {', '.join(names)}.")
    found = module(package, name)
    unknown = options.keys() - taken(found)
    if unknown:
        raise CommandFailed(f"{name} takes no {', '.join(sorted(_flag(u) for u in unknown))}.")
    absent = [path for path in options.values() if isinstance(path, Path) and not path.exists()]
    if absent:
        raise CommandFailed(f"There is no {absent[0]}.")
    with open_servers(settings) as servers:
        return await _run_one(settings, servers, package, found, options)


async def _run_all(
    settings: Settings, package: str, modules: Mapping[str, ModuleType], options: dict[str, Any]
) -> int:
    chosen = {
        name: found
        for name, found in modules.items()
        if (not getattr(found, "SLOW", False) or options.get("live"))
        and options.keys() <= taken(found)
    }
    as_json = bool(options.get("as_json"))
    if not as_json:
        for name, found in modules.items():
            mark = "" if name in chosen else "  (by name only)"
            typer.echo(f"{name:12} {(found.__doc__ or '').splitlines()[0]}{mark}")
    codes, printed = {}, {}
    with open_servers(settings) as servers:
        for name, found in chosen.items():
            if not as_json:
                typer.echo(f"\n{name}")
            with redirect_stdout(io.StringIO()) as output:
                codes[name] = await _run_one(settings, servers, package, found, options)
            printed[name] = output.getvalue()
            if not as_json:
                typer.echo(printed[name].rstrip())
    if as_json:
        typer.echo(orjson.dumps({name: orjson.loads(text) for name, text in printed.items()}))
    else:
        failed = [name for name, code in codes.items() if code]
        typer.echo(
            f"\n{len(codes) - len(failed)} of {len(codes)} passed. {' '.join(failed)}".rstrip()
        )
    return int(any(codes.values()))


async def _run_one(
    settings: Settings, servers: Servers, package: str, found: ModuleType, options: dict[str, Any]
) -> int:
    async with processes.scratch(servers) as own:
        await postgres.upgrade(own.database_url)
        async with processes.opened(settings, own, package) as deps:
            return int(await found.main(deps, **options) or 0)


def module(package: str, name: str) -> ModuleType:
    """Import what holds the `main` of `name`."""
    found = importlib.import_module(f"{package}.{name}")
    return importlib.import_module(f"{package}.{name}.run") if hasattr(found, "__path__") else found


def taken(found: ModuleType) -> set[str]:
    """Return the options that a module's `main` takes."""
    return {
        parameter.name
        for parameter in inspect.signature(found.main).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def runnable(package: str) -> list[str]:
    """Return the names of what has a `main` in `package`, without importing it."""
    root = Path(importlib.import_module(package).__path__[0])
    return [
        entry.name
        for entry in pkgutil.iter_modules([str(root)])
        for source in [root / entry.name / "run.py" if entry.ispkg else root / f"{entry.name}.py"]
        if source.exists() and "\nasync def main(" in source.read_text()
    ]


def _flag(option: str) -> str:
    return "--json" if option == "as_json" else f"--{option}"
