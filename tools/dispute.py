"""Disputes: money taken back on a buyer's word, evidence against it, and how it ended.

Nothing here decides: `settle` asks the provider and writes down what it says. What a dispute holds
back moves in the ledger from clearing to disputes and, if it is won, back; a lost one stays there.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from db.models.dispute import Dispute, DisputeState
from db.models.order import Order
from db.models.payment import Account
from db.types import OrderId, PaymentId, UserId, new_id
from deps.core import SYSTEM, Deps, UnitOfWork
from deps.gateway import GatewayTimeout
from deps.provider import EVIDENCE_FIELDS, DisputeTruth
from tools import order, payment, truth
from tools.errors import Conflict, InvalidInput, NotFound, Unavailable
from tools.events import DisputeEvidenceSubmitted, DisputeLost, DisputeOpened, DisputeWon
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import Risk, operation

EVIDENCE_LENGTH_MAX: Final = 20_000
CLOSED: Final = (DisputeState.WON, DisputeState.LOST)


class DisputeView(BaseModel):
    """A dispute. Amounts are minor units of `currency`."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    order_number: int
    payment_id: UUID
    provider: str
    provider_dispute_id: str
    state: DisputeState
    reason: str
    amount: int
    withdrawn_amount: int = Field(description="What the provider holds back now.")
    currency: str
    evidence: dict[str, str]
    evidence_due_at: datetime | None
    evidence_submitted_at: datetime | None
    opened_at: datetime
    closed_at: datetime | None
    allowed_actions: list[str] = Field(description="What may be asked of it next.")


class EvidencePreview(BaseModel):
    """What sending evidence would do. It can be sent once."""

    dispute: DisputeView
    evidence: dict[str, str]


async def settle(deps: Deps, provider: str, provider_dispute_id: str) -> bool:
    """Bring our row of a dispute to what the provider says of it. Safe to repeat.

    Returns:
        Whether it is about a payment of ours.

    Raises:
        Unavailable: The provider does not answer, or its payment is not settled yet.
        Conflict: What the provider says cannot be true; a person has to look.
    """
    try:
        found = await truth.provider_named(deps, provider).dispute(provider_dispute_id)
    except GatewayTimeout as error:
        raise Unavailable(f"{provider} did not answer.") from error
    if found is None:
        raise Conflict(f"{provider} does not know the dispute {provider_dispute_id}.")
    if found.reference is None:
        return False
    # What was captured by hand has to be in the books before it can be taken back.
    if not await truth.settle(deps, provider, found.reference, None):
        return False
    async with deps.acting_as(SYSTEM).begin() as uow:
        await _record(uow, provider, found)
    return True


async def _record(uow: UnitOfWork, provider: str, found: DisputeTruth) -> None:
    paid = await truth.payment_at(uow, provider, found.reference, None)
    assert paid is not None, "settled before"
    # The order's lock makes two workers take turns, and is taken first everywhere.
    await order.locked(uow, OrderId(paid.order_id))
    if found.currency != paid.currency:
        raise Conflict(f"The dispute is in {found.currency}, the payment in {paid.currency}.")
    fresh = Dispute(
        id=new_id(),
        payment_id=PaymentId(paid.id),
        order_id=OrderId(paid.order_id),
        provider=provider,
        provider_dispute_id=found.id,
        state=found.state,
        reason=found.reason[:100],
        amount=found.amount,
        currency=found.currency,
        opened_at=found.opened_at,
        updated_at=uow.now,
    )
    written = await uow.session.execute(
        insert(Dispute)
        .values(**fresh.model_dump())
        .on_conflict_do_nothing(constraint="one_row_per_dispute")
        .returning(col(Dispute.id))
    )
    is_new = written.first() is not None
    query = select(Dispute).where(
        Dispute.provider == provider, Dispute.provider_dispute_id == found.id
    )
    row = (await uow.session.exec(query.with_for_update())).one()
    if is_new:
        uow.publish(
            DisputeOpened(
                order_id=row.order_id,
                dispute_id=row.id,
                amount=row.amount,
                currency=row.currency,
                reason=row.reason,
            )
        )
    was_closed = not is_new and row.state in CLOSED
    row.state, row.updated_at = found.state, uow.now
    row.evidence_due_at = found.evidence_due_at
    await _move(uow, row, found.withdrawn_amount)
    if found.state not in CLOSED:
        row.closed_at = None
    elif not was_closed:
        row.closed_at = uow.now
        ended = DisputeWon if found.state is DisputeState.WON else DisputeLost
        uow.publish(
            ended(
                order_id=row.order_id,
                dispute_id=row.id,
                amount=row.amount,
                currency=row.currency,
            )
        )


async def _move(uow: UnitOfWork, row: Dispute, withdrawn_amount: int) -> None:
    """Book what the provider took back since we looked last, or returned."""
    taken = withdrawn_amount - row.withdrawn_amount
    if taken == 0:
        return
    if not 0 <= withdrawn_amount <= row.amount:
        raise Conflict(f"A dispute over {row.amount} holds back {withdrawn_amount}.")
    row.moves += 1
    row.withdrawn_amount = withdrawn_amount
    paid = await payment.locked(uow, row.payment_id)
    paid.disputed_amount += taken
    await payment.post(
        uow,
        uuid5(row.id, str(row.moves)),
        row.order_id,
        row.currency,
        {Account.DISPUTES: taken, Account.CLEARING: -taken},
    )


async def _view(uow: UnitOfWork, row: Dispute) -> DisputeView:
    of = await uow.session.get_one(Order, row.order_id)
    return DisputeView.model_validate(
        row.model_dump() | {"order_number": of.number, "allowed_actions": allowed_actions(row)}
    )


def allowed_actions(row: Dispute) -> list[str]:
    is_open = row.state is DisputeState.NEEDS_RESPONSE and row.evidence_submitted_at is None
    return ["submit_evidence"] if is_open else []


async def access(uow: UnitOfWork, dispute_id: UUID, *, lock: bool = False) -> Dispute:
    """Load a dispute. They are the shop's; the scope says who may see them.

    Raises:
        NotFound: No such dispute, or the actor may not see any.
    """
    row = await uow.session.get(Dispute, dispute_id, with_for_update=lock, populate_existing=lock)
    if row is None or not uow.actor.may("payment:read"):
        raise NotFound("No such dispute.")
    return row


@operation(
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the open disputes",
        "list disputes of order {number}",
        "which chargebacks need a response",
        "show {state} disputes",
    ),
)
async def list_disputes(
    uow: UnitOfWork,
    state: DisputeState | None = None,
    number: int | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[DisputeView]:
    """List disputes.

    Args:
        state: Only in this state: needs_response, under_review, won or lost.
        number: Only of this order.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(Dispute)
    if state is not None:
        query = query.where(Dispute.state == state)
    if number is not None:
        of = await order.access(uow, number)
        query = query.where(Dispute.order_id == of.id)
    page = await read_page(uow, query, by_id(Dispute.id, sort), lambda row: row, limit, cursor)
    items = [await _view(uow, row) for row in page.items]
    return Page(items=items, next_cursor=page.next_cursor)


@operation(
    scope="payment:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show dispute {dispute_id}",
        "what is the state of dispute {dispute_id}",
        "until when must we answer dispute {dispute_id}",
        "why was {dispute_id} disputed",
    ),
)
async def get(uow: UnitOfWork, dispute_id: UUID) -> DisputeView:
    """Show one dispute with its evidence and its deadline.

    Args:
        dispute_id: Our id of the dispute.

    Raises:
        NotFound: No such dispute.
    """
    return await _view(uow, await access(uow, dispute_id))


def _checked(evidence: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(evidence) - EVIDENCE_FIELDS)
    if unknown:
        names = ", ".join(sorted(EVIDENCE_FIELDS))
        raise InvalidInput(f"Evidence may have: {names}.", field=f"evidence.{unknown[0]}")
    kept = {name: text.strip() for name, text in evidence.items() if text.strip()}
    if not kept:
        raise InvalidInput("There is no evidence to send.", field="evidence")
    if sum(len(text) for text in kept.values()) > EVIDENCE_LENGTH_MAX:
        raise InvalidInput(
            f"Evidence has {EVIDENCE_LENGTH_MAX} characters at most.", field="evidence"
        )
    return kept


async def preview_submit_evidence(
    uow: UnitOfWork, dispute_id: UUID, evidence: dict[str, str]
) -> EvidencePreview:
    """Say what `submit_evidence` would send, without sending it.

    Raises:
        NotFound: No such dispute.
        InvalidInput: Nothing to send, or a field that is not known.
        Conflict: It does not wait for evidence.
    """
    row = await access(uow, dispute_id)
    _check_waits(row)
    return EvidencePreview(dispute=await _view(uow, row), evidence=_checked(evidence))


def _check_waits(row: Dispute) -> None:
    if not allowed_actions(row):
        raise Conflict(
            f"This dispute is {row.state.value} and takes no evidence.", current=row.state.value
        )


@operation(
    scope="payment:write",
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_submit_evidence,
    examples=(
        "submit evidence for dispute {dispute_id}: {evidence}",
        "answer the dispute {dispute_id} with {evidence}",
        "send our evidence in dispute {dispute_id}",
        "contest the chargeback {dispute_id} with {evidence}",
    ),
)
async def submit_evidence(deps: Deps, dispute_id: UUID, evidence: dict[str, str]) -> DisputeView:
    """Send evidence to the provider. It can be sent once, so send all of it.

    Repeating it with the same evidence sends nothing more.

    Args:
        dispute_id: Our id of the dispute.
        evidence: Texts by field: text, carrier, tracking_number, shipped_on, product_description,
            customer_name, customer_email, refund_policy.

    Raises:
        NotFound: No such dispute, or its provider is not set up.
        InvalidInput: Nothing to send, or a field that is not known.
        Conflict: It does not wait for evidence.
        Unavailable: The provider did not answer; send the same again.
    """
    kept = _checked(evidence)
    async with deps.begin() as uow:
        row = await access(uow, dispute_id, lock=True)
        is_sent = row.evidence_submitted_at is not None
        # The bank may say that it has what we sent, though its answer to us was lost.
        is_there = is_sent or row.state is DisputeState.UNDER_REVIEW
        if row.evidence != kept or not is_there:
            _check_waits(row)
            # Before the call: a repetition after a timeout must send the same.
            if row.evidence and row.evidence != kept:
                raise Conflict("Other evidence is on its way; send the same again.")
            row.evidence, row.updated_at = kept, uow.now
    if not is_sent:
        source = truth.provider_named(deps, row.provider)
        try:
            await source.submit_evidence(f"{row.id}:evidence", row.provider_dispute_id, kept)
        except GatewayTimeout as error:
            raise Unavailable(f"{row.provider} did not answer; send the same again.") from error
        async with deps.begin() as uow:
            row = await access(uow, dispute_id, lock=True)
            if row.evidence_submitted_at is None:
                row.evidence_submitted_at = row.updated_at = uow.now
                row.submitted_by = UserId(uow.actor.user_id) if uow.actor.user_id else None
                uow.publish(DisputeEvidenceSubmitted(order_id=row.order_id, dispute_id=row.id))
        await settle(deps, row.provider, row.provider_dispute_id)
    async with deps.begin() as uow:
        return await _view(uow, await access(uow, dispute_id))
