"""Traces and logs. Off, they cost a random number a request; on, they go to one OTLP collector.

One trace id runs from the request through agent, tool and SQL to the handlers of its events: the
outbox carries it, and `continue_trace` picks it up. Logs carry it too.

A recorded request costs milliseconds of CPU, so a share of them is recorded and the others skip
every span, those of SQL too: the library's own instrumentation of asyncpg computes each span before
it asks whether anybody wants it. Nothing else imports logfire, so that a process without a
collector does not pay for loading it.
"""

import logging
import re
import secrets
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any, Final, Self

import orjson
from sqlalchemy import Engine, event

from deps.settings import Settings
from deps.untrusted import redact

# Attributes of an operation's span.
OPERATION: Final = "shopkeeper.operation"
RISK: Final = "shopkeeper.risk"
OUTCOME: Final = "shopkeeper.outcome"

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_NO_TRACE: Final = "0" * 32

_STANDARD_ATTRIBUTES: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)).keys()
) | {"message", "asctime", "taskName", "color_message"}


class _State:
    """Whether `configure` installed a tracer in this process."""

    tracing = False
    sample_ratio = 0.0


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
    # Facts that no line of ours shows, and that each record would look up.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
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
    logfire.instrument_httpx()
    # Content stays out: what people write to the shop may name them.
    logfire.instrument_pydantic_ai(include_content=False)
    _State.tracing, _State.sample_ratio = True, settings.trace_sample_ratio


@contextmanager
def recorded_here() -> Generator[None, None, None]:
    """Record every span for a reader in this process, as evals are; nothing is sent anywhere.

    Not beside a collector: who reads here may also record what people wrote.
    """
    assert not _State.tracing, "this process sends its spans to a collector"
    import logfire

    logfire.configure(
        send_to_logfire=False, console=False, inspect_arguments=False, metrics=False,
        sampling=logfire.SamplingOptions(head=1.0),
    )  # fmt: skip
    _State.tracing, _State.sample_ratio = True, 1.0
    try:
        yield
    finally:
        _State.tracing, _State.sample_ratio = False, 0.0


def flush() -> None:
    """Send what is buffered. Call before the process ends."""
    if _State.tracing:
        import logfire

        logfire.force_flush()


class Trace:
    """One trace while work is done under it: a context manager, entered once.

    `id` is the 32 hex digits that name it everywhere.
    """

    __slots__ = ("_name", "_open", "_parent", "_span", "_token", "id", "is_recorded")

    def __init__(self, name: str, trace_id: str, parent: str | None, is_recorded: bool) -> None:
        self.id = trace_id
        self.is_recorded = is_recorded and _State.tracing
        self._name = name
        self._parent = parent
        self._span: Any = None
        self._open: ExitStack | None = None
        self._token: Token[Trace | None] | None = None

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        if _State.tracing:
            self._open = ExitStack()
            self._span = self._open.enter_context(self._exported())
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if self._open is not None:
                self._open.__exit__(*error)
        finally:
            assert self._token is not None
            _current.reset(self._token)

    def describe(self, name: str, **attributes: Any) -> None:
        """Say, once it is known, what the work was. Free unless it is recorded.

        Args:
            name: A low-cardinality name: `GET /v1/orders/{number}`.
            attributes: Facts that identify no person, by OpenTelemetry's names.
        """
        if self._span is not None:
            self._span.update_name(name)
            self._span.set_attributes(attributes)
            self._span.message = name

    @contextmanager
    def _exported(self) -> Generator[Any, None, None]:
        from opentelemetry import context, trace

        # OTel makes trace ids itself for roots; a remote parent is how to make it take ours, and
        # its flag is what the parent-based sampler follows, in libraries that we do not call too.
        remote = trace.SpanContext(
            trace_id=int(self.id, 16),
            span_id=int(self._parent, 16) if self._parent else secrets.randbits(63) + 1,
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if self.is_recorded else 0),
        )
        attached = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
        try:
            if self.is_recorded:
                with _logfire_span(self._name) as recording:
                    yield recording
            else:
                yield None
        finally:
            context.detach(attached)


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)
_NOTHING: Final = nullcontext()


def current_trace_id() -> str | None:
    """Return the 32 hex digits that name the work in progress, or None outside any."""
    trace = _current.get()
    return trace.id if trace is not None else None


def begin_trace(name: str, traceparent: str | None = None, *, record: bool = True) -> Trace:
    """Start the trace of one request, joining the caller's if `traceparent` (W3C) is valid.

    Args:
        record: Whether it may be sampled. Without, it has an id and nothing is exported.
    """
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if match is not None and match[1] != _NO_TRACE:
        return Trace(name, match[1], match[2], record and _is_sampled(match[1]))
    trace_id = secrets.token_hex(16)
    return Trace(name, trace_id, None, record and _is_sampled(trace_id))


@contextmanager
def continue_trace(name: str, trace_id: str | None) -> Generator[str, None, None]:
    """Work on behalf of an earlier trace, as the handler of an event does; or begin a new one."""
    known = trace_id is not None and re.fullmatch(r"[0-9a-f]{32}", trace_id) is not None
    chosen = trace_id if known and trace_id is not None else secrets.token_hex(16)
    with Trace(name, chosen, None, _is_sampled(chosen)):
        yield chosen


def operation_span(key: str, risk: str) -> AbstractContextManager[Any]:
    """Time one operation an agent calls. Yields a span to set its outcome on, or None when nobody
    records. Arguments are not kept: they may name people."""
    trace = _current.get()
    if trace is None or not trace.is_recorded:
        return _NOTHING
    attributes = {OPERATION: key, RISK: risk}
    return _logfire_span(f"operation {key}", **attributes)


def sql_span(sql: str) -> AbstractContextManager[Any]:
    """Time one statement. Its text is kept, its parameters are not. Free when nobody records."""
    trace = _current.get()
    if trace is None or not trace.is_recorded:
        return _NOTHING
    return _logfire_span(_verb(sql), **_sql_attributes(sql))


def trace_engine(engine: Engine) -> None:
    """Give what SQLAlchemy sends the same spans as `sql_span`."""

    @event.listens_for(engine, "before_cursor_execute")
    def begin(_c: Any, _cursor: Any, sql: str, _p: Any, execution: Any, _many: bool) -> None:
        trace = _current.get()
        if trace is not None and trace.is_recorded:
            timed = sql_span(sql)
            timed.__enter__()
            execution.shopkeeper_span = timed

    def end(execution: Any) -> None:
        timed = getattr(execution, "shopkeeper_span", None)
        if timed is not None:
            del execution.shopkeeper_span
            timed.__exit__(None, None, None)

    @event.listens_for(engine, "after_cursor_execute")
    def after(_c: Any, _cursor: Any, _sql: str, _p: Any, execution: Any, _many: bool) -> None:
        end(execution)

    @event.listens_for(engine, "handle_error")
    def failed(error: Any) -> None:
        end(error.execution_context)


def _verb(sql: str) -> str:
    return sql.split(None, 1)[0].upper() if sql.strip() else "SQL"


def _sql_attributes(sql: str) -> dict[str, str]:
    return {
        "db.system.name": "postgresql",
        "db.operation.name": _verb(sql),
        "db.query.text": " ".join(sql.split()),
    }


class _Quiet:
    """A span that tells of a failure its kind alone: the message may name people."""

    __slots__ = ("_opened", "_span")

    def __init__(self, opened: AbstractContextManager[Any]) -> None:
        self._opened = opened

    def __enter__(self) -> Any:
        self._span = self._opened.__enter__()
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: object, where: object) -> None:
        if kind is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", kind.__name__)
            self._span.set_status(Status(StatusCode.ERROR))
        self._opened.__exit__(None, None, None)


def _logfire_span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    import logfire

    # The name is a template to logfire, and braces in it would be looked up.
    return _Quiet(logfire.span(name.replace("{", "{{").replace("}", "}}"), **attributes))


def _is_sampled(trace_id: str) -> bool:
    # By the id and not by chance: every process of one trace decides alike.
    return int(trace_id[16:], 16) < _State.sample_ratio * (1 << 64)
