"""Providers beside the tests: the real adapters against local servers, one of each a module."""

from collections import deque
from collections.abc import AsyncGenerator, Generator

import pytest

from deps.paypal_desk import PayPal
from deps.stripe_desk import Stripe
from tests.providers import paypal_server, stripe_server
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import running
from tests.providers.stripe_server import StripeServer

TIMEOUT_S = 0.5


@pytest.fixture(scope="session")
def stripe_process() -> Generator[tuple[StripeServer, str], None, None]:
    state = StripeServer()
    with running(state.app()) as url:
        yield state, url


@pytest.fixture
def stripe_account(stripe_process: tuple[StripeServer, str]) -> StripeServer:
    """The account at Stripe, without faults; what other tests did there stays."""
    state, _ = stripe_process
    state.faults.script, state.search_lag_s = deque(), 0.0
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
