"""Trace ids without a collector, and log lines without people in them."""

import asyncio
import json
import logging
import sys

import pytest

from deps.telemetry import (
    JsonFormatter,
    begin_trace,
    continue_trace,
    current_trace_id,
    sql_span,
)
from deps.untrusted import redact

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_trace_id_reaches_tasks_and_ends_with_the_work() -> None:
    async def inner() -> str | None:
        with sql_span("SELECT 1"):
            return current_trace_id()

    with begin_trace("request") as trace:
        assert await asyncio.create_task(inner()) == trace.id
    assert current_trace_id() is None


def test_handler_goes_on_with_the_trace_of_its_event() -> None:
    with continue_trace("handle", TRACE_ID):
        assert current_trace_id() == TRACE_ID
    with continue_trace("handle", None) as fresh:
        assert len(fresh) == 32


@pytest.mark.parametrize(
    "secret",
    [
        "ada@example.com",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "Bearer abcdefgh12345678",
        "password=harbour-and-pine",
        "4242 4242 4242 4242",
        "4242424242424242",
        "sk-abcdefgh12345678",
    ],
)
def test_secrets_do_not_reach_the_log(secret: str) -> None:
    assert secret not in redact(f"failed for {secret} at last")


def test_ids_and_amounts_stay_readable() -> None:
    line = "order 1001 of EUR 12.50, payment 01890a5d-ac96-774b-bcce-b302099a8057"
    assert redact(line) == line


def test_line_is_json_with_extras_and_exception() -> None:
    try:
        raise ValueError("no ada@example.com")
    except ValueError:
        record = logging.LogRecord("x", 40, "f", 1, "was %s", ("bob@example.com",), sys.exc_info())
    record.status = 500
    line = json.loads(JsonFormatter("web").format(record))
    assert (line["level"], line["service"], line["status"]) == ("error", "web", 500)
    assert line["message"] == "was [email]"
    assert "ada@" not in line["exception"]


def test_a_line_names_the_trace_it_is_of() -> None:
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, "sold", (), None)
    with begin_trace("request") as trace:
        assert json.loads(JsonFormatter("web").format(record))["trace_id"] == trace.id
    assert "trace_id" not in json.loads(JsonFormatter("web").format(record))
