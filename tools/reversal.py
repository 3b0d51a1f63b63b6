"""What had been done and was taken back, each the opposite of a fact of `tools.events`."""

from uuid import UUID

from db.types import OrderId, UserId
from deps.core import Event


class StockCountReopened(Event):
    """`corrections` are what closing it had booked, and is now booked back; none if it was
    cancelled."""

    aggregate = "count"
    count_id: UUID
    location: str
    corrections: dict[str, int]


class TransferArrivalTakenBack(Event):
    """Units that were booked in, or written off, are in transit again."""

    aggregate = "transfer"
    transfer_id: UUID
    target: str
    received: dict[str, int]
    lost: dict[str, int]


class TransferReopened(Event):
    """`sent` are units that had gone back to the source and left it again."""

    aggregate = "transfer"
    transfer_id: UUID
    sent: dict[str, int]


class OrderUnshipped(Event):
    """The parcel had not left: its units are allocated to the order again."""

    aggregate = "order"
    order_id: OrderId
    fulfillment_id: UUID


class OrderUndelivered(Event):
    """The parcel had not arrived: it is on its way."""

    aggregate = "order"
    order_id: OrderId
    fulfillment_id: UUID


class ReturnReopened(Event):
    aggregate = "order"
    order_id: OrderId
    return_id: UUID


class ExchangeReopened(Event):
    """The replacements are kept for the customer again."""

    aggregate = "order"
    order_id: OrderId
    exchange_id: UUID


class HandoverReopened(Event):
    aggregate = "handover"
    handover_id: UUID
    number: int


class CreditHandedBack(Event):
    """A gift card is nobody's again: whoever knows its code may spend it."""

    aggregate = "credit_account"
    credit_account_id: UUID
    customer_id: UserId
