"""Payloads as they were once written. They are only added to: the outbox keeps every one."""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import pytest

from deps.bus import Envelope
from deps.core import Event
from tools.envelope import UPCASTERS, UnreadableEvent, load
from tools.events import EVENTS

ID = "0195c8a0-0000-7000-8000-000000000001"
OTHER_ID = "0195c8a0-0000-7000-8000-000000000002"

# (type, version) → payload. A change of an event adds a row here and never edits one.
GOLDEN: dict[tuple[str, int], dict[str, Any]] = {
    ("HandoverRequested", 1): {"handover_id": ID, "number": 1, "conversation_id": OTHER_ID},
    ("HandoverResolved", 1): {"handover_id": ID, "number": 1},
    ("StockCountReopened", 1): {
        "count_id": ID,
        "location": "HAM",
        "corrections": {"MUG": -1},
    },
    ("TransferArrivalTakenBack", 1): {
        "transfer_id": ID,
        "target": "ROT",
        "received": {"MUG": 2},
        "lost": {},
    },
    ("ReturnReopened", 1): {"order_id": ID, "return_id": OTHER_ID},
    ("ExchangeReopened", 1): {"order_id": ID, "exchange_id": OTHER_ID},
    ("HandoverReopened", 1): {"handover_id": ID, "number": 1},
    ("CreditHandedBack", 1): {"credit_account_id": ID, "customer_id": OTHER_ID},
    ("OrderUnshipped", 1): {"order_id": ID, "fulfillment_id": OTHER_ID},
    ("OrderUndelivered", 1): {"order_id": ID, "fulfillment_id": OTHER_ID},
    ("TransferReopened", 1): {"transfer_id": ID, "sent": {"MUG": 2}},
    ("UserRegistered", 1): {"user_id": ID, "role": "customer"},
    ("RefreshTokenReused", 1): {"user_id": ID, "family_id": OTHER_ID},
    ("ProductSaved", 1): {"product_id": ID, "handle": "stoneware-mug", "created": True},
    ("StockAdjusted", 1): {
        "product_id": ID,
        "sku": "MUG",
        "location": "HAM",
        "delta": -2,
        "on_hand": 8,
        "reason": "broken",
    },
    ("StockLow", 1): {"product_id": ID, "sku": "MUG", "available": 2},
    ("StockPolicySet", 1): {
        "product_id": ID,
        "sku": "MUG",
        "policy": "preorder",
        "backorder_limit": 20,
        "available_on": "2026-03-01",
    },
    ("StockCounted", 1): {
        "count_id": ID,
        "location": "HAM",
        "counted": 3,
        "corrections": {"MUG": -2},
    },
    ("BundleDefined", 1): {"product_id": ID, "sku": "SET", "parts": {"MUG": 2, "TEA": 1}},
    ("TransferShipped", 1): {
        "transfer_id": ID,
        "source": "HAM",
        "target": "MUC",
        "units": {"MUG": 5},
    },
    ("TransferReceived", 1): {
        "transfer_id": ID,
        "target": "MUC",
        "received": {"MUG": 4},
        "lost": {"MUG": 1},
        "is_complete": True,
    },
    ("TransferCancelled", 1): {"transfer_id": ID, "reason": "no lorry", "returned": {"MUG": 5}},
    ("BackInStock", 1): {
        "stock_id": OTHER_ID,
        "product_id": ID,
        "sku": "MUG",
        "available": 4,
    },
    ("SoldOut", 1): {"stock_id": OTHER_ID, "product_id": ID, "sku": "MUG", "available": 0},
    ("BackorderFilled", 1): {"order_id": ID, "sku": "MUG", "quantity": 2, "open_quantity": 0},
    ("StockReserved", 1): {"order_id": ID, "units": {"MUG": 2}},
    ("StockReleased", 1): {"order_id": ID, "reason": "expired"},
    ("OrderCreated", 1): {"order_id": ID, "total_amount": 2990, "currency": "EUR"},
    ("PaymentAuthorized", 1): {
        "order_id": ID,
        "payment_id": OTHER_ID,
        "amount": 2990,
        "currency": "EUR",
    },
    ("PaymentCaptured", 1): {
        "order_id": ID,
        "payment_id": OTHER_ID,
        "amount": 2990,
        "currency": "EUR",
    },
    ("PaymentFailed", 1): {"order_id": ID, "payment_id": OTHER_ID, "code": "insufficient_funds"},
    ("PaymentRefunded", 1): {
        "order_id": ID,
        "payment_id": OTHER_ID,
        "amount": 2990,
        "currency": "EUR",
    },
    ("PaymentActionRequired", 1): {"order_id": ID, "payment_id": OTHER_ID},
    ("PaymentAuthorizationExpired", 1): {
        "order_id": ID,
        "payment_id": OTHER_ID,
        "amount": 990,
        "currency": "EUR",
    },
    ("RefundRequested", 1): {
        "order_id": ID,
        "refund_id": OTHER_ID,
        "amount": 990,
        "currency": "EUR",
        "reason": "came too late",
    },
    ("RefundSucceeded", 1): {
        "order_id": ID,
        "refund_id": OTHER_ID,
        "amount": 990,
        "currency": "EUR",
    },
    ("RefundFailed", 1): {
        "order_id": ID,
        "refund_id": OTHER_ID,
        "payment_id": OTHER_ID,
        "amount": 990,
        "currency": "EUR",
        "code": "card_closed",
    },
    ("CreditIssued", 1): {
        "credit_account_id": ID,
        "kind": "gift_card",
        "amount": 5000,
        "currency": "EUR",
    },
    ("CreditRedeemed", 1): {"credit_account_id": ID, "customer_id": OTHER_ID},
    ("DiscountCreated", 1): {"discount_id": ID, "code": "WELCOME10"},
    ("DiscountActivitySet", 1): {"discount_id": ID, "code": "WELCOME10", "is_active": False},
    ("CreditActivitySet", 1): {"credit_account_id": ID, "is_active": False},
    ("CreditExpired", 1): {"credit_account_id": ID, "amount": 1200, "currency": "EUR"},
    ("PaymentVoided", 1): {"order_id": ID, "payment_id": OTHER_ID},
    ("PaymentExpired", 1): {"order_id": ID, "payment_id": OTHER_ID},
    ("DisputeOpened", 1): {
        "order_id": ID,
        "dispute_id": OTHER_ID,
        "amount": 2990,
        "currency": "EUR",
        "reason": "fraudulent",
    },
    ("DisputeEvidenceSubmitted", 1): {"order_id": ID, "dispute_id": OTHER_ID},
    ("DisputeWon", 1): {
        "order_id": ID,
        "dispute_id": OTHER_ID,
        "amount": 2990,
        "currency": "EUR",
    },
    ("DisputeLost", 1): {
        "order_id": ID,
        "dispute_id": OTHER_ID,
        "amount": 2990,
        "currency": "EUR",
    },
    ("MethodStored", 1): {"user_id": ID, "method_id": OTHER_ID, "provider": "stripe"},
    ("MethodRemoved", 1): {"user_id": ID, "method_id": OTHER_ID},
    ("ReconciliationFinished", 1): {
        "reconciliation_id": ID,
        "provider": "stripe",
        "difference_count": 2,
    },
    ("OrderPlaced", 1): {
        "order_id": ID,
        "number": 1001,
        "customer_id": None,
        "total_amount": 2990,
        "currency": "EUR",
    },
    ("AuditFailed", 1): {
        "shop_id": "00000000-0000-0000-0000-000000000000",
        "slot": "2026-01-30T12:00:00Z",
        "invariants": ["no stock is negative or sold twice"],
    },
    ("OrderCancelled", 1): {"order_id": ID, "reason": "changed my mind"},
    ("AftersalesPolicyChanged", 1): {"policy_id": ID, "policy": {"item_edits_max": 1}},
    ("OrderEdited", 1): {
        "order_id": ID,
        "edit_id": OTHER_ID,
        "number": 1001,
        "difference_amount": -250,
        "total_amount": 2740,
        "currency": "EUR",
    },
    ("OrderEditFailed", 1): {"order_id": ID, "edit_id": OTHER_ID, "code": "insufficient_funds"},
    ("OrderPaymentChanged", 1): {
        "order_id": ID,
        "edit_id": OTHER_ID,
        "amount": 2990,
        "currency": "EUR",
    },
    ("OrderAddressChanged", 1): {"order_id": ID, "edit_id": OTHER_ID},
    ("OrderStockSwapped", 1): {"order_id": ID, "removed": {"MUG": 1}, "added": {"MUG-BLUE": 1}},
    ("OrderShipped", 1): {
        "order_id": ID,
        "fulfillment_id": OTHER_ID,
        "carrier": "DHL",
        "tracking_number": "00340434161094042557",
    },
    ("OrderDelivered", 1): {"order_id": ID, "fulfillment_id": OTHER_ID},
    ("ReturnRequested", 1): {
        "order_id": ID,
        "return_id": OTHER_ID,
        "units": {"MUG": 1},
        "amount": 1250,
        "currency": "EUR",
    },
    ("ReturnReceived", 1): {"order_id": ID, "return_id": OTHER_ID, "restocked": {"MUG": 1}},
    ("ReturnCancelled", 1): {"order_id": ID, "return_id": OTHER_ID},
    ("ExchangeRequested", 1): {
        "order_id": ID,
        "exchange_id": OTHER_ID,
        "removed": {"MUG": 1},
        "added": {"MUG-BLUE": 1},
        "difference_amount": 100,
        "currency": "EUR",
    },
    ("ExchangeReceived", 1): {"order_id": ID, "exchange_id": OTHER_ID, "restocked": {}},
    ("ExchangeCompleted", 1): {
        "order_id": ID,
        "exchange_id": OTHER_ID,
        "difference_amount": 100,
        "total_amount": 3090,
        "currency": "EUR",
    },
    ("ExchangeCancelled", 1): {"order_id": ID, "exchange_id": OTHER_ID},
    ("CustomerAddressChanged", 1): {"user_id": ID},
}


def envelope(kind: str, payload: dict[str, Any], version: int = 1) -> Envelope:
    return Envelope(
        id=UUID(ID),
        seq=1,
        type=kind,
        schema_version=version,
        aggregate_type="order",
        aggregate_id=UUID(ID),
        aggregate_seq=1,
        payload=payload,
        occurred_at=datetime(2026, 1, 30, tzinfo=UTC),
    )


@pytest.mark.parametrize("kind", EVENTS)
def test_every_version_of_every_event_has_a_golden_payload(kind: str) -> None:
    versions = range(1, EVENTS[kind].version + 1)

    assert [version for version in versions if (kind, version) not in GOLDEN] == []


@pytest.mark.parametrize(("kind", "version"), GOLDEN)
def test_old_payloads_are_still_read(kind: str, version: int) -> None:
    event = load(envelope(kind, GOLDEN[kind, version], version))

    assert type(event) is EVENTS[kind]
    if version == event.version:
        kept = event.model_dump(mode="json")
        assert {name: kept.get(name) for name in GOLDEN[kind, version]} == GOLDEN[kind, version]


def test_every_older_version_has_a_way_up() -> None:
    steps = {(kind, v) for kind, event in EVENTS.items() for v in range(1, event.version)}

    assert set(UPCASTERS) == steps


class Renamed(Event):
    aggregate = "order"
    version: ClassVar[int] = 3
    order_id: UUID
    amount: int
    currency: str


def test_old_versions_climb_one_step_at_a_time() -> None:
    upcasters = {
        ("Renamed", 1): lambda old: {"order_id": old["id"], "amount": old["amount"]},
        ("Renamed", 2): lambda old: old | {"currency": "EUR"},
    }
    events = {"Renamed": Renamed}

    first = load(
        envelope("Renamed", {"id": ID, "amount": 5}, 1), events=events, upcasters=upcasters
    )
    second = load(
        envelope("Renamed", {"order_id": ID, "amount": 5}, 2), events=events, upcasters=upcasters
    )

    assert first == second == Renamed(order_id=UUID(ID), amount=5, currency="EUR")


@pytest.mark.parametrize(
    ("unreadable", "reason"),
    [
        (envelope("Teleported", {}), "unknown event type Teleported"),
        (envelope("OrderCancelled", {}, 99), "OrderCancelled version 99 is newer than 1"),
        (envelope("Renamed", {}, 1), "no way from version 1 of Renamed"),
        (envelope("OrderCancelled", {"order_id": ID}), "reason: Field required"),
    ],
)
def test_unreadable_events_say_why(unreadable: Envelope, reason: str) -> None:
    with pytest.raises(UnreadableEvent, match=reason):
        load(unreadable, events={**EVENTS, "Renamed": Renamed})
