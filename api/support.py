"""REST: how the shop works, receipts, and conversations handed over to a person."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, status
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from deps.given import Given
from tools import handover, help, receipt
from tools.errors import Conflict, Forbidden, IllegalTransition, NotFound, Unauthenticated
from tools.handover import HandoverCase, HandoverView
from tools.help import Answer
from tools.page import ByTime, Page
from tools.receipt import Receipt

router = APIRouter(tags=["support"])
staff = [needs("support:write")]
Number = Annotated[int, Path(ge=1, lt=2**63, examples=[1])]


class Subject(StrEnum):
    DELIVERY = "delivery"
    TAX = "tax"
    PAYMENT_METHODS = "payment_methods"
    PAYMENT_PROBLEM = "payment_problem"
    CANCELLATION = "cancellation"
    CONTACT = "contact"
    REGISTRATION = "registration"
    SIGN_IN = "sign_in"
    ACCOUNT_DATA = "account_data"
    ACCOUNT_DELETION = "account_deletion"


class HandoverRequest(Given):
    reason: str = Field(default="", max_length=handover.REASON_CHARS_MAX, examples=["It is broken"])
    email: str | None = Field(default=None, max_length=254, examples=["ada@example.com"])
    conversation_id: UUID | None = None


class Resolution(Given):
    note: str = Field(
        min_length=1, max_length=handover.REASON_CHARS_MAX, examples=["Sent a new one"]
    )


@router.get("/help/{subject}", responses=problems())
async def read_help(subject: Subject, deps: DepsDep) -> Answer:
    """Tell how the shop works in one respect."""
    if subject is Subject.PAYMENT_METHODS:
        return await help.payment_methods(deps)
    async with deps.begin() as uow:
        answer: Answer = await getattr(help, subject.value)(uow)
        return answer


@router.get("/orders/{number}/receipt", responses=problems(NotFound))
async def read_receipt(number: Number, uow: UowDep) -> Receipt:
    """Show what an order cost and how it was paid."""
    return await receipt.show(uow, number)


@router.post("/handovers", status_code=status.HTTP_201_CREATED, responses=problems(NotFound))
async def request_handover(body: HandoverRequest, uow: UowDep) -> HandoverView:
    """Ask for a person. A conversation waits once: asking again returns the same case."""
    return await handover.request(uow, body.reason, body.email, body.conversation_id)


@router.get("/handovers", dependencies=staff, responses=problems(Unauthenticated, Forbidden))
async def list_handovers(
    uow: UowDep,
    sort: ByTime = ByTime.OLDEST,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[HandoverView]:
    """List the conversations that wait for a person (staff)."""
    return await handover.list_open(uow, sort, limit, cursor)


@router.get(
    "/handovers/{number}",
    dependencies=staff,
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def read_handover(number: Number, uow: UowDep) -> HandoverCase:
    """Show a case with all that was said (staff)."""
    return await handover.get(uow, number)


@router.post("/handovers/{number}/resolve", responses=problems(NotFound, IllegalTransition))
async def resolve_handover(number: Number, body: Resolution, uow: UowDep) -> HandoverView:
    """Close a case that was answered (staff), or one's own that needs no answer any more."""
    return await handover.resolve(uow, number, body.note)


@router.post("/handovers/{number}/reopen", responses=problems(NotFound, Conflict))
async def reopen_handover(number: Number, uow: UowDep) -> HandoverView:
    """Let a closed case wait for a person again: any (staff), or one's own."""
    return await handover.reopen(uow, number)
