"""Every fact the shop announces, in the past tense. `tools/handlers.py` says who reacts to which.

Fields are only ever added, with a default; `tests/tools/test_events.py` holds old payloads.
"""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from db.types import OrderId, PaymentId, ProductId, UserId
from deps.core import Event
from tools import reversal


class UserRegistered(Event):
    aggregate = "user"
    user_id: UserId
    role: str


class RefreshTokenReused(Event):
    aggregate = "user"
    user_id: UserId
    family_id: UUID


class ProductSaved(Event):
    aggregate = "product"
    invalidates = "catalog"
    product_id: ProductId
    handle: str
    created: bool


class StockAdjusted(Event):
    aggregate = "product"
    product_id: ProductId
    sku: str
    location: str
    delta: int
    on_hand: int
    reason: str
    reason_code: str | None = None


class StockPolicySet(Event):
    aggregate = "product"
    product_id: ProductId
    sku: str
    policy: str
    backorder_limit: int
    available_on: date | None


class StockCounted(Event):
    """A cycle count was closed; `corrections` are the units by which the shelf was wrong."""

    aggregate = "count"
    count_id: UUID
    location: str
    counted: int
    corrections: dict[str, int]


class BundleDefined(Event):
    """What a bundle consists of now; no parts when it is one no more."""

    aggregate = "product"
    product_id: ProductId
    sku: str
    parts: dict[str, int]


class TransferShipped(Event):
    aggregate = "transfer"
    transfer_id: UUID
    source: str
    target: str
    units: dict[str, int]


class TransferReceived(Event):
    """Units of a transfer arrived, or are known to be lost; `is_complete` when none are left."""

    aggregate = "transfer"
    transfer_id: UUID
    target: str
    received: dict[str, int]
    lost: dict[str, int]
    is_complete: bool


class TransferCancelled(Event):
    """`returned` are units that had left and are at the source again."""

    aggregate = "transfer"
    transfer_id: UUID
    reason: str
    returned: dict[str, int]


class StockLow(Event):
    """A location came down to its reorder point. Written by the movement that crossed it."""

    aggregate = "stock"
    stock_id: UUID | None = None
    product_id: ProductId
    sku: str
    available: int
    location: str = ""


class BackInStock(Event):
    """A SKU that was sold out has free units again, beyond those it owes."""

    aggregate = "stock"
    stock_id: UUID
    product_id: ProductId
    sku: str
    available: int


class SoldOut(Event):
    """The last free unit of a SKU went; backorders may still be taken."""

    aggregate = "stock"
    stock_id: UUID
    product_id: ProductId
    sku: str
    available: int


class BackorderFilled(Event):
    """Units that an order waited for are set aside for it."""

    aggregate = "order"
    order_id: OrderId
    sku: str
    quantity: int
    open_quantity: int


class StockReserved(Event):
    aggregate = "order"
    order_id: OrderId
    units: dict[str, int]


class StockReleased(Event):
    aggregate = "order"
    order_id: OrderId
    reason: str


class OrderCreated(Event):
    aggregate = "order"
    order_id: OrderId
    total_amount: int
    currency: str


class PaymentAuthorized(Event):
    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId
    amount: int
    currency: str


class PaymentActionRequired(Event):
    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId


class PaymentCaptured(Event):
    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId
    amount: int
    currency: str


class PaymentFailed(Event):
    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId
    code: str


class PaymentAuthorizationExpired(Event):
    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId
    amount: int
    currency: str


class RefundRequested(Event):
    aggregate = "order"
    order_id: OrderId
    refund_id: UUID
    amount: int
    currency: str
    reason: str


class PaymentRefunded(Event):
    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId
    amount: int
    currency: str
    refund_id: UUID | None = None


class RefundSucceeded(Event):
    aggregate = "order"
    order_id: OrderId
    refund_id: UUID
    amount: int
    currency: str


class RefundFailed(Event):
    aggregate = "order"
    order_id: OrderId
    refund_id: UUID
    payment_id: PaymentId
    amount: int
    currency: str
    code: str


class CreditIssued(Event):
    aggregate = "credit_account"
    credit_account_id: UUID
    kind: str
    amount: int
    currency: str


class CreditRedeemed(Event):
    aggregate = "credit_account"
    credit_account_id: UUID
    customer_id: UserId


class CreditActivitySet(Event):
    aggregate = "credit_account"
    credit_account_id: UUID
    is_active: bool


class DiscountCreated(Event):
    aggregate = "discount"
    discount_id: UUID
    code: str


class DiscountActivitySet(Event):
    aggregate = "discount"
    discount_id: UUID
    code: str
    is_active: bool


class CreditExpired(Event):
    aggregate = "credit_account"
    credit_account_id: UUID
    amount: int
    currency: str


class PaymentVoided(Event):
    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId


class OrderPlaced(Event):
    aggregate = "order"
    order_id: OrderId
    number: int
    customer_id: UserId | None
    total_amount: int
    currency: str


class OrderCancelled(Event):
    aggregate = "order"
    order_id: OrderId
    reason: str


class HandoverRequested(Event):
    aggregate = "handover"
    handover_id: UUID
    number: int
    conversation_id: UUID | None


class HandoverResolved(Event):
    aggregate = "handover"
    handover_id: UUID
    number: int


class AftersalesPolicyChanged(Event):
    aggregate = "policy"
    policy_id: UUID
    policy: dict[str, Any]


class OrderEdited(Event):
    aggregate = "order"
    order_id: OrderId
    edit_id: UUID
    number: int
    difference_amount: int
    total_amount: int
    currency: str


class OrderEditFailed(Event):
    aggregate = "order"
    order_id: OrderId
    edit_id: UUID
    code: str


class OrderPaymentChanged(Event):
    aggregate = "order"
    order_id: OrderId
    edit_id: UUID
    amount: int
    currency: str


class OrderAddressChanged(Event):
    aggregate = "order"
    order_id: OrderId
    edit_id: UUID


class OrderStockSwapped(Event):
    aggregate = "order"
    order_id: OrderId
    removed: dict[str, int]
    added: dict[str, int]


class OrderShipped(Event):
    aggregate = "order"
    order_id: OrderId
    fulfillment_id: UUID
    carrier: str
    tracking_number: str


class OrderDelivered(Event):
    aggregate = "order"
    order_id: OrderId
    fulfillment_id: UUID


class ReturnRequested(Event):
    aggregate = "order"
    order_id: OrderId
    return_id: UUID
    units: dict[str, int]
    amount: int
    currency: str


class ReturnReceived(Event):
    aggregate = "order"
    order_id: OrderId
    return_id: UUID
    restocked: dict[str, int]


class ReturnCancelled(Event):
    aggregate = "order"
    order_id: OrderId
    return_id: UUID


class ExchangeRequested(Event):
    aggregate = "order"
    order_id: OrderId
    exchange_id: UUID
    removed: dict[str, int]
    added: dict[str, int]
    difference_amount: int
    currency: str


class ExchangeReceived(Event):
    aggregate = "order"
    order_id: OrderId
    exchange_id: UUID
    restocked: dict[str, int]


class ExchangeCompleted(Event):
    aggregate = "order"
    order_id: OrderId
    exchange_id: UUID
    difference_amount: int
    total_amount: int
    currency: str


class ExchangeCancelled(Event):
    aggregate = "order"
    order_id: OrderId
    exchange_id: UUID


class CustomerAddressChanged(Event):
    aggregate = "user"
    user_id: UserId


class PaymentExpired(Event):
    """The provider let an authorisation go: what was not captured cannot be any more."""

    aggregate = "order"
    order_id: OrderId
    payment_id: PaymentId


class DisputeOpened(Event):
    aggregate = "order"
    order_id: OrderId
    dispute_id: UUID
    amount: int
    currency: str
    reason: str


class DisputeEvidenceSubmitted(Event):
    aggregate = "order"
    order_id: OrderId
    dispute_id: UUID


class DisputeWon(Event):
    aggregate = "order"
    order_id: OrderId
    dispute_id: UUID
    amount: int
    currency: str


class DisputeLost(Event):
    aggregate = "order"
    order_id: OrderId
    dispute_id: UUID
    amount: int
    currency: str


class MethodStored(Event):
    aggregate = "user"
    user_id: UserId
    method_id: UUID
    provider: str


class MethodRemoved(Event):
    aggregate = "user"
    user_id: UserId
    method_id: UUID


class ReconciliationFinished(Event):
    aggregate = "reconciliation"
    reconciliation_id: UUID
    provider: str
    difference_count: int


class AuditFailed(Event):
    """An invariant of the shop does not hold. The aggregate is the shop itself."""

    aggregate = "shop"
    shop_id: UUID = UUID(int=0)
    slot: datetime
    invariants: list[str]


EVENTS: dict[str, type[Event]] = {
    event.__name__: event
    for event in Event.__subclasses__()
    if event.__module__ in (__name__, reversal.__name__)
}
