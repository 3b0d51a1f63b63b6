"""REST: returns and exchanges."""

from uuid import UUID

from fastapi import APIRouter, status
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import OrderNumber
from api.problems import problems
from deps.given import Given
from tools import exchange, exchange_reopening, exchange_view, return_
from tools.errors import (
    AftersalesLimit,
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    IllegalTransition,
    InsufficientCredit,
    NotFound,
    OutOfStock,
    PaymentDeclined,
    Unauthenticated,
)
from tools.exchange_view import ExchangePreview, ExchangeView
from tools.line_change import CHANGES_MAX, LineChange, LineRequest
from tools.return_ import ReceivePreview, ReturnPreview, ReturnView

router = APIRouter(tags=["returns"])
SIGNED_IN = (Unauthenticated, Forbidden, NotFound)
NOT_NOW = (IllegalTransition, AftersalesLimit)


class ReturnInput(Given):
    lines: list[LineRequest] = Field(
        min_length=1, max_length=CHANGES_MAX, examples=[[{"sku": "MUG-BLUE", "quantity": 1}]]
    )
    payment_method: UUID | None = Field(
        default=None, description="Stored method that gets the money; left out: as it was paid."
    )
    reason: str = Field(default="", max_length=500, examples=["too small"])
    return_id: UUID | None = Field(
        default=None, description="Your key of this return: the same id is the same return."
    )


class ExchangeInput(Given):
    changes: list[LineChange] = Field(
        min_length=1,
        max_length=CHANGES_MAX,
        examples=[[{"sku": "MUG-BLUE", "new_sku": "MUG-RED", "quantity": 1}]],
    )
    payment_method: UUID | None = Field(
        default=None, description="Stored method that pays, or gets, the difference."
    )
    reason: str = Field(default="", max_length=500, examples=["too small"])
    exchange_id: UUID | None = Field(
        default=None, description="Your key of this exchange: the same id is the same exchange."
    )


class Receipt(Given):
    restock: list[LineRequest] | None = Field(
        default=None,
        max_length=CHANGES_MAX,
        description="Units that can be sold again; left out: all of them.",
    )


class ExchangeReceipt(Receipt):
    payment_method: UUID | None = Field(
        default=None, description="Charged in place of the chosen one, after a decline."
    )
    carrier: str = Field(default="", max_length=64, examples=["DHL"])
    tracking_number: str = Field(default="", max_length=100, examples=["00340434161094042557"])


@router.get("/orders/{number}/returns", responses=problems(NotFound))
async def list_returns(number: OrderNumber, uow: UowDep) -> list[ReturnView]:
    """List the returns of an order, oldest first."""
    return await return_.list_for_order(uow, number)


@router.post(
    "/orders/{number}/returns/preview",
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, *NOT_NOW),
)
async def preview_return(number: OrderNumber, body: ReturnInput, uow: UowDep) -> ReturnPreview:
    """Say what a return would give back. Changes nothing."""
    return await return_.preview_request(
        uow, number, body.lines, body.payment_method, body.reason, body.return_id
    )


@router.post(
    "/orders/{number}/returns",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, *NOT_NOW, IdempotencyMismatch),
)
async def request_return(number: OrderNumber, body: ReturnInput, uow: UowDep) -> ReturnView:
    """Ask to send back units of a delivered order; the money follows when they have arrived."""
    return await return_.request(
        uow, number, body.lines, body.payment_method, body.reason, body.return_id
    )


@router.post(
    "/returns/{return_id}/cancel",
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, IllegalTransition),
)
async def cancel_return(return_id: UUID, uow: UowDep) -> ReturnView:
    """Withdraw a return whose parcel has not arrived."""
    return await return_.cancel(uow, return_id)


@router.post(
    "/returns/{return_id}/reopen",
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, *NOT_NOW),
)
async def reopen_return(return_id: UUID, uow: UowDep) -> ReturnView:
    """Go on with a return that was withdrawn, as long as it could still be asked for."""
    return await return_.reopen(uow, return_id)


@router.post(
    "/returns/{return_id}/receive/preview",
    dependencies=[needs("order:manage")],
    responses=problems(*SIGNED_IN, IllegalTransition),
)
async def preview_receipt(return_id: UUID, body: Receipt, uow: UowDep) -> ReceivePreview:
    """Say what taking a return in would restock and refund (staff). Changes nothing."""
    return await return_.preview_receive(uow, return_id, body.restock)


@router.post(
    "/returns/{return_id}/receive",
    dependencies=[needs("order:manage")],
    responses=problems(*SIGNED_IN, IllegalTransition),
)
async def receive_return(return_id: UUID, body: Receipt, deps: DepsDep) -> ReturnView:
    """Take in the parcel of a return: restock what is sound, refund it (staff)."""
    return await return_.receive(deps, return_id, body.restock)


@router.get("/orders/{number}/exchanges", responses=problems(NotFound))
async def list_exchanges(number: OrderNumber, uow: UowDep) -> list[ExchangeView]:
    """List the exchanges of an order, oldest first."""
    return await exchange_view.list_for_order(uow, number)


@router.post(
    "/orders/{number}/exchanges/preview",
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, *NOT_NOW, OutOfStock, InsufficientCredit),
)
async def preview_exchange(
    number: OrderNumber, body: ExchangeInput, uow: UowDep
) -> ExchangePreview:
    """Say what an exchange would cost or give back. Changes nothing."""
    return await exchange.preview_request(
        uow, number, body.changes, body.payment_method, body.reason, body.exchange_id
    )


@router.post(
    "/orders/{number}/exchanges",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, *NOT_NOW, OutOfStock, InsufficientCredit, IdempotencyMismatch),
)
async def request_exchange(number: OrderNumber, body: ExchangeInput, uow: UowDep) -> ExchangeView:
    """Ask to exchange units of a delivered order; the replacements are kept for the customer."""
    return await exchange.request(
        uow, number, body.changes, body.payment_method, body.reason, body.exchange_id
    )


@router.post(
    "/exchanges/{exchange_id}/cancel",
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, IllegalTransition),
)
async def cancel_exchange(exchange_id: UUID, uow: UowDep) -> ExchangeView:
    """Withdraw an exchange whose parcel has not arrived; the replacements go back on sale."""
    return await exchange.cancel(uow, exchange_id)


@router.post(
    "/exchanges/{exchange_id}/reopen",
    dependencies=[needs("order:return")],
    responses=problems(*SIGNED_IN, *NOT_NOW, OutOfStock),
)
async def reopen_exchange(exchange_id: UUID, uow: UowDep) -> ExchangeView:
    """Go on with an exchange that was withdrawn; the replacements are kept again."""
    return await exchange_reopening.reopen(uow, exchange_id)


@router.post(
    "/exchanges/{exchange_id}/receive",
    dependencies=[needs("order:manage")],
    responses=problems(
        *SIGNED_IN, IllegalTransition, Conflict, InsufficientCredit, PaymentDeclined
    ),
)
async def receive_exchange(exchange_id: UUID, body: ExchangeReceipt, deps: DepsDep) -> ExchangeView:
    """Take in the old units, settle the difference and send the replacements (staff)."""
    return await exchange.receive(
        deps,
        exchange_id,
        body.restock,
        body.payment_method,
        body.tracking_number,
        body.carrier,
    )
