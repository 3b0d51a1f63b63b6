"""A process that is traced: one chat request over HTTP, then the handler of the event it left.

Started by `test_tracing.py` with the collector's address, the database's and the trace's id.
"""

import asyncio
import sys
from pathlib import Path

import httpx

from api.app import create_app
from deps.bus import Envelope
from deps.core import SYSTEM, Deps
from deps.runtime import open_deps
from deps.settings import Settings
from deps.telemetry import configure, flush
from tests import factories
from tools import delivery
from tools.handlers import groups


async def main(endpoint: str, database_url: str, trace_id: str) -> None:
    settings = Settings(
        _env_file=None, otlp_endpoint=endpoint, trace_sample_ratio=1.0, rate_limits=False
    )
    configure(settings, "web")
    async with open_deps(settings, database_url=database_url, redis_url=None) as deps:
        customer = await factories.user(deps)
        app = create_app(settings)
        app.state.deps = deps
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://test", timeout=60
        ) as http:
            answer = await http.post(
                "/v1/chat?from=grace@example.com",
                json={"text": "I want to speak to a human agent"},
                headers={
                    **factories.bearer(customer),
                    "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
                },
            )
            assert answer.status_code == 200, answer.text
        await _deliver(deps)
    flush()


async def _deliver(deps: Deps) -> None:
    async with deps.acting_as(SYSTEM).begin() as uow:
        rows = await uow.fetch("SELECT * FROM outbox ORDER BY seq")
    envelopes = [Envelope.model_validate(dict(row)) for row in rows]
    for group in groups():
        await delivery.apply(deps, group, envelopes)


if __name__ == "__main__":
    assert Path.cwd().joinpath("api").is_dir()
    asyncio.run(main(*sys.argv[1:4]))
