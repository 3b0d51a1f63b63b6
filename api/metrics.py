"""Counters of this process, or of all that `serve --workers` runs, and gauges of the shop read
when they are scraped.

Served open, like health: it names routes, statuses and totals, never people or money. An operator
who wants it private keeps /metrics off the public proxy.
"""

import os
from typing import Final

from fastapi import APIRouter, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    multiprocess,
)
from starlette.requests import Request

from api.caller import deps_of
from deps.cache import READS
from tools import health

MULTIPROCESS_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's name for it.
REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

REQUESTS: Final = Counter(
    "http_requests_total", "Requests answered.", ("method", "route", "status"), registry=REGISTRY
)
DURATION: Final = Histogram(
    "http_request_duration_seconds",
    "Time until the answer was complete.",
    ("method", "route"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=REGISTRY,
)
IN_FLIGHT: Final = Gauge(
    "http_requests_in_flight",
    "Requests being handled.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)


def _read_at_scrape(name: str, text: str, *labels: str) -> Gauge:
    """A gauge as the process that answers the scrape reads it; of several, the last one's holds."""
    return Gauge(name, text, labels, registry=REGISTRY, multiprocess_mode="livemostrecent")


_POOL: Final = _read_at_scrape(
    "db_pool_connections", "Connections of this process, by state.", "state"
)
_HOT: Final = _read_at_scrape(
    "db_hot_pool_connections",
    "Connections for single statements of this process, by state.",
    "state",
)
_OUTBOX_PENDING: Final = _read_at_scrape(
    "outbox_pending", "Events committed and not yet announced."
)
_OUTBOX_LAG: Final = _read_at_scrape(
    "outbox_lag_seconds", "Age of the oldest event not yet announced."
)
_DEAD_LETTERS: Final = _read_at_scrape("dead_letters", "Deliveries given up and not replayed.")
_BROKEN: Final = _read_at_scrape(
    "broken_invariants", "Invariants that the last audit found broken."
)
_UP: Final = _read_at_scrape("dependency_up", "1 when the dependency answers.", "name")
REGISTRY.register(READS)
_SERIES: Final[dict[tuple[str, str, int], tuple[Counter, Histogram]]] = {}


def count_request(method: str, route: str, status: int, elapsed_s: float | None) -> None:
    """Count one answer. Looking the series up by its labels costs more than counting.

    Args:
        route: A template: there are as many series as templates.
        elapsed_s: None for a stream, which takes as long as people talk.
    """
    known = _SERIES.get((method, route, status))
    if known is None:
        known = REQUESTS.labels(method, route, str(status)), DURATION.labels(method, route)
        _SERIES[(method, route, status)] = known
    known[0].inc()
    if elapsed_s is not None:
        known[1].observe(elapsed_s)


router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Return every metric in the Prometheus text format."""
    deps = deps_of(request.scope)
    for state, count in health.pool(deps).items():
        _POOL.labels(state).set(count)
    for state, count in deps.hot.connections.items():
        _HOT.labels(state).set(count)
    report = await health.check(deps)
    for check in report.checks:
        _UP.labels(check.name).set(check.ok)
    if report.is_ready:
        backlog = await health.backlog(deps)
        _OUTBOX_PENDING.set(backlog.pending)
        _OUTBOX_LAG.set(backlog.lag_s)
        _DEAD_LETTERS.set(backlog.dead_letters)
        _BROKEN.set(backlog.broken_invariants)
    return Response(generate_latest(_exposed()), headers={"content-type": CONTENT_TYPE_LATEST})


def _exposed() -> CollectorRegistry:
    """Return this process's registry, or one that reads the files of all its siblings."""
    if MULTIPROCESS_DIRECTORY not in os.environ:
        return REGISTRY
    all_of_them = CollectorRegistry()
    multiprocess.MultiProcessCollector(all_of_them)  # type: ignore[no-untyped-call]
    return all_of_them
