"""Checks of the machine and the settings, each with what to do when it fails."""

import asyncio
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from api.servers import DATABASE, data_dir, embedded
from deps import postgres
from deps.process import EmbeddedError, find_postgres, find_valkey, namespaces_allowed
from deps.row_security import MEND
from deps.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
FREE_MIB_MIN = 1024
POSTGRES_MAJOR_MIN = 18


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    state: str
    mend: str = ""


async def examine() -> list[Finding]:
    """Run every check. Nothing is started or changed but a file that is deleted again."""
    from pydantic import ValidationError

    findings = [_python(), _environment()]
    try:
        settings = Settings()
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = "_".join(str(part) for part in problem["loc"]) or "settings"
        return [*findings, Finding("settings", False, f"{where}: {problem['msg']}", "Correct it.")]
    findings.append(Finding("settings", True, f"{settings.environment.value}, all valid"))
    if settings.database_url is None:
        findings.append(_program("PostgreSQL", find_postgres))
        findings.append(_identity())
    if settings.redis_url is None:
        findings.append(_program("Valkey", find_valkey))
    home = data_dir(settings)
    findings += [_writable(home), _space(home), await asyncio.to_thread(_port, settings)]
    findings += [await _database(settings), await _agents(settings), await _redis(settings)]
    return findings


def _python() -> Finding:
    state = f"{platform.python_version()} at {sys.executable}"
    return Finding(
        "python", sys.version_info >= (3, 11), state, "Set PYTHON to a Python of at least 3.11."
    )


def _environment() -> Finding:
    stamp, lock = Path(sys.prefix) / ".lock-checksum", ROOT / "requirements.lock"
    if not stamp.exists():
        return Finding(
            "packages",
            sys.prefix != sys.base_prefix,
            f"in {sys.prefix}, not made by ./shopkeeper",
            "Start with ./shopkeeper.",
        )
    with lock.open("rb") as file:
        wanted = subprocess.run(["cksum"], stdin=file, capture_output=True, text=True).stdout
    return Finding(
        "packages",
        stamp.read_text().strip() == wanted.strip(),
        f"in {sys.prefix}",
        "The lock file changed; run ./shopkeeper again.",
    )


def _program(name: str, find: Callable[[], Path]) -> Finding:
    try:
        place = find()
    except EmbeddedError as error:
        return Finding(f"{name} program", False, "none", error.mend)
    return Finding(f"{name} program", True, str(place))


def _identity() -> Finding:
    if os.geteuid() != 0:
        return Finding("identity", True, "an ordinary user")
    if namespaces_allowed():
        return Finding("identity", True, "root, with user namespaces")
    return Finding("identity", True, "root; PostgreSQL runs as nobody, without user namespaces")


def _writable(home: Path) -> Finding:
    mend = "Give yourself the right to write there, or set SHOPKEEPER_DATA_DIR."
    probe = home / f".doctor-{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        return Finding("data folder", False, f"{home}: {error.strerror}", mend)
    return Finding("data folder", True, str(home))


def _space(home: Path) -> Finding:
    place = next(parent for parent in (home, *home.parents) if parent.exists())
    free_mib = shutil.disk_usage(place).free >> 20
    return Finding("disk", free_mib >= FREE_MIB_MIN, f"{free_mib} MiB free", "Free 1 GiB.")


def _port(settings: Settings) -> Finding:
    address = f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            return Finding(
                "port", False, f"{address}: {error.strerror}", "Stop what uses it, or use --port."
            )
    return Finding("port", True, f"{address} is free")


async def _database(settings: Settings) -> Finding:
    url = settings.database_url
    if url is None:
        server, _ = embedded(settings)
        try:
            if not server.data.exists() or not server.is_ready():
                return Finding("database", True, "embedded, not running now")
        except EmbeddedError as error:
            return Finding("database", False, "embedded", error.mend)
        url = server.dsn(DATABASE)
    try:
        version = await postgres.probe(url)
        current, head = await postgres.revisions(url)
    except postgres.DatabaseUnavailable as error:
        return Finding("database", False, str(error), "Correct DATABASE_URL or start the server.")
    if int(version.partition(".")[0]) < POSTGRES_MAJOR_MIN:
        mend = f"Use PostgreSQL {POSTGRES_MAJOR_MIN} or newer."
        return Finding("database", False, f"PostgreSQL {version}", mend)
    return Finding(
        "database",
        current == head,
        f"PostgreSQL {version}, schema {current or 'empty'}, newest {head}",
        "Run ./shopkeeper migrate.",
    )


async def _agents(settings: Settings) -> Finding:
    url = settings.database_url
    if url is None:
        return Finding("agents' role", True, "made with the embedded database")
    try:
        reason = await postgres.agents_problem(url)
    except postgres.DatabaseUnavailable:
        return Finding("agents' role", True, "not known while the database is away")
    return Finding("agents' role", reason is None, reason or "under row-level security", MEND)


async def _redis(settings: Settings) -> Finding:
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    if settings.redis_url is None:
        return Finding("cache and bus", True, "embedded")
    place = urlsplit(settings.redis_url).hostname or "its socket"
    try:
        client = Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)
        try:
            info = await client.info("server")
        finally:
            await client.aclose()
    except (RedisError, OSError, ValueError) as error:
        state = str(error).splitlines()[0]
        return Finding("cache and bus", False, state, "Correct REDIS_URL or start the server.")
    return Finding("cache and bus", True, f"version {info.get('redis_version')} at {place}")
