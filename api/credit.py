"""REST: gift cards and store credit."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response, status
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from db.models.credit import CreditKind
from deps.given import Given
from tools import credit, credit_code, credit_desk, credit_tender
from tools.credit import CreditBalance, CreditMovementView, CreditView
from tools.credit_code import CodeView
from tools.credit_desk import AMOUNT_MAX, LIFE_DAYS_MAX
from tools.credit_tender import CODES_MAX, CartCreditView
from tools.errors import (
    Conflict,
    Forbidden,
    IdempotencyKeyRequired,
    NotFound,
    Unauthenticated,
)
from tools.page import ByTime, Page

router = APIRouter(tags=["credit"])
Code = Annotated[str, Field(min_length=4, max_length=64, examples=["7H3K-0ZQX-9M2D-4TCV-W81P"])]


class CartCreditInput(Given):
    """All the credit a cart is to be paid with; what is left out is taken off."""

    codes: list[Code] = Field(default=[], max_length=CODES_MAX, description="Of gift cards.")
    uses_account: bool = Field(default=False, description="Spend one's own credit, too.")


class CodeInput(Given):
    code: Code


class GiftCardInput(Given):
    amount: int = Field(ge=1, le=AMOUNT_MAX, description="Minor units.", examples=[5000])
    life_days: int | None = Field(default=None, ge=1, le=LIFE_DAYS_MAX)
    note: str = Field(default="", max_length=500)
    account_id: UUID | None = Field(
        default=None, description="An id of your own: the same one is the same card."
    )


class GrantInput(Given):
    email: str = Field(max_length=254, examples=["ada@example.com"])
    amount: int = Field(ge=1, le=AMOUNT_MAX, description="Minor units.", examples=[1000])
    reason: str = Field(min_length=1, max_length=500, examples=["late delivery"])
    grant_id: UUID | None = Field(
        default=None, description="An id of your own: the same one is the same grant."
    )


class ActiveInput(Given):
    is_active: bool


@router.get("/carts/{cart_id}/credit", responses=problems(NotFound))
async def read_cart_credit(cart_id: UUID, uow: UowDep) -> CartCreditView:
    """Show what credit pays of a cart, and what is left for a card."""
    return await credit_tender.view(uow, cart_id)


@router.put("/carts/{cart_id}/credit", responses=problems(NotFound, Conflict))
async def set_cart_credit(cart_id: UUID, body: CartCreditInput, deps: DepsDep) -> CartCreditView:
    """Choose the gift cards and credit that pay a cart. Nothing is spent before it is bought."""
    return await credit_tender.choose(
        deps, cart_id, codes=body.codes, uses_account=body.uses_account
    )


@router.get(
    "/credit", dependencies=[needs("credit:use")], responses=problems(Unauthenticated, Forbidden)
)
async def read_balance(uow: UowDep) -> CreditBalance:
    """Show one's gift cards and store credit."""
    return await credit.balance(uow)


@router.get(
    "/credit/movements",
    dependencies=[needs("credit:use")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def list_movements(
    uow: UowDep,
    account_id: UUID | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[CreditMovementView]:
    """List what changed one's credit; staff may name any account."""
    return await credit.history(uow, account_id, sort, limit, cursor)


@router.post(
    "/credit/redeem",
    dependencies=[needs("credit:use")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def redeem_code(body: CodeInput, deps: DepsDep) -> CreditView:
    """Put a gift card into one's account: it is one's own from then on."""
    return await credit.redeem(deps, body.code)


@router.post(
    "/credit/{account_id}/hand-back",
    dependencies=[needs("credit:use")],
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def hand_back(account_id: UUID, uow: UowDep) -> CreditView:
    """Take a gift card that was not used out of one's account, for whoever knows its code."""
    return await credit.hand_back(uow, account_id)


@router.post(
    "/credit/grants",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, IdempotencyKeyRequired),
)
async def grant_credit(body: GrantInput, uow: UowDep) -> CreditView:
    """Give a customer store credit (staff). Needs an `Idempotency-Key`."""
    return await credit_desk.grant(uow, body.email, body.amount, body.reason, body.grant_id)


@router.get(
    "/credit/accounts",
    dependencies=[needs("payment:read")],
    responses=problems(Unauthenticated, Forbidden),
)
async def list_accounts(
    uow: UowDep,
    kind: CreditKind | None = None,
    last4: Annotated[str | None, Query(max_length=4)] = None,
    is_active: bool | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[CreditView]:
    """List gift cards and store credit (staff)."""
    return await credit_desk.list_all(uow, kind, last4, is_active, sort, limit, cursor)


@router.post(
    "/gift-cards",
    status_code=status.HTTP_201_CREATED,
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, IdempotencyKeyRequired),
)
async def issue_gift_card(body: GiftCardInput, uow: UowDep) -> CreditView:
    """Issue a gift card (staff). Needs an `Idempotency-Key`. Its code is asked for apart."""
    return await credit_desk.issue_gift_card(
        uow, body.amount, body.life_days, body.note, body.account_id
    )


@router.post(
    "/gift-cards/{account_id}/code",
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def reveal_code(account_id: UUID, uow: UowDep, response: Response) -> CodeView:
    """Make a gift card's code and show it, once. No answer with it is kept, so no retry gets it:
    if it was lost, deactivate the card and issue another."""
    response.headers["Cache-Control"] = "no-store"
    return await credit_code.reveal(uow, account_id)


@router.put(
    "/credit/accounts/{account_id}/active",
    dependencies=[needs("payment:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def set_active(account_id: UUID, body: ActiveInput, uow: UowDep) -> CreditView:
    """Switch a gift card or store credit on or off (staff)."""
    if body.is_active:
        return await credit_desk.activate(uow, account_id)
    return await credit_desk.deactivate(uow, account_id)
