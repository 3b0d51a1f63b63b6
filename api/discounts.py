"""REST: discount codes. Staff make and end them; a shopper's cart carries one."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, status
from pydantic import Field

from api.deps import DepsDep, HotDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from deps.given import Given
from tools import cart, cart_discount, promotion
from tools.cart import CartView
from tools.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    TooManyRequests,
    Unauthenticated,
)
from tools.page import ByTime, Page
from tools.promotion import AMOUNT_MAX, PERCENT_MAX, USES_MAX, DiscountView

router = APIRouter(tags=["discounts"])
staff = [needs("promotion:write")]
Code = Annotated[str, Path(min_length=3, max_length=40, examples=["WELCOME10"])]
Time = Annotated[datetime | None, Field(examples=["2026-12-01T00:00:00Z"])]


class CodeInput(Given):
    code: str = Field(min_length=3, max_length=40, examples=["WELCOME10"])


class DiscountInput(CodeInput):
    """A `percent` or an `amount`, not both."""

    percent: int | None = Field(default=None, ge=1, le=PERCENT_MAX, examples=[10])
    amount: int | None = Field(default=None, ge=1, le=AMOUNT_MAX, description="Minor units.")
    minimum_amount: int = Field(
        default=0, ge=0, le=AMOUNT_MAX, description="What the goods have to cost at least."
    )
    uses_max: int | None = Field(default=None, ge=1, le=USES_MAX, description="Orders at most.")
    starts_at: Time = None
    ends_at: Time = None


class ActiveInput(Given):
    is_active: bool


@router.put(
    "/carts/{cart_id}/discount",
    responses=problems(NotFound, InvalidInput, Conflict, TooManyRequests),
)
async def apply_discount(cart_id: UUID, body: CodeInput, deps: DepsDep) -> CartView:
    """Let a cart carry a discount code, in place of the one it has."""
    return await cart_discount.put(deps, cart_id, body.code)


@router.delete("/carts/{cart_id}/discount", responses=problems(NotFound, Conflict))
async def remove_discount(cart_id: UUID, work: HotDep) -> CartView:
    """Take the discount code off a cart."""
    return await cart.set_discount(work, cart_id, None)


@router.get("/discounts", dependencies=staff, responses=problems(Unauthenticated, Forbidden))
async def list_discounts(
    uow: UowDep,
    is_active: bool | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[DiscountView]:
    """List the discount codes."""
    return await promotion.list_codes(uow, is_active, sort, limit, cursor)


@router.post(
    "/discounts",
    status_code=status.HTTP_201_CREATED,
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, InvalidInput, AlreadyExists),
)
async def create_discount(body: DiscountInput, uow: UowDep) -> DiscountView:
    """Make a discount code. Its terms never change; the same code with the same terms is found."""
    return await promotion.create_code(uow, **body.model_dump())


@router.get(
    "/discounts/{code}",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, InvalidInput, NotFound),
)
async def read_discount(code: Code, uow: UowDep) -> DiscountView:
    """Show a discount code, and how often it was used."""
    return await promotion.get_code(uow, code)


@router.patch(
    "/discounts/{code}",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, InvalidInput, NotFound),
)
async def set_discount_active(code: Code, body: ActiveInput, uow: UowDep) -> DiscountView:
    """End a discount code, or let it be used again."""
    if body.is_active:
        return await promotion.resume_code(uow, code)
    return await promotion.end_code(uow, code)
