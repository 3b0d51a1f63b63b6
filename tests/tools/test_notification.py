"""Mail: one per order, retried with back-off, never lost."""

import asyncio
import contextlib
from dataclasses import replace

from sqlmodel import select

from db.models.outbox import OutboxMessage
from deps.bus import Envelope
from deps.core import Deps
from tests import aftersales as shop
from tests import factories
from tests.factories import RecordingMailer
from tools import checkout, exchange, notification, return_
from tools.envelope import load
from tools.events import EVENTS
from tools.handlers import HandlerContext, handlers_of
from tools.line_change import LineChange, LineRequest


async def test_an_order_is_confirmed_once(customer: Deps, mailer: RecordingMailer) -> None:
    await factories.product(customer, "MUG", price=1250, stock=5)
    placed = await factories.placed_order(customer, MUG=2)
    for _ in range(2):
        async with customer.begin() as uow:
            await notification.queue_order_confirmation(uow, placed.id)  # type: ignore[arg-type]
    await asyncio.gather(*(notification.send_due(customer) for _ in range(4)))
    (mail,) = mailer.sent
    assert mail.subject == f"Your order {placed.number}"
    assert "2 x Stoneware mug  EUR 25.00" in mail.body
    assert "Total: EUR 29.90" in mail.body
    async with customer.begin() as uow:
        (sent,) = (await notification.list_recent(uow)).items
    assert sent.status == "sent"


async def test_a_failed_mail_is_tried_again_later(customer: Deps, mailer: RecordingMailer) -> None:
    await factories.product(customer, "MUG", stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        await notification.queue_order_confirmation(uow, placed.id)  # type: ignore[arg-type]
    mailer.failures = 2
    assert await notification.send_due(customer) == 0
    assert await notification.send_due(factories.later(customer, seconds=5)) == 0
    assert await notification.send_due(factories.later(customer, seconds=20)) == 0
    assert await notification.send_due(factories.later(customer, minutes=5)) == 1
    assert len(mailer.sent) == 1


async def test_a_claim_lost_in_a_crash_is_taken_over(
    customer: Deps, mailer: RecordingMailer
) -> None:
    await factories.product(customer, "MUG", stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    async with customer.begin() as uow:
        await notification.queue_order_confirmation(uow, placed.id)  # type: ignore[arg-type]

    class Dies:
        async def send(self, mail: object) -> None:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        await notification.send_due(replace(customer, mailer=Dies()))
    assert await notification.send_due(factories.later(customer, minutes=1)) == 0
    assert await notification.send_due(factories.later(customer, minutes=3)) == 1
    assert len(mailer.sent) == 1


async def test_a_cancelled_order_says_so(customer: Deps, mailer: RecordingMailer) -> None:
    await factories.product(customer, "MUG", stock=5)
    placed = await factories.placed_order(customer, MUG=1)
    await checkout.cancel(customer, placed.number, reason="ordered twice")
    async with customer.begin() as uow:
        await notification.queue_order_cancelled(uow, placed.id)  # type: ignore[arg-type]
    await notification.send_due(customer)
    assert [mail.subject for mail in mailer.sent] == [f"Order {placed.number} was cancelled"]


async def test_mails_after_the_sale_say_what_is_to_do_and_go_once(
    customer: Deps, mailer: RecordingMailer
) -> None:
    await shop.lamp(customer)
    method = await shop.card(customer)
    placed = await shop.delivered(customer, steel=2)
    async with customer.begin() as uow:
        await return_.request(uow, placed.number, [LineRequest(sku="LAMP-STEEL")])
        change = LineChange(sku="LAMP-STEEL", new_sku="LAMP-OAK")
        await exchange.request(uow, placed.number, [change], method)
    async with customer.begin() as uow:
        query = select(OutboxMessage).where(OutboxMessage.aggregate_id == placed.id)
        written = list(await uow.session.exec(query))
    for _ in range(2):
        for message in written:
            envelope = Envelope.model_validate(message, from_attributes=True)
            for handler in handlers_of(EVENTS[message.type]):
                async with customer.begin() as uow:
                    await handler.run(HandlerContext(uow), load(envelope), envelope)
    await notification.send_due(customer)

    sent = {mail.subject.partition(":")[0]: mail.body for mail in mailer.sent}
    assert len(mailer.sent) == len(sent)
    assert "1 x LAMP-STEEL" in sent["Your return"]
    assert "EUR 65.00 goes back to you" in sent["Your return"]
    assert "1 x LAMP-OAK" in sent["Your exchange"]
    assert "EUR 34.00 is charged then" in sent["Your exchange"]
    assert "tracking number is T-1" in sent["Your parcel has left"]
