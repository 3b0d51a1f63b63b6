"""Tracing against a collector: in a process of its own, because a tracer is set once for all."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.deps.test_telemetry import TRACE_ID

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from contextlib import suppress
from deps.settings import Settings
from deps.telemetry import configure, continue_trace, current_trace_id, flush, begin_trace, sql_span

endpoint, ratio = sys.argv[1], float(sys.argv[2])
settings = Settings(_env_file=None, otlp_endpoint=endpoint, trace_sample_ratio=ratio)
configure(settings, "worker")
with continue_trace("handle {event}", sys.argv[3]):
    with sql_span("LOCK TABLE orders"):
        assert current_trace_id() == sys.argv[3]
with suppress(LookupError), begin_trace("broken"):
    with sql_span("BROKEN"):
        raise LookupError("Key (email)=(ada@example.com) already exists.")
with begin_trace("hot", record=False):
    with sql_span("NOTHING never-exported"):
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
    assert (b"LOCK TABLE orders" in sent) is is_exported
    assert b"never-exported" not in sent
    # Of a failure, its kind.
    assert (b"LookupError" in sent) is is_exported
    assert b"ada@example.com" not in sent


def _spans(bodies: list[bytes]) -> list[Span]:
    return [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _attributes(span: Span) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in span.attributes}


def test_one_trace_from_the_request_to_the_handler_of_its_event(
    collector: _Collector, database_url: str
) -> None:
    url = f"http://127.0.0.1:{collector.server_port}"
    program = [sys.executable, "-m", "tests.deps.traced_chat", url, database_url, TRACE_ID]
    ran = subprocess.run(
        program,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    spans = [span for span in _spans(collector.bodies) if span.trace_id.hex() == TRACE_ID]
    by_id = {span.span_id: span for span in spans}
    named = {span.name: span for span in spans}

    def above(span: Span) -> list[str]:
        names = []
        while (parent := by_id.get(span.parent_span_id)) is not None:
            names.append(parent.name)
            span = parent
        return names

    request = named["POST /v1/chat"]
    assert request.parent_span_id.hex() == "00f067aa0ba902b7"
    assert _attributes(request)["http.route"] == "/v1/chat"
    [tool] = [s for s in spans if _attributes(s).get("gen_ai.tool.name") == "handover_request"]
    assert request.name in above(tool)
    operation = named["operation handover.request"]
    assert _attributes(operation)["shopkeeper.outcome"] == "done"
    # The statement that wrote the event ran inside the operation, the tool and the request.
    writing = [s for s in spans if "outbox" in _attributes(s).get("db.query.text", "")]
    inside = {operation.name, tool.name, request.name}
    assert any(inside <= set(above(span)) for span in writing)
    handling = named["handle notification.tell_staff_of_handover"]
    assert any(handling.name in above(s) for s in spans if "db.query.text" in _attributes(s))
    # Nor do arguments and results leave the process, as they do not in evals either.
    assert "gen_ai.tool.call.arguments" not in _attributes(tool)
    assert not any(b"speak to a human" in body for body in collector.bodies)
    # One span tells of a request, and none of what is in its address.
    assert not [s.name for s in spans if "url.path" in _attributes(s)]
    assert not any(b"grace" in body for body in collector.bodies)
