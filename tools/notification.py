"""Messages to people: written with the event that calls for them, sent by the worker."""

from datetime import datetime, timedelta
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.notification import Notification, NotificationStatus
from db.models.order import Order, OrderLine
from db.types import Money, OrderId, UserId
from deps.core import Deps, UnitOfWork
from deps.mail import Mail, MailError
from tools.page import ByTime, Page, by_id, read_page
from tools.registry import Risk, operation

ATTEMPTS_MAX = 8
CLAIM_FOR = timedelta(minutes=2)  # Longer than the SMTP timeout; then another worker may try.
BACKOFF_FIRST = timedelta(seconds=15)


class NotificationView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    template: str
    recipient: str
    subject: str
    status: NotificationStatus
    attempts: int
    created_at: datetime
    sent_at: datetime | None


async def queue_order_confirmation(uow: UnitOfWork, order_id: OrderId) -> None:
    """Queue the mail that confirms an order; once per order, however often it is called."""
    found = await uow.session.get_one(Order, order_id)
    lines = await uow.session.exec(
        select(OrderLine).where(OrderLine.order_id == order_id).order_by(col(OrderLine.id))
    )
    rows = "\n".join(
        f"  {line.quantity} x {line.title}  {Money(line.total_amount, found.currency)}"
        for line in lines
    )
    address = found.shipping_address
    body = (
        f"Thank you for your order {found.number}.\n\n{rows}\n\n"
        f"Shipping: {Money(found.shipping_amount, found.currency)}\n"
        f"Total: {found.total}\n\n"
        f"It goes to {address.get('name')}, {address.get('line1')}, "
        f"{address.get('postal_code')} {address.get('city')}, {address.get('country_code')}.\n\n"
        f"{uow.settings.shop_name}\n"
    )
    await _queue(uow, found, "order_confirmation", f"Your order {found.number}", body)


async def queue_order_cancelled(uow: UnitOfWork, order_id: OrderId) -> None:
    """Queue the mail that says a placed order was cancelled; none for one never placed."""
    found = await uow.session.get_one(Order, order_id)
    if found.placed_at is None:
        return
    body = (
        f"Your order {found.number} was cancelled. {found.total} goes back to the way you paid.\n\n"
        f"{uow.settings.shop_name}\n"
    )
    await _queue(uow, found, "order_cancelled", f"Order {found.number} was cancelled", body)


async def _queue(uow: UnitOfWork, of: Order, template: str, subject: str, body: str) -> None:
    await queue(
        uow,
        key=f"{template}:{of.id}",
        template=template,
        recipient=of.email,
        subject=subject,
        body=body,
        customer_id=of.customer_id,
    )


async def queue(
    uow: UnitOfWork,
    *,
    key: str,
    template: str,
    recipient: str,
    subject: str,
    body: str,
    customer_id: UserId | None = None,
) -> None:
    """Queue a mail; a second one under the same `key` is the same mail."""
    message = Notification(
        dedupe_key=key,
        customer_id=customer_id,
        template=template,
        recipient=recipient,
        subject=subject[:300],
        body=body,
        due_at=uow.now,
        created_at=uow.now,
    )
    await uow.session.execute(
        insert(Notification).values(**message.model_dump()).on_conflict_do_nothing()
    )


async def send_due(deps: Deps, limit: int = 20) -> int:
    """Send what is due; return how many were handed over.

    A claim moves `due_at` ahead, so a crashed sender's messages are tried again by another. The
    Message-ID is the row's id, so a mail sent twice around a crash is recognisable as one.
    """
    async with deps.begin() as uow:
        claimed = await uow.session.execute(
            text("""
                UPDATE notification SET status = 'sending', attempts = attempts + 1,
                                        due_at = :retry_at
                WHERE id IN (SELECT id FROM notification
                             WHERE status IN ('queued', 'sending') AND due_at <= :now
                             ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED)
                RETURNING id, recipient, subject, body, attempts
            """),
            {"now": uow.now, "retry_at": uow.now + CLAIM_FOR, "limit": limit},
        )
        rows = list(claimed)
    sent = 0
    for row in rows:
        mail = Mail(str(row.id), row.recipient, row.subject, row.body)
        try:
            await deps.mailer.send(mail)
        except MailError as error:
            await _finish(deps, row.id, row.attempts, str(error))
        else:
            await _finish(deps, row.id, row.attempts, None)
            sent += 1
    return sent


async def _finish(deps: Deps, message_id: UUID, attempts: int, error: str | None) -> None:
    async with deps.begin() as uow:
        values: dict[str, object] = {"status": NotificationStatus.SENT, "sent_at": uow.now}
        if error is not None:
            gave_up = attempts >= ATTEMPTS_MAX
            values = {
                "status": NotificationStatus.FAILED if gave_up else NotificationStatus.QUEUED,
                "due_at": uow.now + BACKOFF_FIRST * 2 ** (attempts - 1),
                "last_error": error[:500],
            }
        await uow.session.execute(
            update(Notification).where(col(Notification.id) == message_id).values(**values)
        )


@operation(
    scope="notification:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "which mails did you send me",
        "did you send me a confirmation",
        "show my notifications",
        "was a confirmation sent",
    ),
)
async def list_recent(
    uow: UnitOfWork,
    status: NotificationStatus | None = None,
    template: str | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[NotificationView]:
    """List messages sent to the person; staff see everyone's.

    Args:
        status: Only those in this state: queued, sending, sent or failed.
        template: Only those of this kind, such as order_confirmation.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before, with the same sort.
    """
    query = select(Notification)
    if not uow.actor.may("notification:read_all"):
        query = query.where(Notification.customer_id == uow.actor.user_id)
    if status is not None:
        query = query.where(Notification.status == status)
    if template is not None:
        query = query.where(Notification.template == template)
    ordering = by_id(Notification.id, sort)
    return await read_page(uow, query, ordering, NotificationView.model_validate, limit, cursor)
