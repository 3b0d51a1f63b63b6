"""A server that speaks Stripe's API as far as the shop uses it.

Idempotency as https://docs.stripe.com/api/idempotent_requests: the same key with the same body
replays the first answer (declines too), another body is an `idempotency_error`, and while the first
is under way a second gets 409.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import orjson
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.server import Fault, Faults, Lost
from tests.providers.stripe_account import ApiError, Json, StripeAccount

SECRET_KEY = "sk_test_of_the_tests"
WEBHOOK_SECRET = "whsec_of_the_tests"


@dataclass
class StripeServer(StripeAccount):
    """How one account is reached."""

    faults: Faults = field(default_factory=Faults)
    is_away: bool = False  # Nothing that is asked for is answered.
    keys: dict[str, tuple[str, tuple[int, Json] | None]] = field(default_factory=dict)
    calls: int = 0

    def app(self) -> Starlette:
        post, get = ["POST"], ["GET"]
        intents = "/v1/payment_intents"
        return Starlette(
            routes=[
                Route(intents, self.write(self.create_intent), methods=post),
                Route(f"{intents}/search", self.read(self.search), methods=get),
                Route(f"{intents}/{{id}}", self.read(self.get_intent), methods=get),
                Route(f"{intents}/{{id}}/capture", self.write(self.capture), methods=post),
                Route(f"{intents}/{{id}}/cancel", self.write(self.cancel), methods=post),
                Route("/v1/refunds", self.write(self.create_refund), methods=post),
                Route("/v1/refunds", self.read(self.list_refunds), methods=get),
                Route("/v1/refunds/{id}", self.read(self.one("refunds")), methods=get),
                Route("/v1/charges/{id}", self.read(self.one("charges")), methods=get),
                Route("/v1/disputes/{id}", self.read(self.one("disputes")), methods=get),
                Route("/v1/disputes/{id}", self.write(self.answer_dispute), methods=post),
                Route("/v1/balance_transactions", self.read(self.list_ledger), methods=get),
                Route("/v1/customers", self.write(self.create_customer), methods=post),
                Route("/v1/payment_methods/{id}/attach", self.write(self.attach), methods=post),
                Route("/v1/payment_methods/{id}/detach", self.write(self.detach), methods=post),
            ]
        )

    def read(self, run: Callable[[str, Json], Json]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            self.calls += 1
            if self.is_away:
                return Lost()
            params = nested(parse_qsl(request.url.query, keep_blank_values=True))
            return self.answer(request, lambda: run(request.path_params.get("id", ""), params))

        return endpoint

    def write(
        self, run: Callable[[str, Json, Fault | None], Json]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            self.calls += 1
            body = await request.body()
            params = nested(parse_qsl(body.decode(), keep_blank_values=True))
            key = request.headers.get("idempotency-key", "")
            digest = hashlib.sha256(request.url.path.encode() + body).hexdigest()
            if key in self.keys:
                first, done = self.keys[key]
                if first != digest:
                    return respond(400, {"error": {"type": "idempotency_error", "message": "no."}})
                if done is None:
                    in_use = {"type": "invalid_request_error", "code": "idempotency_key_in_use"}
                    return respond(409, {"error": {**in_use, "message": "wait."}})
                return respond(*done, replayed=True)
            fault = self.faults.take()
            refusal = await self.faults.refuse(fault)
            if refusal is not None:
                return refusal
            self.keys[key] = (digest, None)
            await self.faults.delay(fault)
            answer = self.answer(
                request, lambda: run(request.path_params.get("id", ""), params, fault)
            )
            # Requests that were wrong are not kept; declines are.
            if answer.status_code < 400 or answer.status_code == 402:
                done = (answer.status_code, orjson.loads(bytes(answer.body)))
                self.keys[key] = (digest, done)
            else:
                del self.keys[key]
            return await self.faults.after(fault, answer)

        return endpoint

    def answer(self, request: Request, run: Callable[[], Json]) -> Response:
        if request.headers.get("authorization") != f"Bearer {SECRET_KEY}":
            return respond(401, {"error": {"type": "invalid_request_error", "message": "key."}})
        try:
            return respond(200, run())
        except ApiError as error:
            return respond(error.status, {"error": error.error})

    def webhook(self, event: Json, *, secret: str = WEBHOOK_SECRET) -> tuple[dict[str, str], bytes]:
        """Return the headers and body that Stripe would send."""
        body = orjson.dumps(event)
        header = stripe.WebhookSignature.generate_signature_header(
            body.decode(), secret, timestamp=self.now()
        )
        return {"stripe-signature": header, "content-type": "application/json"}, body


def respond(status: int, body: Json, *, replayed: bool = False) -> Response:
    headers = {"request-id": "req_test", "stripe-version": "2026-10-01"}
    if replayed:
        headers["idempotent-replayed"] = "true"
    return Response(orjson.dumps(body), status, headers, "application/json")


def nested(pairs: list[tuple[str, str]]) -> Json:
    """Read `a[b][c]=d` as Stripe does; `expand[0]` and the like stay flat."""
    result: Json = {}
    for name, value in pairs:
        head, *rest = name.replace("]", "").split("[")
        into = result
        for part in rest:
            into = into.setdefault(head, {})
            head = part
        into[head] = value
    return result
