"""PostgreSQL's own load generator, for what the same SQL costs with nothing in front of it."""

import asyncio
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from bench import load
from deps.core import Deps
from deps.hot import PLANNING
from deps.process import find_postgres

_TPS = re.compile(r"^tps = ([0-9.]+) \(without", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rate:
    """What `pgbench` reached: scripts per second, and the server's CPU for each."""

    tps: float
    database_cpu_ms: float


async def run(deps: Deps, script: str, *, clients: int, seconds: float) -> Rate | None:
    """Run `script` over and over on the database of `deps`; None if there is no pgbench.

    Raises:
        RuntimeError: A statement of the script failed.
    """
    program = _program()
    if program is None:
        return None
    engine: AsyncEngine = deps.db.kw["bind"]
    with tempfile.TemporaryDirectory(prefix="shopkeeper-pgbench-") as directory:
        file = Path(directory) / "script.sql"
        file.write_text(script)
        before = await load.server_cpu_s(deps)
        process = await asyncio.create_subprocess_exec(
            program,
            *("--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=1"),
            *(f"--time={max(1, round(seconds))}", f"--file={file}"),
            env={**os.environ, **_address(engine.url), "PGOPTIONS": _options()},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = (text.decode() for text in await process.communicate())
        cpu_s = await load.server_cpu_s(deps) - before
    found = _TPS.search(output)
    if process.returncode or found is None:
        raise RuntimeError(f"pgbench failed:\n{errors[-2_000:] or output[-2_000:]}")
    tps = float(found[1])
    return Rate(tps, round(cpu_s * 1_000 / max(1.0, tps * seconds), 2))


def _program() -> str | None:
    embedded = find_postgres() / "pgbench"
    return str(embedded) if embedded.exists() else shutil.which("pgbench")


def _options() -> str:
    """Ask the server for what the shop's own connections ask for, where it changes plans."""
    return " ".join(f"-c {name}={value}" for name, value in PLANNING.items())


def _address(url: URL) -> dict[str, str]:
    host = url.host or url.query.get("host")
    return {
        name: str(value)
        for name, value in (
            ("PGHOST", host),
            ("PGPORT", url.port or url.query.get("port")),
            ("PGUSER", url.username),
            ("PGPASSWORD", url.password),
            ("PGDATABASE", url.database),
        )
        if value is not None
    }
