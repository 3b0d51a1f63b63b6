"""Providers beside the tests: the real adapters against local servers, one of each a module."""

from collections import deque
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace

import httpx
import pytest

from deps.core import Deps
from deps.gateway import Gateway
from deps.paypal_desk import PayPal
from deps.stripe_desk import Stripe
from tests.conftest import NOW
from tests.providers import paypal_server, stripe_server
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import running
from tests.providers.stripe_server import StripeServer

TIMEOUT_S = 60.0  # No machine is that busy; answers that are lost are lost at once.


@pytest.fixture(scope="session")
def stripe_process() -> Generator[tuple[StripeServer, str], None, None]:
    state = StripeServer()
    with running(state.app()) as url:
        yield state, url


@pytest.fixture
def stripe_account(stripe_process: tuple[StripeServer, str]) -> StripeServer:
    """The account at Stripe, without faults; what other tests did there stays."""
    state, _ = stripe_process
    state.faults.script, state.search_lag_s, state.is_away = deque(), 0.0, False
    state.clock = NOW.timestamp
    state.events.clear()
    return state


@pytest.fixture
async def stripe(
    stripe_account: StripeServer, stripe_process: tuple[StripeServer, str]
) -> AsyncGenerator[Stripe, None]:
    gateway = Stripe(
        stripe_server.SECRET_KEY,
        webhook_secret=stripe_server.WEBHOOK_SECRET,
        api_base=stripe_process[1],
        timeout_s=TIMEOUT_S,
        retries=0,
    )
    yield gateway
    await gateway.aclose()


@pytest.fixture(scope="session")
def paypal_process() -> Generator[tuple[PayPalServer, str], None, None]:
    state = PayPalServer()
    with running(state.app()) as url:
        state.url = url
        yield state, url


@pytest.fixture
def paypal_account(paypal_process: tuple[PayPalServer, str]) -> PayPalServer:
    """The account at PayPal, without faults; what other tests did there stays."""
    state, _ = paypal_process
    state.faults.script = deque()
    state.clock = NOW.timestamp
    state.events.clear()
    return state


@pytest.fixture
async def paypal(
    paypal_account: PayPalServer, paypal_process: tuple[PayPalServer, str]
) -> AsyncGenerator[PayPal, None]:
    gateway = PayPal(
        paypal_server.CLIENT_ID,
        paypal_server.CLIENT_SECRET,
        webhook_id=paypal_server.WEBHOOK_ID,
        api_base=paypal_process[1],
        timeout_s=TIMEOUT_S,
    )
    yield gateway
    await gateway.aclose()


def shop_with(deps: Deps, gateway: Gateway) -> Deps:
    """The same shop, taking payments through `gateway`."""
    settings = deps.settings.model_copy(update={"payment_provider": gateway.name})
    return replace(deps, gateways={**deps.gateways, gateway.name: gateway}, settings=settings)


@pytest.fixture
def stripe_shop(deps: Deps, stripe: Stripe) -> Deps:
    return shop_with(deps, stripe)


@pytest.fixture
def paypal_shop(deps: Deps, paypal: PayPal) -> Deps:
    return shop_with(deps, paypal)


@pytest.fixture
async def stripe_client(stripe_shop: Deps) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with client_of(stripe_shop) as client:
        yield client


@pytest.fixture
async def paypal_client(paypal_shop: Deps) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with client_of(paypal_shop) as client:
        yield client


def client_of(deps: Deps) -> httpx.AsyncClient:
    from api.app import create_app

    app = create_app(deps.settings)
    app.state.deps = deps
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")
