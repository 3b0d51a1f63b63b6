"""REST: capturing by hand."""

from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from api.deps import DepsDep, needs
from api.parameters import OrderNumber
from api.problems import problems
from deps.given import Given
from tools import capture
from tools.errors import (
    Conflict,
    Forbidden,
    IdempotencyKeyRequired,
    NotCapturable,
    NotFound,
    PaymentDeclined,
    Unauthenticated,
)
from tools.payment import PaymentView

router = APIRouter(tags=["payments"])


class CaptureInput(Given):
    amount: int | None = Field(
        default=None, ge=1, lt=2**63, description="Minor units; left out, all that is authorised."
    )
    capture_id: UUID | None = Field(
        default=None, description="An id of your own: the same one is the same capture."
    )


@router.post(
    "/orders/{number}/capture",
    dependencies=[needs("payment:write")],
    responses=problems(
        Unauthenticated,
        Forbidden,
        NotFound,
        NotCapturable,
        PaymentDeclined,
        IdempotencyKeyRequired,
    ),
)
async def capture_order(
    number: OrderNumber, body: CaptureInput, deps: DepsDep
) -> list[PaymentView]:
    """Take authorised money of an order (staff). Needs an `Idempotency-Key`."""
    return await capture.take(deps, number, body.amount, body.capture_id)


@router.post(
    "/orders/{number}/release",
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict, PaymentDeclined),
)
async def release_order(number: OrderNumber, deps: DepsDep) -> list[PaymentView]:
    """Give up what is authorised and not captured of an order (staff)."""
    return await capture.release(deps, number)
