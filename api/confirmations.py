"""REST: going on with a payment that waited for its shopper."""

from uuid import UUID

from fastapi import APIRouter

from api.deps import DepsDep
from api.problems import problems
from tools import confirmation
from tools.errors import NotFound, OutOfStock, PaymentDeclined
from tools.order import OrderView

router = APIRouter(prefix="/payments", tags=["payments"])


@router.post("/{payment_id}/confirm", responses=problems(NotFound, PaymentDeclined, OutOfStock))
async def confirm_payment(payment_id: UUID, deps: DepsDep) -> OrderView:
    """Go on with a purchase after its shopper authenticated or approved it at the provider."""
    return await confirmation.confirm(deps, payment_id)
