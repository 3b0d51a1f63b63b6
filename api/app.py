"""The ASGI application: routers, errors, middleware, pages."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

from api import (
    actions,
    agent_runs,
    agents,
    analytics,
    carts,
    chat,
    chat_socket,
    confirmations,
    conversations,
    credit,
    customers,
    discounts,
    disputes,
    events,
    feed,
    health,
    inventory,
    locations,
    methods,
    metrics,
    middleware,
    openapi,
    order_edits,
    orders,
    pages,
    payments,
    problems,
    products,
    reconciliations,
    refunds,
    returns,
    stock_counts,
    support,
    transfers,
    users,
    webhooks,
)
from api.adapters import agui, vercel
from deps.core import Deps
from deps.settings import Settings

STATIC = Path(__file__).parent / "static"
V1 = (
    users,
    products,
    inventory,
    transfers,
    stock_counts,
    locations,
    carts,
    orders,
    payments,
    refunds,
    credit,
    discounts,
    order_edits,
    returns,
    customers,
    analytics,
    chat,
    chat_socket,
    agui,
    vercel,
    conversations,
    actions,
    agent_runs,
    agents,
    events,
    feed,
    support,
    confirmations,
    methods,
    webhooks,
    disputes,
    reconciliations,
)
UNVERSIONED = (health, metrics, pages)
DESCRIPTION = """
Commerce operations for programs. Amounts are integers in minor units of an ISO 4217 currency,
times are UTC, lists page by `cursor`, and errors are problem details (RFC 9457) with a stable
`code`. Send `Idempotency-Key` with writes: a retry then gets the first answer.
"""


def create_app(
    settings: Settings,
    open_deps: Callable[[], AbstractAsyncContextManager[Deps]] | None = None,
) -> FastAPI:
    """Build the application.

    Args:
        settings: Limits, names and secrets.
        open_deps: Opens what requests need when the server starts; without it the caller sets
            `app.state.deps` before the first request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if open_deps is not None:
                app.state.deps = await stack.enter_async_context(open_deps())
            stack.push_async_callback(chat.close, app)
            yield

    app = FastAPI(
        title="shopkeeper",
        version="1",
        summary="A commerce backend run by agents and kept honest by plain code.",
        description=DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # Requests are traced by our own middleware: FastAPI's spans would tell paths and queries.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    v1 = APIRouter(prefix="/v1")
    for module in V1:
        v1.include_router(module.router)
    app.include_router(v1)
    for module in UNVERSIONED:
        app.include_router(module.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    problems.install(app)
    openapi.install(app)
    middleware.install(app, settings)
    return app
