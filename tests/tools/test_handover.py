"""A conversation handed over: once, whole, to staff alone."""

import asyncio
from uuid import UUID

import httpx
import pytest

from deps.core import Deps
from tests import factories
from tests.factories import RecordingMailer
from tools import conversation as conversations
from tools import handover, notification
from tools.errors import Forbidden, IllegalTransition, InvalidInput, NotFound
from tools.handover import HandoverView
from tools.registry import OPERATIONS


async def _conversation(deps: Deps) -> UUID:
    async with deps.begin() as uow:
        row = await conversations.start(uow, "broken mug")
        entry = {"role": "user", "text": "my mug is broken", "cards": [], "approvals": []}
        await conversations.append(uow, row.id, [entry])
        return row.id


async def _request(deps: Deps, conversation: UUID | None = None) -> HandoverView:
    async with deps.begin() as uow:
        return await handover.request(uow, "broken", conversation_id=conversation)


async def test_staff_read_all_that_was_said(customer: Deps, merchant: Deps) -> None:
    asked = await _request(customer, await _conversation(customer))
    async with merchant.begin() as uow:
        (waiting,) = (await handover.list_open(uow)).items
        case = await handover.get(uow, waiting.number)
    assert waiting.id == asked.id
    assert [entry["text"] for entry in case.transcript] == ["my mug is broken"]


async def test_a_conversation_waits_once_however_often_it_asks(
    customer: Deps, merchant: Deps
) -> None:
    conversation = await _conversation(customer)
    asked = await asyncio.gather(*(_request(customer, conversation) for _ in range(6)))
    assert len({case.id for case in asked}) == 1
    async with merchant.begin() as uow:
        assert len((await handover.list_open(uow)).items) == 1


async def test_after_it_was_resolved_one_may_ask_again(customer: Deps, merchant: Deps) -> None:
    conversation = await _conversation(customer)
    first = await _request(customer, conversation)
    async with merchant.begin() as uow:
        done = await handover.resolve(uow, first.number, "sent a new one")
        again = await handover.resolve(uow, first.number, "sent a new one")
        with pytest.raises(IllegalTransition):
            await handover.resolve(uow, first.number, "something else")
    assert done == again
    assert (await _request(customer, conversation)).id != first.id


async def test_a_foreign_conversation_can_not_be_handed_over(deps: Deps, customer: Deps) -> None:
    other = await factories.user(deps)
    with pytest.raises(NotFound):
        await _request(other, await _conversation(customer))


async def test_a_guest_has_to_say_where_the_answer_goes(guest: Deps) -> None:
    conversation = await _conversation(guest)
    with pytest.raises(InvalidInput):
        await _request(guest, conversation)
    async with guest.begin() as uow:
        case = await handover.request(uow, "broken", "Ada@Example.com", conversation)
    assert case.email == "ada@example.com"


async def test_shoppers_see_no_cases(customer: Deps) -> None:
    case = await _request(customer)
    for key, arguments in (("list_open", {}), ("get", {"case": case.number})):
        with pytest.raises(Forbidden):
            await OPERATIONS[f"handover.{key}"](customer, **arguments)


async def test_staff_are_told_by_mail(customer: Deps, mailer: RecordingMailer) -> None:
    case = await _request(customer, await _conversation(customer))
    for _ in range(2):
        async with customer.begin() as uow:
            await handover.tell_staff(uow, case.id)
    await notification.send_due(customer)
    (mail,) = mailer.sent
    assert mail.recipient == customer.settings.support_email
    assert "my mug is broken" in mail.body


async def test_a_case_and_its_mail_hold_no_secrets_and_no_strangers_address(
    customer: Deps, merchant: Deps, mailer: RecordingMailer
) -> None:
    said = (
        "I paid with 4242 4242 4242 4242, cvc 123, my password is hunter22 and the gift card "
        "7K3M-Q9ZT-0BXW-5HRN-2C4D; write to ADA@example.com, not to mallory@evil.example. "
        "The parcel is 00340434161094042557, the order #1001 of EUR 12.50."
    )
    async with customer.begin() as uow:
        row = await conversations.start(uow, "paid twice")
        entry = {"role": "user", "text": said, "cards": [{"note": said}], "approvals": []}
        await conversations.append(uow, row.id, [entry])
    async with customer.begin() as uow:
        asked = await handover.request(uow, said, "ada@example.com", row.id)
    async with merchant.begin() as uow:
        case = await handover.get(uow, asked.number)
        await handover.tell_staff(uow, asked.id)
    await notification.send_due(customer)
    (mail,) = mailer.sent
    for text in (mail.body, case.reason, str(case.transcript)):
        for secret in ("4242", "cvc 123", "hunter22", "7K3M", "2C4D", "mallory"):
            assert secret not in text
        for kept in ("ADA@example.com", "00340434161094042557", "#1001", "12.50"):
            assert kept in text


async def test_over_http(client: httpx.AsyncClient, customer: Deps, merchant: Deps) -> None:
    shopper, staff = factories.bearer(customer), factories.bearer(merchant)
    made = await client.post("/v1/handovers", json={"reason": "broken"}, headers=shopper)
    assert made.status_code == 201
    number = made.json()["number"]
    assert (await client.get("/v1/handovers", headers=shopper)).status_code == 403
    listed = await client.get("/v1/handovers", headers=staff)
    assert [case["number"] for case in listed.json()["items"]] == [number]
    case = await client.get(f"/v1/handovers/{number}", headers=staff)
    assert case.json()["reason"] == "broken"
    done = await client.post(
        f"/v1/handovers/{number}/resolve", json={"note": "done"}, headers=staff
    )
    assert done.json()["status"] == "resolved"
