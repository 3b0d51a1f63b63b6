"""Hand a conversation over to a person, with all that was said but for secrets and strangers'
addresses: a case is read by many, mailed, and outlives the conversation."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select, update

from db.models.handover import Handover, HandoverStatus
from db.models.user import User
from db.types import ConversationId, new_id
from deps import untrusted
from deps.core import UnitOfWork
from tools import conversation as conversations
from tools import notification
from tools import transcript as transcripts
from tools.errors import Conflict, IllegalTransition, InvalidInput, NotFound
from tools.events import HandoverRequested, HandoverResolved
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import FromResult, Risk, operation
from tools.reversal import HandoverReopened
from tools.user import normalize_email

REASON_CHARS_MAX = 2000


class HandoverView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    number: int
    status: HandoverStatus
    reason: str
    email: str | None
    conversation_id: UUID | None
    created_at: datetime
    resolved_at: datetime | None
    note: str


class HandoverCase(HandoverView):
    transcript: list[dict[str, Any]]


async def asking(
    uow: UnitOfWork, conversation_id: UUID | None = None, **_: Any
) -> dict[str, Any] | None:
    """Return what closes the case that is asked for, unless the conversation has one already."""
    if conversation_id is not None and await _waiting(uow, conversation_id) is not None:
        return None
    return {"case": FromResult("number"), "note": "It was withdrawn."}


async def unresolved(uow: UnitOfWork, case: int, note: str) -> dict[str, Any] | None:
    """Return what reopens a case once it is closed, if it is not yet."""
    found = await _access(uow, case)
    return {"case": case} if found.status is not HandoverStatus.RESOLVED else None


async def resolved(uow: UnitOfWork, case: int) -> dict[str, Any] | None:
    """Return what closes a case again as it was closed, if it is."""
    found = await _access(uow, case)
    is_closed = found.status is HandoverStatus.RESOLVED
    return {"case": case, "note": found.note} if is_closed else None


@operation(
    scope="support:ask",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="handover.resolve",
    restore=asking,
    examples=(
        "talk to a person",
        "i want to speak to a human agent",
        "connect me to someone",
        "i want to make a complaint",
        "leave feedback about your shop",
    ),
)
async def request(
    uow: UnitOfWork,
    reason: str = "",
    email: str | None = None,
    conversation_id: UUID | None = None,
) -> HandoverView:
    """Hand the conversation over to a person of the shop, who reads it whole and answers by email.

    A conversation waits once: asking again returns the same case.

    Args:
        reason: What it is about, in the person's words, at most 2,000 characters.
        email: Where the answer goes; a signed-in person's own address by default.
        conversation_id: The conversation; the chat fills in its own.

    Raises:
        NotFound: No such conversation, or someone else's.
        InvalidInput: Nobody could be answered: a guest has to give an email. Or it is none.
    """
    address = email or await _own_email(uow)
    if not address:
        raise InvalidInput("Which email should the answer go to?", field="email")
    transcript: Sequence[Any] = ()
    if conversation_id is not None:
        row = await conversations.access(uow, ConversationId(conversation_id))
        known = await _waiting(uow, row.id)
        if known is not None:
            return HandoverView.model_validate(known)
        transcript = await transcripts.entries(uow, row.id)
    own = {normalize_email(address), await _own_email(uow)} - {None}
    kept: dict[str, Any] = untrusted.redact_record(
        {"reason": reason[:REASON_CHARS_MAX], "transcript": list(transcript)},
        keep={email.lower() for email in own if email},
    )
    case = await _open(uow, address, kept["reason"], conversation_id, kept["transcript"])
    return HandoverView.model_validate(case)


async def _own_email(uow: UnitOfWork) -> str | None:
    user = await uow.session.get(User, uow.actor.user_id) if uow.actor.user_id else None
    return user.email if user else None


async def _waiting(uow: UnitOfWork, conversation_id: UUID) -> Handover | None:
    query = select(Handover).where(
        Handover.conversation_id == conversation_id, Handover.status != HandoverStatus.RESOLVED
    )
    return (await uow.session.exec(query)).first()


async def _open(
    uow: UnitOfWork,
    email: str,
    reason: str,
    conversation_id: UUID | None,
    transcript: Sequence[Any],
) -> Handover:
    values = Handover(
        id=new_id(),
        conversation_id=ConversationId(conversation_id) if conversation_id else None,
        user_id=uow.actor.user_id,
        secret_sha256=None if uow.actor.user_id else uow.actor.guest_secret_sha256,
        email=normalize_email(email),
        reason=reason,
        transcript=list(transcript),
        created_at=uow.now,
    ).model_dump(exclude={"number"})
    # Two requests at once: the index lets one in, and the other finds it.
    await uow.session.execute(insert(Handover).values(**values).on_conflict_do_nothing())
    case = await uow.session.get(Handover, values["id"])
    if case is None:
        assert conversation_id is not None
        case = await _waiting(uow, conversation_id)
        assert case is not None, "only an unresolved case of the conversation can be in the way"
        return case
    assert case.number is not None
    uow.publish(
        HandoverRequested(handover_id=case.id, number=case.number, conversation_id=conversation_id)
    )
    return case


@operation(
    scope="support:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "who is waiting for a person",
        "show the open support cases",
        "list the handovers",
        "which customers want a person",
    ),
)
async def list_open(
    uow: UnitOfWork,
    sort: ByTime = ByTime.OLDEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[HandoverView]:
    """List the conversations that wait for a person.

    Args:
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(Handover).where(Handover.status != HandoverStatus.RESOLVED)
    ordering = by_id(Handover.number, sort)
    return await read_page(uow, query, ordering, HandoverView.model_validate, limit, cursor)


@operation(
    scope="support:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show support case {case}",
        "open case {case}",
        "what was said in support case {case}",
        "read handover {case}",
    ),
)
async def get(uow: UnitOfWork, case: int) -> HandoverCase:
    """Show a case with all that was said.

    Args:
        case: The case's number.

    Raises:
        NotFound: No such case.
    """
    return HandoverCase.model_validate(await _by_number(uow, case))


async def _by_number(uow: UnitOfWork, number: int) -> Handover:
    query = select(Handover).where(Handover.number == number)
    case = (await uow.session.exec(query)).first() if abs(number) < 2**63 else None
    if case is None:
        raise NotFound("No such case.")
    return case


async def _access(uow: UnitOfWork, number: int) -> Handover:
    """Load a case on the actor's behalf: one's own, or any for staff.

    Raises:
        NotFound: No such case, or someone else's. The two must be indistinguishable.
    """
    case = await _by_number(uow, number)
    await uow.session.refresh(case)
    who = uow.actor
    is_own = case.user_id is not None and case.user_id == who.user_id
    is_guests = case.user_id is None and case.secret_sha256 is not None
    is_own = is_own or (is_guests and case.secret_sha256 == who.guest_secret_sha256)
    if not is_own and not who.may("support:write"):
        raise NotFound("No such case.")
    return case


@operation(
    scope="support:ask",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="handover.reopen",
    restore=unresolved,
    examples=(
        "support case {case} is resolved because {note}",
        "resolve case {case}: {note}",
        "close support case {case}",
        "handover {case} is done",
    ),
)
async def resolve(uow: UnitOfWork, case: int, note: str) -> HandoverView:
    """Close a case: staff one that was answered, whoever asked one that needs no answer any more.

    Args:
        case: The case's number.
        note: How it was resolved.

    Raises:
        NotFound: No such case, or someone else's.
        IllegalTransition: It is resolved already, with another note.
    """
    found = await _access(uow, case)
    is_staff = uow.actor.may("support:write")
    closing = (
        update(Handover)
        .where(col(Handover.id) == found.id, col(Handover.status) != HandoverStatus.RESOLVED)
        .values(
            status=HandoverStatus.RESOLVED,
            note=note[:REASON_CHARS_MAX],
            claimed_by=uow.actor.user_id if is_staff else None,
            resolved_at=uow.now,
        )
        .returning(col(Handover.id))
    )
    closed = (await uow.session.execute(closing)).first()
    await uow.session.refresh(found)
    if closed is not None:
        uow.publish(HandoverResolved(handover_id=found.id, number=case))
    elif found.note != note[:REASON_CHARS_MAX]:
        raise IllegalTransition("case", HandoverStatus.RESOLVED, HandoverStatus.RESOLVED)
    return HandoverView.model_validate(found)


@operation(
    scope="support:ask",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="handover.resolve",
    restore=resolved,
    examples=(
        "reopen support case {case}",
        "open the closed case {case} again",
        "handover {case} is not done yet, reopen it",
        "support case {case} was closed by mistake",
    ),
)
async def reopen(uow: UnitOfWork, case: int) -> HandoverView:
    """Let a closed case wait for a person again; the shop's people are told.

    Repeating it changes nothing.

    Args:
        case: The case's number.

    Raises:
        NotFound: No such case, or someone else's.
        Conflict: The conversation waits in another case by now.
    """
    found = await _access(uow, case)
    values = {"status": HandoverStatus.OPEN, "note": "", "claimed_by": None, "resolved_at": None}
    opening = (
        update(Handover)
        .where(col(Handover.id) == found.id, col(Handover.status) == HandoverStatus.RESOLVED)
        .values(**values)
        .returning(col(Handover.id))
    )
    try:
        async with uow.session.begin_nested():
            opened = (await uow.session.execute(opening)).first()
    except IntegrityError as error:  # The index that lets a conversation wait once.
        raise Conflict("This conversation waits for a person already, in another case.") from error
    await uow.session.refresh(found)
    if opened is not None:
        uow.publish(HandoverReopened(handover_id=found.id, number=case))
    return HandoverView.model_validate(found)


async def tell_staff(uow: UnitOfWork, handover_id: UUID) -> None:
    """Queue the mail that tells the shop's people that somebody waits."""
    case = await uow.session.get_one(Handover, handover_id)
    said = "\n".join(f"{entry.get('role')}: {entry.get('text')}" for entry in case.transcript)
    await notification.queue(
        uow,
        key=f"handover:{case.id}",
        template="handover",
        recipient=uow.settings.support_email,
        subject=f"Case {case.number}: somebody asks for a person",
        body=f"Answer to: {case.email}\n\n{case.reason}\n\nWhat was said:\n{said}\n",
    )


async def tell_reopened(uow: UnitOfWork, handover_id: UUID, event_id: UUID) -> None:
    """Queue the mail that tells the shop's people that a case they closed waits again."""
    case = await uow.session.get_one(Handover, handover_id)
    await notification.queue(
        uow,
        key=f"handover:{case.id}:{event_id}",
        template="handover",
        recipient=uow.settings.support_email,
        subject=f"Case {case.number} was reopened",
        body=f"Answer to: {case.email}\n\n{case.reason}\n",
    )
