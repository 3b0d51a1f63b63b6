"""What benchmarks share: a seeded shop, web processes of its own, their CPU time, and percentiles.

Load is closed-loop: each client sends its next request when the last is answered. The clients run
in this process and share the machine with the server, so throughput is a lower bound; the CPU
time per operation is the figure to compare between machines and versions.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.client import Client as Client
from db.models.inventory import Location
from deps.core import SYSTEM, Deps
from tools import catalog_import, product, stock
from tools.product import ProductInput, VariantInput

ROOT: Final = Path(__file__).resolve().parent.parent
PRODUCTS: Final = 200
STOCK: Final = 1_000_000
LEVEL_S: Final = 5.0
START_TIMEOUT_S: Final = 180.0
STOP_TIMEOUT_S: Final = 60.0
LOCATION: Final = "BENCH"
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Shop:
    """A web server, all its processes, and how to talk to it."""

    client: Client
    pid: int
    socket: str


@dataclass
class Samples:
    """Seconds each operation took, and how many failed."""

    taken_s: list[float] = field(default_factory=list)
    failures: int = 0

    @contextmanager
    def measure(self) -> Iterator[None]:
        began = perf_counter()
        yield
        self.taken_s.append(perf_counter() - began)

    def percentile_ms(self, percent: float) -> float:
        """Return the nearest-rank percentile, a value that was really measured."""
        if not self.taken_s:
            return 0.0
        ordered = sorted(self.taken_s)
        rank = max(1, -int(-percent * len(ordered) // 100))
        return round(ordered[rank - 1] * 1_000, 2)

    def summary(self) -> dict[str, float]:
        return {f"p{percent}_ms": self.percentile_ms(percent) for percent in (50, 95, 99)}


async def seed(deps: Deps, data: Path | None) -> list[str]:
    """Fill the empty shop and return the SKUs on sale, each with more stock than a run can sell."""
    staff = deps.acting_as(SYSTEM)
    async with staff.begin() as uow:
        uow.session.add(Location(code=LOCATION, name="Benchmark"))
    if data is not None:
        await catalog_import.import_file(staff, data, currency=deps.settings.currency)
    else:
        for number in range(PRODUCTS):
            async with staff.begin() as uow:
                await product.save(uow, _product(number, deps.settings.currency))
    async with staff.begin() as uow:
        connection = await uow.session.connection()
        found = await connection.execute(
            text("SELECT sku FROM variant WHERE is_active AND price_amount > 0 LIMIT :n"),
            {"n": PRODUCTS},
        )
        skus = [row.sku for row in found]
        for sku in skus:
            await stock.adjust(uow, sku, LOCATION, STOCK, "benchmark")
    async with staff.begin() as uow:
        await (await uow.session.connection()).execute(text("ANALYZE"))
    return skus


def _product(number: int, currency: str) -> ProductInput:
    words = ("Stoneware mug", "Oak board", "Linen apron", "Brass lamp", "Wool blanket")
    return ProductInput(
        handle=f"bench-{number}",
        title=f"{words[number % len(words)]} No. {number}",
        description="Made for measuring. " * 10,
        variants=[
            VariantInput(sku=f"BENCH-{number}", price_amount=500 + number, currency=currency)
        ],
    )


@asynccontextmanager
async def serve(
    deps: Deps, *, server: str = "uvicorn", workers: int = 1
) -> AsyncGenerator[Shop, None]:
    """Run the web application in processes of its own, on the database and Redis of `deps`.

    Args:
        server: A row of `bench.server.SERVERS`.
        workers: How many processes answer.
    """
    with tempfile.TemporaryDirectory(prefix="shopkeeper-bench-") as directory:
        socket = f"{directory}/web.sock"
        log = Path(directory) / "log"
        environment = _environment(deps, socket) | {
            "BENCH_SERVER": server,
            "BENCH_WORKERS": str(workers),
        }
        process = _start(environment, log)
        client = Client(socket)
        try:
            await _until_ready(client, process, log)
            yield Shop(client, process.pid, socket)
        finally:
            await client.aclose()
            process.terminate()
            process.wait(timeout=STOP_TIMEOUT_S)


def _start(environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "bench.server"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _environment(deps: Deps, socket: str) -> dict[str, str]:
    engine: AsyncEngine = deps.db.kw["bind"]
    environment = {
        **os.environ,
        "DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "SHOPKEEPER_RATE_LIMITS": "false",
        "SHOPKEEPER_SECRET": deps.settings.secret.get_secret_value(),
        "SHOPKEEPER_CURRENCY": deps.settings.currency,
        "BENCH_SOCKET": socket,
    }
    environment.pop("REDIS_URL", None)
    if deps.cache.redis is not None:
        at = deps.cache.redis.connection_pool.connection_kwargs
        path = at.get("path")
        environment["REDIS_URL"] = (
            f"unix://{path}" if path else f"redis://{at['host']}:{at['port']}/{at.get('db') or 0}"
        )
    return environment


async def _until_ready(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = perf_counter() + START_TIMEOUT_S
    while perf_counter() < deadline:
        if process.poll() is not None:
            break
        try:
            if (await client.request("GET", "/health/ready"))[0] == 200:
                return
        except (ConnectionError, TimeoutError):
            pass  # Not listening yet.
        await asyncio.sleep(0.1)
    raise RuntimeError(f"The web process did not start:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text()[-2_000:]


def cpu_s(pid: int) -> float:
    """Return the user and system time that a process and its children have used so far."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # After the name, which may hold spaces: utime and stime are fields 14 and 15 of proc(5).
    fields = stat.rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(fields[11]) + int(fields[12])) / _TICKS + sum(cpu_s(int(c)) for c in children)


async def server_cpu_s(deps: Deps) -> float:
    """Return the CPU time of the whole database server so far, ended processes included."""
    backend = await deps.hot.fetchval("SELECT pg_backend_pid()")
    postmaster = int(_stat(backend)[1])
    # Fields 14 to 17 of proc(5): its own time, and that of the children it has waited for.
    own = sum(int(field) for field in _stat(postmaster)[11:15])
    everyone = (_stat(int(entry)) for entry in os.listdir("/proc") if entry.isdecimal())
    living = [stat for stat in everyone if stat and int(stat[1]) == postmaster]
    return (own + sum(int(stat[11]) + int(stat[12]) for stat in living)) / _TICKS


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5)'s stat from the state on; none for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # After the name, which may hold spaces.
    return text.rpartition(")")[2].split()


async def drive(clients: int, seconds: float, work: Callable[[int], Awaitable[None]]) -> float:
    """Run `work` over and over in `clients` tasks for `seconds`; return the seconds it took."""
    began = perf_counter()

    async def one(number: int) -> None:
        while perf_counter() - began < seconds:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number))
    return perf_counter() - began


def table(rows: list[dict[str, Any]]) -> str:
    """Lay rows of the same names out in columns."""
    lines = [tuple(rows[0]), *(tuple(str(value) for value in row.values()) for row in rows)]
    return "".join("  ".join(cell.rjust(15) for cell in line) + "\n" for line in lines)
