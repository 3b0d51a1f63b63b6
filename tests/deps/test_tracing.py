"""Tracing against a collector: in a process of its own, because a tracer is set once for all."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.deps.test_telemetry import TRACE_ID

PROGRAM = """
import sys
from deps.settings import Settings
from deps.telemetry import configure, continue_trace, current_trace_id, flush, begin_trace, span

endpoint, ratio = sys.argv[1], float(sys.argv[2])
settings = Settings(_env_file=None, otlp_endpoint=endpoint, trace_sample_ratio=ratio)
configure(settings, "worker")
with continue_trace("handle {event}", sys.argv[3]):
    with span("order.cancel", lines=2):
        assert current_trace_id() == sys.argv[3]
with begin_trace("hot", record=False):
    with span("never-exported"):
        pass
flush()
"""


class _Collector(HTTPServer):
    bodies: list[bytes]


class _Handler(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector(("127.0.0.1", 0), _Handler) as server:
        server.bodies = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("ratio", "is_exported"), [(1.0, True), (0.0, False)])
def test_spans_reach_the_collector_under_the_given_trace(
    collector: _Collector, ratio: float, is_exported: bool
) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    subprocess.run(
        [sys.executable, "-c", PROGRAM, url, str(ratio), TRACE_ID],
        check=True,
        timeout=60,
        env={"OTEL_EXPORTER_OTLP_COMPRESSION": "none"},
    )
    sent = b"".join(collector.bodies)
    assert (bytes.fromhex(TRACE_ID) in sent) is is_exported
    assert (b"order.cancel" in sent) is is_exported
    assert b"never-exported" not in sent
