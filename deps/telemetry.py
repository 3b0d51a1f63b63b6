"""Traces and logs. Off, they cost a random number a request; on, they go to one OTLP collector.

One trace id runs from the request through agent, tool and SQL to the handlers of its events: the
outbox carries it, and `continue_trace` picks it up. Logs carry it too.

Nothing else imports logfire, so that a process without a collector does not pay for loading it.
"""

import logging
import re
import secrets
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from deps.settings import Settings

_trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NO_TRACE: Final = "0" * 32

# Values that identify or authorise a person, wherever they are in a message.
_SECRETS: Final = (
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[email]"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "[token]"),
    (
        re.compile(
            r"(?i)\b(bearer|token|password|secret|api[_-]?key)(['\"]?\s*[=: ]\s*['\"]?)"
            r"[^\s,;&'\"}]{8,}"
        ),
        r"\1\2[redacted]",
    ),
    (re.compile(r"\bsk-[\w-]{8,}"), "[key]"),
    (re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])"), "[number]"),
)
_STANDARD_ATTRIBUTES: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)).keys()
) | {"message", "asctime", "taskName", "color_message"}


class _State:
    """Whether `configure` installed a tracer in this process."""

    tracing = False
    sample_ratio = 0.0


def redact(message: str) -> str:
    for pattern, replacement in _SECRETS:
        message = pattern.sub(replacement, message)
    return message


class JsonFormatter(logging.Formatter):
    """One JSON object a line, redacted after formatting, so that no argument slips by."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        trace_id = current_trace_id()
        if trace_id is not None:
            line["trace_id"] = trace_id
        for name, value in vars(record).items():
            if name not in _STANDARD_ATTRIBUTES:
                line[name] = redact(value) if isinstance(value, str) else value
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return orjson.dumps(line, default=lambda value: redact(str(value))).decode()


def configure_logging(service: str, *, level: int = logging.INFO) -> None:
    """Send every log line to stderr as JSON. Replaces the root's handlers: call once, at start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # The edge writes its own, without queries.
    for name in ("httpx", "httpcore", "aiosmtplib"):
        logging.getLogger(name).setLevel(logging.WARNING)


def configure(settings: Settings, service: str) -> None:
    """Trace this process if a collector is set; otherwise only make trace ids.

    Args:
        service: Names the process in traces: `web`, `worker`.
    """
    if settings.otlp_endpoint is None or _State.tracing:
        return
    import logfire
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    endpoint = settings.otlp_endpoint.rstrip("/")
    if not endpoint.endswith("/v1/traces"):
        endpoint += "/v1/traces"
    logfire.configure(
        send_to_logfire=False,
        service_name=f"shopkeeper-{service}",
        environment=settings.environment.value,
        console=False,
        inspect_arguments=False,
        distributed_tracing=True,
        # Metrics are prometheus-client's (api/metrics.py). logfire's default views would make the
        # OTel Prometheus exporter answer 500, and counting twice would cost twice.
        metrics=False,
        sampling=logfire.SamplingOptions(head=settings.trace_sample_ratio),
        additional_span_processors=[BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))],
    )
    logfire.instrument_asyncpg(capture_parameters=False)
    logfire.instrument_httpx()
    # Content stays out: what people write to the shop may name them.
    logfire.instrument_pydantic_ai(include_content=False)
    _State.tracing, _State.sample_ratio = True, settings.trace_sample_ratio


def flush() -> None:
    """Send what is buffered. Call before the process ends."""
    if _State.tracing:
        import logfire

        logfire.force_flush()


def current_trace_id() -> str | None:
    """Return the 32 hex digits that name the work in progress, or None outside any."""
    return _trace_id.get()


@contextmanager
def span(name: str, **attributes: Any) -> Generator[None, None, None]:
    """Time a piece of work under the current trace. Free when tracing is off.

    Args:
        name: A low-cardinality name: `order.cancel`, not `cancel 1001`.
        attributes: Facts that identify no person.
    """
    if not _State.tracing:
        yield
        return
    import logfire

    # The name is a template to logfire, and braces in it would be looked up.
    with logfire.span(name.replace("{", "{{").replace("}", "}}"), **attributes):
        yield


@contextmanager
def begin_trace(
    name: str, traceparent: str | None = None, *, record: bool = True
) -> Generator[str, None, None]:
    """Start the trace of one request, joining the caller's if `traceparent` (W3C) is valid.

    Args:
        record: Whether it may be sampled. Without, it has an id and nothing is exported.
    """
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is not None and match[1] != _NO_TRACE:
        trace_id, parent = match[1], match[2]
    else:
        trace_id, parent = secrets.token_hex(16), None
    with _in_trace(name, trace_id, parent, record and _is_sampled(trace_id)):
        yield trace_id


@contextmanager
def continue_trace(name: str, trace_id: str | None) -> Generator[str, None, None]:
    """Work on behalf of an earlier trace, as the handler of an event does; or begin a new one."""
    known = trace_id is not None and re.fullmatch(r"[0-9a-f]{32}", trace_id) is not None
    chosen = trace_id if known and trace_id is not None else secrets.token_hex(16)
    with _in_trace(name, chosen, None, _is_sampled(chosen)):
        yield chosen


@contextmanager
def _in_trace(
    name: str, trace_id: str, parent: str | None, is_sampled: bool
) -> Generator[None, None, None]:
    token = _trace_id.set(trace_id)
    try:
        if not _State.tracing:
            yield
            return
        from opentelemetry import context, trace

        # OTel makes trace ids itself for roots; a remote parent is how to make it take ours, and
        # its flag is what the parent-based sampler follows.
        remote = trace.SpanContext(
            trace_id=int(trace_id, 16),
            span_id=int(parent, 16) if parent else secrets.randbits(63) + 1,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if is_sampled else 0),
        )
        attached = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
        try:
            with span(name):
                yield
        finally:
            context.detach(attached)
    finally:
        _trace_id.reset(token)


def _is_sampled(trace_id: str) -> bool:
    # By the id and not by chance: every process of one trace decides alike.
    return int(trace_id[16:], 16) < _State.sample_ratio * (1 << 64)
