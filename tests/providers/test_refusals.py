"""Providers that say no to everything, or speak another language: refused or open, never a bug."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from db.models.webhook import WebhookTopic
from db.types import Money
from deps.gateway import GatewayTimeout, OutcomeStatus
from deps.paypal_desk import PayPal
from deps.provider import InvalidSignature, MethodDeclined, ProviderRefused
from deps.stripe_desk import Stripe
from tests.conftest import NOW
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import running
from tests.providers.stripe_server import StripeServer

TOTAL = Money(2990, "EUR")


@dataclass
class Wall:
    """Answers every request alike, but for PayPal's token."""

    status: int = 400
    body: bytes = b"{}"
    asked: list[str] = field(default_factory=list)

    def app(self) -> Starlette:
        methods = ["GET", "POST", "DELETE", "PATCH"]
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=methods)])

    async def answer(self, request: Request) -> Response:
        self.asked.append(request.url.path)
        if request.url.path == "/v1/oauth2/token":
            token = {"access_token": "t", "expires_in": 3600}
            return Response(orjson.dumps(token), media_type="application/json")
        return Response(self.body, self.status, media_type="application/json")


@pytest.fixture(scope="module")
def wall_process() -> Generator[tuple[Wall, str], None, None]:
    state = Wall()
    with running(state.app()) as url:
        yield state, url


@pytest.fixture
async def walls(
    wall_process: tuple[Wall, str],
) -> AsyncGenerator[tuple[Wall, Stripe, PayPal], None]:
    wall, url = wall_process
    wall.asked.clear()
    stripe = Stripe("sk", api_base=url, timeout_s=5, retries=0, webhook_secret="whsec_x")
    paypal = PayPal("id", "secret", api_base=url, timeout_s=5, webhook_id="WH")
    yield wall, stripe, paypal
    await stripe.aclose()
    await paypal.aclose()


def key(step: str = "authorize") -> str:
    return f"{uuid4()}:{step}:1"


async def _first(lines: Any) -> None:
    async for _ in lines:
        return


def calls_of(gateway: Stripe | PayPal) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Everything that asks about money that is there."""
    return {
        "capture": lambda: gateway.capture(key("capture"), "ref", TOTAL),
        "void": lambda: gateway.void(key("void"), "ref"),
        "refund": lambda: gateway.refund(key("refund"), "ref", TOTAL),
        "find": lambda: gateway.find(key(), "ref"),
        "payment": lambda: gateway.payment("ref"),
        "dispute": lambda: gateway.dispute("du_ref"),
        "locate": lambda: gateway.locate(WebhookTopic.REFUND, "re_ref"),
        "locate a dispute": lambda: gateway.locate(WebhookTopic.DISPUTE, "du_ref"),
        "balance": lambda: _first(gateway.balance(NOW, NOW + timedelta(days=1))),
        "evidence": lambda: gateway.submit_evidence(key("evidence"), "du_ref", {"text": "x"}),
    }


WRONG = orjson.dumps(
    {
        "error": {"type": "invalid_request_error", "code": "an_idea_of_theirs"},
        "name": "AN_IDEA_OF_THEIRS",
        "details": [{"issue": "AN_IDEA_OF_THEIRS"}],
    }
)


async def test_what_is_refused_for_no_reason_we_know_is_for_people_to_look_at(
    walls: tuple[Wall, Stripe, PayPal],
) -> None:
    wall, stripe, paypal = walls
    wall.status, wall.body = 400, WRONG
    for gateway in (stripe, paypal):
        for call in calls_of(gateway).values():
            with pytest.raises(ProviderRefused):
                await call()
        with pytest.raises(MethodDeclined):
            await gateway.store_method(key("method"), "SETUP1", "owner")
    with pytest.raises(ProviderRefused):
        await stripe.find(key())
    with pytest.raises(ProviderRefused):
        await paypal.forget_method("paypal/vault")
    await stripe.forget_method("cus/pm")  # 400: detached before.
    wall.status = 403
    with pytest.raises(ProviderRefused):
        await stripe.forget_method("cus/pm")
    for gateway in (stripe, paypal):
        with pytest.raises(ProviderRefused):
            await gateway.authorize(key(), TOTAL, "pm_card_visa")


async def test_words_that_are_not_theirs_leave_the_outcome_open(
    walls: tuple[Wall, Stripe, PayPal],
) -> None:
    wall, stripe, paypal = walls
    for status, body in ((200, b"<html>"), (502, b"bad gateway"), (200, b"[1]")):
        wall.status, wall.body = status, body
        with pytest.raises(GatewayTimeout):
            await paypal.authorize(key(), TOTAL, "paypal/VAULT0")
    wall.status, wall.body = 502, b"<html>"
    for gateway in (stripe, paypal):
        for call in calls_of(gateway).values():
            with pytest.raises(GatewayTimeout):
                await call()


async def test_a_token_that_is_refused_is_renewed_once(walls: tuple[Wall, Stripe, PayPal]) -> None:
    wall, _, paypal = walls
    wall.status, wall.body = 401, orjson.dumps({"name": "AUTHENTICATION_FAILURE"})
    with pytest.raises(ProviderRefused):
        await paypal.payment("ref")
    token = "/v1/oauth2/token"
    assert [path == token for path in wall.asked] == [True, False, True, False]


async def test_a_card_declined_at_its_capture_is_declined(
    walls: tuple[Wall, Stripe, PayPal],
) -> None:
    wall, stripe, _ = walls
    error = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}
    wall.status, wall.body = 402, orjson.dumps({"error": error})
    outcome = await stripe.capture(key("capture"), "pi_1", TOTAL)
    assert (outcome.status, outcome.reference) == (OutcomeStatus.DECLINED, "pi_1")
    assert outcome.decline_code == "insufficient_funds"
    with pytest.raises(MethodDeclined, match="insufficient_funds"):
        await stripe.store_method(key("method"), "pm_card_visa", "owner")


async def test_an_amount_paypal_will_not_take_is_declined(
    paypal: PayPal, paypal_account: PayPalServer
) -> None:
    for gone in (
        paypal.capture(key("capture"), "none_such", TOTAL),
        paypal.void(key("void"), "none_such"),
        paypal.refund(key("refund"), "none_such", TOTAL),
    ):
        with pytest.raises(ProviderRefused, match="there is no order none_such"):
            await gone
    made = await paypal.authorize(key(), TOTAL, "paypal/VAULT0")
    most = await paypal.capture(key("capture"), made.reference, Money(9_999_999, "EUR"))
    assert most.status is OutcomeStatus.DECLINED
    assert (await paypal.capture(key("capture"), made.reference, TOTAL)).approved
    with pytest.raises(ProviderRefused):  # It is taken, so it cannot be released.
        await paypal.void(key("void"), made.reference)
    for amount in (2991, 9_999_999):
        back = await paypal.refund(key("refund"), made.reference, Money(amount, "EUR"))
        assert (back.status, back.decline_code) == (OutcomeStatus.DECLINED, "amount_too_large")


async def test_what_stripe_has_taken_or_released_is_told_by_its_state(
    stripe: Stripe, stripe_account: StripeServer
) -> None:
    made = await stripe.authorize(key(), TOTAL, "pm_card_visa")
    assert (await stripe.void(key("void"), made.reference)).approved
    late = await stripe.capture(key("capture"), made.reference, TOTAL)
    assert (late.status, late.decline_code) == (OutcomeStatus.DECLINED, "voided")
    stripe_account.intents[made.reference]["status"] = "processing"
    early = await stripe.capture(key("capture"), made.reference, TOTAL)
    assert (early.status, early.decline_code) == (OutcomeStatus.DECLINED, "not_capturable")
    with pytest.raises(ProviderRefused):
        await stripe.capture(key("capture"), "pi_none", TOTAL)
    with pytest.raises(ProviderRefused):
        await stripe.void(key("void"), "pi_none")
    with pytest.raises(ProviderRefused):  # Nothing was captured.
        await stripe.refund(key("refund"), made.reference, TOTAL)


@asynccontextmanager
async def _closed(gateway: Stripe | PayPal) -> AsyncGenerator[Stripe | PayPal, None]:
    yield gateway
    await gateway.aclose()


async def test_a_shop_that_expects_no_webhooks_takes_none(
    wall_process: tuple[Wall, str],
) -> None:
    for gateway in (
        Stripe("sk", api_base=wall_process[1], retries=0),
        PayPal("id", "secret", api_base=wall_process[1]),
    ):
        async with _closed(gateway):
            with pytest.raises(InvalidSignature, match="This shop has no webhook"):
                await gateway.notice({}, b"{}", NOW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"paypal-auth-algo": ""}, "headers are missing"),
        ({"paypal-transmission-sig": "x" * 501}, "headers are missing"),
        ({"paypal-auth-algo": "MD5"}, "not made as PayPal makes it"),
        ({"paypal-cert-url": "https://evil.example/cert"}, "not made as PayPal makes it"),
        ({"paypal-cert-url": "https://[not-a-host"}, "not made as PayPal makes it"),
        ({"paypal-transmission-time": "yesterday"}, "has no time"),
    ],
)
async def test_a_webhook_whose_headers_are_wrong_is_not_asked_about(
    paypal: PayPal, paypal_account: PayPalServer, change: dict[str, str], said: str
) -> None:
    event = {
        "id": "WH-1", "event_type": "X", "create_time": paypal_account.now(), "resource": {},
    }  # fmt: skip
    headers, body = paypal_account.webhook(event)
    before = paypal_account.calls
    with pytest.raises(InvalidSignature, match=said):
        await paypal.notice({**headers, **change}, body, NOW)
    assert paypal_account.calls == before
    theirs = await paypal.notice(headers, body, NOW)
    assert (theirs.topic, theirs.key) == (WebhookTopic.OTHER, None)


async def test_a_signature_paypal_cannot_read_is_none(walls: tuple[Wall, Stripe, PayPal]) -> None:
    wall, _, paypal = walls
    wall.status, wall.body = 400, WRONG
    server = PayPalServer(clock=NOW.timestamp, url=paypal.client.api_base)
    event = {"id": "WH-1", "event_type": "X", "create_time": server.now(), "resource": {}}
    headers, body = server.webhook(event)
    with pytest.raises(InvalidSignature, match="cannot read"):
        await paypal.notice(headers, body, NOW)
