"""A server that speaks PayPal's API as far as the shop uses it: Orders v2, Payments v2, webhooks,
disputes, transaction search and the vault.

Webhooks are signed as PayPal's: RSA over `transmission id|time|webhook id|crc32 of the body`
(https://developer.paypal.com/api/rest/webhooks/rest/); `verify-webhook-signature` checks it.
"""

import base64
import binascii
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.server import Fault, Faults

CLIENT_ID = "client-of-the-tests"
CLIENT_SECRET = "secret-of-the-tests"
WEBHOOK_ID = "WH1TEST"
TOKEN_LIFE_S = 32_400
AUTHORIZED = timedelta(days=29)
DECLINED = {"EXPIRED0": "CARD_EXPIRED", "POOR0": "INSTRUMENT_DECLINED"}
APPROVED = {"VAULT0", "VAULT1"}
Json = dict[str, Any]
Run = Callable[[Request, Json, Fault | None], tuple[int, Json]]


class ApiError(Exception):
    def __init__(self, status: int, issue: str) -> None:
        self.status = status
        self.body = {
            "name": "UNPROCESSABLE_ENTITY" if status == 422 else "RESOURCE_NOT_FOUND",
            "details": [{"issue": issue, "description": "…"}],
            "debug_id": uuid.uuid4().hex[:13],
        }


@dataclass
class PayPalServer:
    """The state of one account. Tests reach into it as the payer or the merchant would."""

    faults: Faults = field(default_factory=Faults)
    orders: dict[str, Json] = field(default_factory=dict)
    disputes: dict[str, Json] = field(default_factory=dict)
    evidence: dict[str, list[Json]] = field(default_factory=dict)
    vault: dict[str, Json] = field(default_factory=dict)
    transactions: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    replies: dict[str, tuple[int, Json] | None] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    calls: int = 0
    clock: Callable[[], float] = time.time
    url: str = ""
    _sequence: int = 0
    _key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )

    def app(self) -> Starlette:
        def route(path: str, method: str, run: Run) -> Route:
            return Route(path, self.endpoint(run), methods=[method])

        orders, payments = "/v2/checkout/orders", "/v2/payments"
        disputes = "/v1/customer/disputes"
        return Starlette(
            routes=[
                Route("/v1/oauth2/token", self.issue_token, methods=["POST"]),
                route(orders, "POST", self.create_order),
                route(f"{orders}/{{id}}", "GET", self.get_order),
                route(f"{orders}/{{id}}/authorize", "POST", self.authorize_order),
                route(f"{payments}/authorizations/{{id}}/capture", "POST", self.capture),
                route(f"{payments}/authorizations/{{id}}/void", "POST", self.void),
                route(f"{payments}/captures/{{id}}/refund", "POST", self.refund),
                route(f"{payments}/captures/{{id}}", "GET", self.get_part("captures")),
                route(f"{payments}/refunds/{{id}}", "GET", self.get_part("refunds")),
                route(f"{disputes}/{{id}}", "GET", self.get_dispute),
                route(f"{disputes}/{{id}}/provide-evidence", "POST", self.provide_evidence),
                route("/v1/reporting/transactions", "GET", self.list_transactions),
                route("/v3/vault/payment-tokens", "POST", self.create_token),
                route("/v3/vault/payment-tokens/{id}", "DELETE", self.delete_token),
                Route("/v1/notifications/verify-webhook-signature", self.verify, methods=["POST"]),
            ]
        )

    # --- the edge ------------------------------------------------------------------------------

    async def issue_token(self, request: Request) -> Response:
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return respond(401, {"error": "invalid_client"})
        token = uuid.uuid4().hex
        self.tokens[token] = self.clock() + TOKEN_LIFE_S
        body = {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFE_S}
        return respond(200, body)

    def is_authentic(self, request: Request) -> bool:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self.tokens.get(token, 0.0) > self.clock()

    def endpoint(self, run: Run) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            self.calls += 1
            if not self.is_authentic(request):
                return respond(401, {"name": "AUTHENTICATION_FAILURE", "debug_id": "x"})
            body = await request.body()
            is_form = request.headers.get("content-type", "").startswith("multipart/")
            params = {"form": body} if is_form else orjson.loads(body or b"{}")
            if request.method == "GET":
                return self.answer(request, run, params, None)
            key = request.headers.get("paypal-request-id") or uuid.uuid4().hex
            if key in self.replies:
                known = self.replies[key]
                if known is None:
                    in_use = {"name": "RESOURCE_CONFLICT", "debug_id": "x"}
                    return respond(409, in_use)
                return respond(*known)
            fault = self.faults.take()
            refusal = await self.faults.refuse(fault)
            if refusal is not None:
                return refusal
            self.replies[key] = None
            await self.faults.delay(fault)
            answer = self.answer(request, run, params, fault)
            # What failed is not kept: the same id may be sent again.
            if answer.status_code < 400:
                self.replies[key] = (answer.status_code, orjson.loads(bytes(answer.body) or b"{}"))
            else:
                del self.replies[key]
            return await self.faults.after(fault, answer)

        return serve

    def answer(self, request: Request, run: Run, params: Json, fault: Fault | None) -> Response:
        try:
            return respond(*run(request, params, fault))
        except ApiError as error:
            return respond(error.status, error.body)

    def new_id(self) -> str:
        self._sequence += 1
        return f"{self._sequence:06d}TESTPP"

    def now(self) -> str:
        return datetime.fromtimestamp(self.clock(), UTC).isoformat().replace("+00:00", "Z")

    def emit(self, type: str, resource: Json, kind: str) -> None:
        self.events.append(
            {
                "id": f"WH-{self.new_id()}",
                "create_time": self.now(),
                "resource_type": kind,
                "event_type": type,
                "event_version": "1.0",
                "resource_version": "2.0",
                "resource": orjson.loads(orjson.dumps(resource)),
            }
        )

    def book(self, code: str, found: Json, amount: Decimal, fee: Decimal, custom: str) -> None:
        currency = found["amount"]["currency_code"]
        self.transactions.append(
            {
                "transaction_id": found["id"],
                "transaction_event_code": code,
                "transaction_initiation_date": self.now(),
                "transaction_amount": {"currency_code": currency, "value": str(amount)},
                "fee_amount": {"currency_code": currency, "value": str(fee)},
                "custom_field": custom,
                "transaction_status": "S",
            }
        )

    # --- orders --------------------------------------------------------------------------------

    def create_order(self, _: Request, params: Json, fault: Fault | None) -> tuple[int, Json]:
        source = params["payment_source"]
        kind = next(iter(source))
        vault_id = source[kind].get("vault_id")
        if vault_id in DECLINED:
            raise ApiError(422, DECLINED[vault_id])
        if vault_id is not None and vault_id not in APPROVED and vault_id not in self.vault:
            raise ApiError(422, "TOKEN_ID_NOT_FOUND")
        asked = params["purchase_units"][0]
        order_id = self.new_id()
        unit = {**asked, "reference_id": "default", "payments": {}}
        if fault is Fault.WRONG_AMOUNT:
            unit["amount"] = _plus_one(unit["amount"])
        order: Json = {
            "id": order_id,
            "intent": params["intent"],
            "status": "CREATED",
            "purchase_units": [unit],
            "create_time": self.now(),
            "links": [_link(f"{self.url}/v2/checkout/orders/{order_id}", "self")],
        }
        self.orders[order_id] = order
        if vault_id is not None:
            self._authorize(order)
        else:
            order["status"] = "PAYER_ACTION_REQUIRED"
            url = f"https://www.paypal.test/checkoutnow?token={order_id}"
            order["links"].append(_link(url, "payer-action"))
        return 201, order

    def _authorize(self, order: Json) -> None:
        unit = order["purchase_units"][0]
        ends = datetime.fromtimestamp(self.clock(), UTC) + AUTHORIZED
        authorization = {
            "id": self.new_id(),
            "status": "CREATED",
            "amount": unit["amount"],
            "custom_id": unit.get("custom_id"),
            "expiration_time": ends.isoformat(),
            "create_time": self.now(),
            "update_time": self.now(),
            "supplementary_data": {"related_ids": {"order_id": order["id"]}},
        }
        unit["payments"] = {"authorizations": [authorization]}
        order["status"] = "COMPLETED"
        self.emit("PAYMENT.AUTHORIZATION.CREATED", authorization, "authorization")

    def get_order(self, request: Request, _: Json, fault: Fault | None) -> tuple[int, Json]:
        return 200, self._order(request.path_params["id"])

    def _order(self, order_id: str) -> Json:
        if order_id not in self.orders:
            raise ApiError(404, "INVALID_RESOURCE_ID")
        return self.orders[order_id]

    def authorize_order(self, request: Request, _: Json, fault: Fault | None) -> tuple[int, Json]:
        order = self._order(request.path_params["id"])
        if order["status"] == "COMPLETED":
            raise ApiError(422, "ORDER_ALREADY_AUTHORIZED")
        if order["status"] != "APPROVED":
            raise ApiError(422, "ORDER_NOT_APPROVED")
        self._authorize(order)
        return 201, order

    def _part(self, kind: str, part_id: str) -> tuple[Json, Json]:
        for order in self.orders.values():
            for part in order["purchase_units"][0]["payments"].get(kind, []):
                if part["id"] == part_id:
                    return order, part
        raise ApiError(404, "INVALID_RESOURCE_ID")

    def get_part(self, kind: str) -> Run:
        def get(request: Request, _: Json, fault: Fault | None) -> tuple[int, Json]:
            return 200, self._part(kind, request.path_params["id"])[1]

        return get

    def capture(self, request: Request, params: Json, fault: Fault | None) -> tuple[int, Json]:
        order, authorization = self._part("authorizations", request.path_params["id"])
        if authorization["status"] == "VOIDED":
            raise ApiError(422, "AUTHORIZATION_VOIDED")
        if authorization["status"] == "CAPTURED":
            raise ApiError(422, "AUTHORIZATION_ALREADY_CAPTURED")
        payments = order["purchase_units"][0]["payments"]
        captures = payments.setdefault("captures", [])
        taken = sum(Decimal(c["amount"]["value"]) for c in captures)
        amount = params["amount"]
        if taken + Decimal(amount["value"]) > Decimal(authorization["amount"]["value"]):
            raise ApiError(422, "MAX_CAPTURE_AMOUNT_EXCEEDED")
        if fault is Fault.WRONG_AMOUNT:
            amount = _plus_one(amount)
        capture = {
            "id": self.new_id(),
            "status": "COMPLETED",
            "amount": amount,
            "custom_id": authorization["custom_id"],
            "invoice_id": params.get("invoice_id"),
            "final_capture": params.get("final_capture", False),
            "create_time": self.now(),
            "supplementary_data": authorization["supplementary_data"],
        }
        captures.append(capture)
        authorization["status"] = "CAPTURED" if capture["final_capture"] else "PARTIALLY_CAPTURED"
        value = Decimal(amount["value"])
        fee = -(value * Decimal("0.0249") + Decimal("0.35")).quantize(Decimal("0.01"))
        self.book("T0006", capture, value, fee, str(capture["custom_id"]))
        self.emit("PAYMENT.CAPTURE.COMPLETED", capture, "capture")
        return 201, capture

    def void(self, request: Request, _: Json, fault: Fault | None) -> tuple[int, Json]:
        _order, authorization = self._part("authorizations", request.path_params["id"])
        if authorization["status"] == "VOIDED":
            raise ApiError(422, "PREVIOUSLY_VOIDED")
        if authorization["status"] == "CAPTURED":
            raise ApiError(422, "PREVIOUSLY_CAPTURED")
        authorization |= {"status": "VOIDED", "update_time": self.now()}
        self.emit("PAYMENT.AUTHORIZATION.VOIDED", authorization, "authorization")
        return 200, authorization

    def refund(self, request: Request, params: Json, fault: Fault | None) -> tuple[int, Json]:
        order, capture = self._part("captures", request.path_params["id"])
        refunds = order["purchase_units"][0]["payments"].setdefault("refunds", [])
        given = sum(
            Decimal(r["amount"]["value"])
            for r in refunds
            if r["links"][0]["href"].endswith(capture["id"]) and r["status"] == "COMPLETED"
        )
        total = Decimal(capture["amount"]["value"])
        amount: Json = params.get("amount") or capture["amount"]
        if given == total:
            raise ApiError(422, "CAPTURE_FULLY_REFUNDED")
        if given + Decimal(amount["value"]) > total:
            raise ApiError(422, "REFUND_AMOUNT_EXCEEDED")
        made = {
            "id": self.new_id(),
            "status": "COMPLETED",
            "amount": amount,
            "custom_id": params.get("custom_id"),
            "create_time": self.now(),
            "links": [_link(f"{self.url}/v2/payments/captures/{capture['id']}", "up")],
        }
        refunds.append(made)
        done = given + Decimal(amount["value"]) == total
        capture["status"] = "REFUNDED" if done else "PARTIALLY_REFUNDED"
        value = -Decimal(amount["value"])
        self.book("T1107", made, value, Decimal(0), str(made["custom_id"] or ""))
        self.emit("PAYMENT.CAPTURE.REFUNDED", made, "refund")
        return 201, made

    # --- disputes, the books, the vault --------------------------------------------------------

    def open_dispute(self, order_id: str, *, stage: str = "CHARGEBACK") -> str:
        capture = self.orders[order_id]["purchase_units"][0]["payments"]["captures"][0]
        dispute: Json = {
            "dispute_id": f"PP-D-{self.new_id()}",
            "create_time": self.now(),
            "update_time": self.now(),
            "disputed_transactions": [{"seller_transaction_id": capture["id"]}],
            "reason": "UNAUTHORISED",
            "status": "WAITING_FOR_SELLER_RESPONSE",
            "dispute_amount": capture["amount"],
            "dispute_life_cycle_stage": stage,
            "seller_response_due_date": self.now(),
        }
        self.disputes[dispute["dispute_id"]] = dispute
        held = {"id": f"{dispute['dispute_id']}-HELD", "amount": capture["amount"]}
        if stage != "INQUIRY":
            value = -Decimal(capture["amount"]["value"])
            self.book("T1201", held, value, Decimal(0), str(capture["custom_id"]))
        self.emit("CUSTOMER.DISPUTE.CREATED", dispute, "dispute")
        return str(dispute["dispute_id"])

    def close_dispute(self, dispute_id: str, outcome: str) -> None:
        dispute = self.disputes[dispute_id]
        dispute |= {"status": "RESOLVED", "dispute_outcome": {"outcome_code": outcome}}
        self.emit("CUSTOMER.DISPUTE.RESOLVED", dispute, "dispute")

    def get_dispute(self, request: Request, _: Json, fault: Fault | None) -> tuple[int, Json]:
        dispute_id = request.path_params["id"]
        if dispute_id not in self.disputes:
            raise ApiError(404, "INVALID_RESOURCE_ID")
        return 200, self.disputes[dispute_id]

    def provide_evidence(self, request: Request, params: Json, _: Fault | None) -> tuple[int, Json]:
        dispute = self.disputes[request.path_params["id"]]
        if dispute["status"] != "WAITING_FOR_SELLER_RESPONSE":
            raise ApiError(422, "ACTION_NOT_ALLOWED_IN_CURRENT_DISPUTE_STATE")
        part = params["form"].split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--")[0]
        sent = orjson.loads(part)["evidences"]
        self.evidence.setdefault(dispute["dispute_id"], []).extend(sent)
        dispute["status"] = "UNDER_REVIEW"
        self.emit("CUSTOMER.DISPUTE.UPDATED", dispute, "dispute")
        return 200, {"links": []}

    def list_transactions(self, request: Request, _: Json, fault: Fault | None) -> tuple[int, Json]:
        query = request.query_params
        start = datetime.fromisoformat(query["start_date"])
        end = datetime.fromisoformat(query["end_date"])
        if end - start > timedelta(days=31):
            raise ApiError(400, "INVALID_DATE_RANGE")
        found = [
            {"transaction_info": t}
            for t in self.transactions
            if start <= datetime.fromisoformat(t["transaction_initiation_date"]) <= end
        ]
        size, page = int(query["page_size"]), int(query["page"])
        part = found[(page - 1) * size : page * size]
        return 200, {"transaction_details": part, "total_pages": max(1, -(-len(found) // size))}

    def pay_out(self, value: str, currency: str = "EUR") -> None:
        amount = {"currency_code": currency, "value": value}
        self.book("T0400", {"id": self.new_id(), "amount": amount}, -Decimal(value), Decimal(0), "")

    def create_token(self, _: Request, params: Json, fault: Fault | None) -> tuple[int, Json]:
        setup = params["payment_source"]["token"]["id"]
        if not setup.startswith("SETUP"):
            raise ApiError(422, "TOKEN_ID_NOT_FOUND")
        is_card = setup.startswith("SETUPCARD")
        card = {"brand": "VISA", "last_digits": "1111", "expiry": "2031-05"}
        source: Json = {"card": card} if is_card else {"paypal": {"email_address": "a@b.example"}}
        made: Json = {"id": f"vault-{self.new_id()}", "payment_source": source}
        self.vault[made["id"]] = made
        return 201, made

    def delete_token(self, request: Request, _: Json, fault: Fault | None) -> tuple[int, Json]:
        if self.vault.pop(request.path_params["id"], None) is None:
            raise ApiError(404, "INVALID_RESOURCE_ID")
        return 204, {}

    # --- the payer's side, and webhooks --------------------------------------------------------

    def approve(self, order_id: str) -> None:
        order = self.orders[order_id]
        assert order["status"] == "PAYER_ACTION_REQUIRED"
        order["status"] = "APPROVED"
        self.emit("CHECKOUT.ORDER.APPROVED", order, "checkout-order")

    def expire(self, order_id: str) -> None:
        authorization = self.orders[order_id]["purchase_units"][0]["payments"]["authorizations"][0]
        authorization |= {"status": "VOIDED", "update_time": authorization["expiration_time"]}
        self.emit("PAYMENT.AUTHORIZATION.VOIDED", authorization, "authorization")

    def refund_by_hand(self, order_id: str, value: str) -> None:
        capture = self.orders[order_id]["purchase_units"][0]["payments"]["captures"][0]
        currency = capture["amount"]["currency_code"]
        request = Request({"type": "http", "path_params": {"id": capture["id"]}, "headers": []})
        self.refund(request, {"amount": {"currency_code": currency, "value": value}}, None)

    def webhook(self, event: Json, *, sent_at: str | None = None) -> tuple[dict[str, str], bytes]:
        """Return the headers and body that PayPal would send."""
        body = orjson.dumps(event)
        sent_id, sent = str(uuid.uuid4()), sent_at or self.now()
        signed = f"{sent_id}|{sent}|{WEBHOOK_ID}|{binascii.crc32(body)}".encode()
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return {
            "paypal-auth-algo": "SHA256withRSA",
            "paypal-cert-url": f"{self.url}/v1/notifications/certs/CERT-TEST",
            "paypal-transmission-id": sent_id,
            "paypal-transmission-sig": base64.b64encode(signature).decode(),
            "paypal-transmission-time": sent,
            "content-type": "application/json",
        }, body

    async def verify(self, request: Request) -> Response:
        """Check a signature over the very bytes after `"webhook_event":`, as the real one does."""
        if not self.is_authentic(request):
            return respond(401, {"name": "AUTHENTICATION_FAILURE", "debug_id": "x"})
        raw = await request.body()
        question = orjson.loads(raw)
        event = raw.partition(b'"webhook_event":')[2][:-1]
        parts = (question["transmission_id"], question["transmission_time"])
        signed = f"{parts[0]}|{parts[1]}|{question['webhook_id']}|{binascii.crc32(event)}".encode()
        try:
            self._key.public_key().verify(
                base64.b64decode(question["transmission_sig"]),
                signed,
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except (InvalidSignature, ValueError):
            return respond(200, {"verification_status": "FAILURE"})
        return respond(200, {"verification_status": "SUCCESS"})


def respond(status: int, body: Json) -> Response:
    content = b"" if status == 204 else orjson.dumps(body)
    return Response(content, status, {"paypal-debug-id": "test"}, "application/json")


def _link(href: str, rel: str) -> Json:
    return {"href": href, "rel": rel, "method": "GET"}


def _plus_one(amount: Json) -> Json:
    return {**amount, "value": str(Decimal(amount["value"]) + Decimal("0.01"))}
