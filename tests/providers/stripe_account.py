"""An account at Stripe: what its payments, refunds, disputes and books are, whoever asks.

Test methods as https://docs.stripe.com/testing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.providers.server import Fault

DECLINED = {
    "pm_card_chargeDeclined": "generic_decline",
    "pm_card_visa_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_chargeDeclinedExpiredCard": "expired_card",
    "pm_card_visa_chargeDeclinedStolenCard": "stolen_card",
}
CHALLENGED = {"pm_card_threeDSecure2Required", "pm_card_authenticationRequired"}
APPROVED = {"pm_card_visa", "pm_card_mastercard", "pm_card_createDispute", *CHALLENGED}
AUTHORIZED_S = 7 * 86_400
DISPUTE_FEE = 2000
Json = dict[str, Any]


class ApiError(Exception):
    def __init__(self, status: int, type: str, code: str = "", **more: Any) -> None:
        self.status = status
        self.error = {"type": type, "code": code, "message": f"{code or type}.", **more}


def fee_of(amount: int) -> int:
    return amount * 15 // 1000 + 25


@dataclass
class StripeAccount:
    """Tests reach into it as a person at the dashboard would."""

    search_lag_s: float = 0.0
    intents: dict[str, Json] = field(default_factory=dict)
    charges: dict[str, Json] = field(default_factory=dict)
    refunds: dict[str, Json] = field(default_factory=dict)
    disputes: dict[str, Json] = field(default_factory=dict)
    customers: dict[str, Json] = field(default_factory=dict)
    attached: dict[str, str] = field(default_factory=dict)
    ledger: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    clock: Callable[[], float] = time.time
    _sequence: int = 0

    def new_id(self, prefix: str) -> str:
        self._sequence += 1
        return f"{prefix}_{self._sequence:08d}test"

    def now(self) -> int:
        return int(self.clock())

    def emit(self, type: str, about: Json) -> None:
        self.events.append(
            {
                "id": self.new_id("evt"),
                "object": "event",
                "api_version": "2026-10-01",
                "created": self.now(),
                "data": {"object": orjson.loads(orjson.dumps(about))},
                "livemode": False,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": type,
            }
        )

    def book(self, category: str, amount: int, fee: int, currency: str, source: Json) -> str:
        entry = {
            "id": self.new_id("txn"),
            "object": "balance_transaction",
            "amount": amount,
            "available_on": self.now(),
            "created": self.now(),
            "currency": currency,
            "description": None,
            "exchange_rate": None,
            "fee": fee,
            "fee_details": [],
            "net": amount - fee,
            "reporting_category": category,
            "source": source["id"],
            "status": "available",
            "type": category,
        }
        self.ledger.append(entry)
        return str(entry["id"])

    # --- payment intents -----------------------------------------------------------------------

    def create_intent(self, _: str, params: Json, fault: Fault | None) -> Json:
        method = params.get("payment_method", "")
        if method not in APPROVED and method not in DECLINED and method not in self.attached:
            raise ApiError(400, "invalid_request_error", "resource_missing", param="payment_method")
        if self.attached.get(method) not in (None, params.get("customer")):
            raise ApiError(400, "invalid_request_error", "", param="payment_method")
        amount = int(params["amount"]) + (1 if fault is Fault.WRONG_AMOUNT else 0)
        may_redirect = params.get("automatic_payment_methods", {}).get("allow_redirects")
        if may_redirect == "always" and "return_url" not in params:
            raise ApiError(400, "invalid_request_error", "", param="return_url")
        intent_id = self.new_id("pi")
        intent = {
            "id": intent_id,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_received": 0,
            "canceled_at": None,
            "cancellation_reason": None,
            "capture_method": params.get("capture_method", "automatic"),
            "client_secret": f"{intent_id}_secret_test",
            "created": self.now(),
            "currency": params["currency"],
            "customer": params.get("customer"),
            "last_payment_error": None,
            "latest_charge": None,
            "livemode": False,
            "metadata": params.get("metadata", {}),
            "next_action": None,
            "payment_method": method,
            "payment_method_options": params.get("payment_method_options", {}),
            "payment_method_types": ["card"],
            "status": "requires_confirmation",
        }
        self.intents[intent_id] = intent
        original = method.removesuffix("_saved")
        if original in DECLINED:
            raise self._decline(intent, DECLINED[original])
        if original in CHALLENGED:
            url = params.get("return_url")
            intent["status"] = "requires_action"
            intent["next_action"] = (
                {
                    "type": "redirect_to_url",
                    "redirect_to_url": {
                        "url": f"https://hooks.stripe.test/3ds/{intent_id}",
                        "return_url": url,
                    },
                }
                if url
                else {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_2"}}
            )
            self.emit("payment_intent.requires_action", intent)
        else:
            self._approve(intent)
        return self.expanded(intent)

    def _approve(self, intent: Json) -> None:
        charge_id = self.new_id("ch")
        self.charges[charge_id] = {
            "id": charge_id,
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": 0,
            "amount_refunded": 0,
            "captured": False,
            "created": self.now(),
            "currency": intent["currency"],
            "disputed": False,
            "metadata": {},
            "paid": True,
            "payment_intent": intent["id"],
            "payment_method_details": {
                "type": "card",
                "card": {
                    "brand": "visa",
                    "last4": "4242",
                    "capture_before": self.now() + AUTHORIZED_S,
                },
            },
            "refunded": False,
            "status": "succeeded",
        }
        intent |= {
            "status": "requires_capture",
            "amount_capturable": intent["amount"],
            "latest_charge": charge_id,
            "next_action": None,
        }
        self.emit("payment_intent.amount_capturable_updated", intent)

    def _decline(self, intent: Json, code: str) -> ApiError:
        is_decline_code = code not in ("expired_card", "payment_intent_authentication_failure")
        error: Json = {
            "type": "card_error",
            "code": "card_declined" if is_decline_code else code,
            "decline_code": code if is_decline_code else None,
            "message": "Your card was declined.",
        }
        intent |= {"status": "requires_payment_method", "last_payment_error": error}
        self.emit("payment_intent.payment_failed", intent)
        more = {key: value for key, value in error.items() if key not in ("type", "code")}
        return ApiError(402, "card_error", error["code"], payment_intent=dict(intent), **more)

    def expanded(self, intent: Json) -> Json:
        charge = self.charges.get(intent["latest_charge"] or "")
        return {**intent, "latest_charge": charge}

    def get_intent(self, intent_id: str, params: Json) -> Json:
        return self.expanded(self._intent(intent_id))

    def _intent(self, intent_id: str) -> Json:
        if intent_id not in self.intents:
            raise ApiError(404, "invalid_request_error", "resource_missing", param="intent")
        return self.intents[intent_id]

    def search(self, _: str, params: Json) -> Json:
        """`metadata['name']:'value'` alone, and as late as the real one."""
        name, _, value = params["query"].removeprefix("metadata['").partition("']:'")
        found = [
            self.expanded(intent)
            for intent in self.intents.values()
            if intent["metadata"].get(name) == value.removesuffix("'")
            and self.clock() - intent["created"] >= self.search_lag_s
        ]
        url = "/v1/payment_intents/search"
        return {"object": "search_result", "data": found[:1], "has_more": False, "url": url}

    def capture(self, intent_id: str, params: Json, fault: Fault | None) -> Json:
        intent = self._intent(intent_id)
        if intent["status"] != "requires_capture":
            raise ApiError(400, "invalid_request_error", "payment_intent_unexpected_state")
        amount = int(params.get("amount_to_capture") or intent["amount_capturable"])
        if amount > intent["amount_capturable"]:
            raise ApiError(400, "invalid_request_error", "amount_too_large")
        is_final = params.get("final_capture", "true") == "true"
        options = intent["payment_method_options"].get("card", {})
        if not is_final and options.get("request_multicapture") != "if_available":
            raise ApiError(400, "invalid_request_error", "", param="final_capture")
        # The provider errs: it takes one more than asked, and says so.
        taken = amount + (1 if fault is Fault.WRONG_AMOUNT else 0)
        charge = self.charges[intent["latest_charge"]]
        intent["metadata"] |= params.get("metadata", {})
        intent["amount_received"] += taken
        intent["amount_capturable"] = 0 if is_final else intent["amount_capturable"] - amount
        charge["amount_captured"] += taken
        charge["captured"] = True
        if is_final:
            intent["status"] = "succeeded"
            self.emit("payment_intent.succeeded", intent)
        self.book("charge", taken, fee_of(taken), intent["currency"], charge)
        self.emit("charge.captured", charge)
        if intent["payment_method"] == "pm_card_createDispute":
            self.open_dispute(intent_id)
        return self.expanded(intent)

    def cancel(self, intent_id: str, params: Json, fault: Fault | None) -> Json:
        intent = self._intent(intent_id)
        if intent["status"] in ("succeeded", "canceled"):
            raise ApiError(400, "invalid_request_error", "payment_intent_unexpected_state")
        return self._cancel(intent, None)

    def _cancel(self, intent: Json, reason: str | None) -> Json:
        intent |= {"status": "canceled", "cancellation_reason": reason, "amount_capturable": 0}
        intent["canceled_at"] = self.now()
        self.emit("payment_intent.canceled", intent)
        return self.expanded(intent)

    # --- refunds, disputes, the books ----------------------------------------------------------

    def create_refund(self, _: str, params: Json, fault: Fault | None) -> Json:
        intent = self._intent(params["payment_intent"])
        charge = self.charges.get(intent["latest_charge"] or "")
        if charge is None or not charge["captured"]:
            raise ApiError(400, "invalid_request_error", "charge_not_captured")
        left = charge["amount_captured"] - charge["amount_refunded"]
        amount = int(params.get("amount") or left)
        if left == 0:
            raise ApiError(400, "invalid_request_error", "charge_already_refunded")
        if amount > left:
            raise ApiError(
                400,
                "invalid_request_error",
                "",
                message=f"Refund amount ({amount}) is greater than unrefunded amount ({left})",
            )
        refund = {
            "id": self.new_id("re"),
            "object": "refund",
            "amount": amount,
            "charge": charge["id"],
            "created": self.now(),
            "currency": intent["currency"],
            "metadata": params.get("metadata", {}),
            "payment_intent": intent["id"],
            "reason": params.get("reason"),
            "status": "succeeded",
        }
        self.refunds[refund["id"]] = refund
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
        refund["balance_transaction"] = self.book("refund", -amount, 0, intent["currency"], refund)
        self.emit("refund.created", refund)
        self.emit("charge.refunded", charge)
        return refund

    def list_refunds(self, _: str, params: Json) -> Json:
        found = [
            r for r in self.refunds.values() if r["payment_intent"] == params["payment_intent"]
        ]
        data = list(reversed(found))[: int(params.get("limit", 10))]
        return {
            "object": "list",
            "data": data,
            "has_more": len(found) > len(data),
            "url": "/v1/refunds",
        }

    def one(self, kind: str) -> Callable[[str, Json], Json]:
        def get(object_id: str, params: Json) -> Json:
            rows: dict[str, Json] = getattr(self, kind)
            if object_id not in rows:
                raise ApiError(404, "invalid_request_error", "resource_missing")
            return rows[object_id]

        return get

    def open_dispute(self, intent_id: str, reason: str = "fraudulent") -> str:
        """As a bank does: the money is taken back at once, and a fee kept."""
        intent = self.intents[intent_id]
        charge = self.charges[intent["latest_charge"]]
        charge["disputed"] = True
        dispute: Json = {
            "id": self.new_id("du"),
            "object": "dispute",
            "amount": charge["amount_captured"],
            "balance_transactions": [],
            "charge": charge["id"],
            "created": self.now(),
            "currency": charge["currency"],
            "evidence": {},
            "evidence_details": {"due_by": self.now() + 7 * 86_400, "submission_count": 0},
            "payment_intent": intent_id,
            "reason": reason,
            "status": "needs_response",
        }
        self.disputes[dispute["id"]] = dispute
        self._move(dispute, "dispute", -dispute["amount"], DISPUTE_FEE)
        self.emit("charge.dispute.created", dispute)
        self.emit("charge.dispute.funds_withdrawn", dispute)
        return str(dispute["id"])

    def _move(self, dispute: Json, category: str, amount: int, fee: int) -> None:
        self.book(category, amount, fee, dispute["currency"], dispute)
        dispute["balance_transactions"].append(dict(self.ledger[-1]))

    def answer_dispute(self, dispute_id: str, params: Json, fault: Fault | None) -> Json:
        dispute = self.one("disputes")(dispute_id, {})
        if dispute["status"] not in ("needs_response", "warning_needs_response"):
            raise ApiError(400, "invalid_request_error", "dispute_evidence_submitted")
        dispute["evidence"] |= params.get("evidence", {})
        if params.get("submit") == "true":
            dispute["status"] = "under_review"
            dispute["evidence_details"]["submission_count"] += 1
            self.emit("charge.dispute.updated", dispute)
        return dispute

    def close_dispute(self, dispute_id: str, status: str) -> None:
        dispute = self.disputes[dispute_id]
        dispute["status"] = status
        if status == "won":
            self._move(dispute, "dispute_reversal", dispute["amount"], 0)
            self.emit("charge.dispute.funds_reinstated", dispute)
        self.emit("charge.dispute.closed", dispute)

    def list_ledger(self, _: str, params: Json) -> Json:
        created = params.get("created", {})
        found = [
            {**entry, "source": self._source(entry["source"])}
            for entry in reversed(self.ledger)
            if int(created.get("gte", 0)) <= entry["created"] < int(created.get("lt", 2**62))
        ]
        ids = [entry["id"] for entry in found]
        begin = ids.index(params["starting_after"]) + 1 if "starting_after" in params else 0
        limit = int(params.get("limit", 10))
        data = found[begin : begin + limit]
        more = len(found) > begin + limit
        return {"object": "list", "data": data, "has_more": more, "url": "/v1/balance_transactions"}

    def _source(self, source_id: str) -> Json:
        for rows in (self.charges, self.refunds, self.disputes):
            if source_id in rows:
                return rows[source_id]
        return {"id": source_id, "object": "payout"}

    # --- customers and methods -----------------------------------------------------------------

    def create_customer(self, _: str, params: Json, fault: Fault | None) -> Json:
        made = {
            "id": self.new_id("cus"),
            "object": "customer",
            "metadata": params.get("metadata", {}),
        }
        self.customers[made["id"]] = made
        return made

    def attach(self, method_id: str, params: Json, fault: Fault | None) -> Json:
        if method_id in DECLINED:
            raise ApiError(402, "card_error", "card_declined", decline_code=DECLINED[method_id])
        if method_id not in APPROVED:
            raise ApiError(404, "invalid_request_error", "resource_missing")
        stored = f"{method_id}_saved"
        self.attached[stored] = params["customer"]
        return self._method(stored, params["customer"])

    def detach(self, method_id: str, params: Json, fault: Fault | None) -> Json:
        if self.attached.pop(method_id, None) is None:
            raise ApiError(400, "invalid_request_error", "payment_method_unexpected_state")
        return self._method(method_id, None)

    def _method(self, method_id: str, customer: str | None) -> Json:
        return {
            "id": method_id,
            "object": "payment_method",
            "type": "card",
            "card": {"brand": "visa", "last4": "4242", "exp_month": 8, "exp_year": 2030},
            "customer": customer,
        }

    # --- what happens by itself, or by a person's hand -----------------------------------------

    def authenticate(self, intent_id: str, *, succeeds: bool = True) -> None:
        """The shopper finishes the challenge, well or badly."""
        intent = self.intents[intent_id]
        assert intent["status"] == "requires_action"
        if succeeds:
            self._approve(intent)
        else:
            self._decline(intent, "payment_intent_authentication_failure")

    def expire(self, intent_id: str) -> None:
        self._cancel(self.intents[intent_id], "automatic")

    def refund_by_hand(self, intent_id: str, amount: int) -> None:
        self.create_refund("", {"payment_intent": intent_id, "amount": amount}, None)

    def fail_refund(self, refund_id: str) -> None:
        """The bank sends a refund back, days later."""
        refund = self.refunds[refund_id]
        refund |= {"status": "failed", "failure_reason": "lost_or_stolen_card"}
        self.charges[refund["charge"]]["amount_refunded"] -= refund["amount"]
        self.book("refund_failure", refund["amount"], 0, refund["currency"], refund)
        self.emit("refund.failed", refund)

    def pay_out(self, amount: int, currency: str = "eur") -> None:
        self.book("payout", -amount, 0, currency, {"id": self.new_id("po")})
