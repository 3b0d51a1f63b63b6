"""Stored methods: tokens only, of use to their owner only."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import httpx
import pytest

from deps.core import Deps
from tests import factories
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import Fault
from tests.providers.shop import buy, tender_of
from tests.providers.stripe_server import StripeServer
from tests.reversal import act, rows, undone
from tools import method, undo
from tools.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PaymentDeclined,
    Unauthenticated,
    Unavailable,
)


@pytest.mark.parametrize(
    ("text", "is_card"),
    [
        ("4242424242424242", True),
        ("4242 4242 4242 4242", True),
        ("4242-4242-4242-4242", True),
        ("my card is 5555555555554444, thanks", True),
        ("3782 822463 10005", True),
        ("pm_4242424242424242", True),
        ("4242424242424241", False),
        ("pm_1PgafyB7WZ01zgkWSjxsAJo3", False),
        ("0195c8a0-0000-7000-8000-000000000001", False),
        ("12345678-1234-1234-1234-123456789012", False),
        ("42424242", False),
        ("", False),
    ],
)
def test_card_numbers_are_recognised(text: str, is_card: bool) -> None:
    assert method.has_card_number(text) is is_card


async def test_kept_listed_paid_with_and_forgotten(
    stripe_client: httpx.AsyncClient, stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    await factories.product(stripe_shop, "MUG", price=1250, stock=50)
    owner = await factories.user(stripe_shop)
    headers = factories.bearer(owner)
    path = "/v1/me/payment-methods"
    first = await stripe_client.post(path, headers=headers, json={"token": "pm_card_visa"})
    assert first.status_code == 201, first.text
    kept = first.json()
    assert (kept["brand"], kept["last4"], kept["expires_on"]) == ("visa", "4242", "2030-08-31")
    assert kept["is_default"]
    assert "token" not in kept
    again = await stripe_client.post(path, headers=headers, json={"token": "pm_card_visa"})
    assert again.json()["id"] == kept["id"]
    second = await method.add(owner, "pm_card_mastercard", is_default=True)
    listed = (await stripe_client.get(path, headers=headers)).json()
    assert [(m["id"], m["is_default"]) for m in listed] == [
        (str(second.id), True),
        (kept["id"], False),
    ]
    mine = [stripe_account.attached[f"pm_card_{brand}_saved"] for brand in ("visa", "mastercard")]
    assert mine[0] == mine[1], "one account at Stripe for one customer"
    r = await stripe_client.put(f"{path}/{kept['id']}/default", headers=headers)
    assert r.json()["is_default"]
    placed = await buy(owner, kept["id"])
    assert placed.status == "placed"
    assert (await tender_of(owner, placed.id)).method_token.startswith("cus_")
    r = await stripe_client.delete(f"{path}/{kept['id']}", headers=headers)
    assert r.status_code == 200
    left = (await stripe_client.get(path, headers=headers)).json()
    assert [(m["id"], m["is_default"]) for m in left] == [(str(second.id), True)]
    with pytest.raises(NotFound):
        await buy(owner, kept["id"])


async def test_a_stored_token_is_of_no_use_to_others(
    stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    await factories.product(stripe_shop, "MUG", price=1250, stock=50)
    owner = await factories.user(stripe_shop)
    stored = await method.add(owner, "pm_card_visa")
    token = (await _token(owner, stored)) or ""
    assert token.startswith("cus_")
    thief, guest = await factories.user(stripe_shop), factories.guest(stripe_shop)
    for payment_method in (str(stored.id), token):
        with pytest.raises(NotFound):
            await buy(thief, payment_method)
        with pytest.raises((NotFound, Unauthenticated)):
            await buy(guest, payment_method)
    for foreign in (stored.id, uuid4()):
        with pytest.raises(NotFound, match="No such payment method"):
            await method.remove(thief, foreign)
        async with thief.begin() as uow:
            with pytest.raises(NotFound, match="No such payment method"):
                await method.set_default(uow, foreign)
    # Without its account at Stripe the bare token is refused by Stripe itself.
    with pytest.raises(PaymentDeclined):
        await buy(thief, token.partition("/")[2])
    async with thief.begin() as uow:
        assert await method.list_methods(uow) == []


async def _token(deps: Deps, stored: method.MethodView) -> str:
    async with deps.begin() as uow:
        return (await method.access(uow, stored.id)).token


async def test_eight_at_once_keep_one_and_one_default(
    stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    owner = await factories.user(stripe_shop)
    tokens = ["pm_card_visa", "pm_card_mastercard"] * 4
    answers = await asyncio.gather(
        *(method.add(owner, token, is_default=True) for token in tokens), return_exceptions=True
    )
    assert any(isinstance(answer, method.MethodView) for answer in answers)
    for token in tokens[:2]:
        await method.add(owner, token)
    accounts = [c for c in stripe_account.customers.values() if c["metadata"]]
    ids = [c["metadata"]["shopkeeper_customer"] for c in accounts]
    assert ids.count(str(owner.actor.user_id)) == 1
    async with owner.begin() as uow:
        kept = await method.list_methods(uow)
    assert sum(each.is_default for each in kept) == 1


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("4242424242424242", 422),
        ("4242 4242 4242 4242", 422),
        ("pm_card_chargeDeclined", 422),
        ("pm_unknown", 422),
        ("../../v1/refunds", 422),
        ("pm_card_visa\r\nX: y", 422),
        ("", 422),
    ],
)
async def test_hostile_tokens(
    stripe_client: httpx.AsyncClient, stripe_shop: Deps, token: str, status: int
) -> None:
    headers = factories.bearer(await factories.user(stripe_shop))
    body = {"token": token}
    answer = await stripe_client.post("/v1/me/payment-methods", headers=headers, json=body)
    assert answer.status_code == status
    assert "4242424242424242" not in answer.text


async def test_guests_keep_nothing(stripe_client: httpx.AsyncClient, stripe_shop: Deps) -> None:
    headers = {"X-Guest-Token": factories.GUEST_TOKEN}
    answer = await stripe_client.get("/v1/me/payment-methods", headers=headers)
    assert answer.status_code == 401
    with pytest.raises(Unauthenticated):
        await method.add(factories.guest(stripe_shop), "pm_card_visa")
    with pytest.raises(InvalidInput, match="card number"):
        await method.token_for(stripe_shop, "4242 4242 4242 4242")


async def test_paypals_vault(paypal_shop: Deps, paypal_account: PayPalServer) -> None:
    owner = await factories.user(paypal_shop)
    card = await method.add(owner, "SETUPCARD-1")
    wallet = await method.add(owner, "SETUP-3", is_default=True)
    assert (card.kind, card.brand, card.last4) == ("card", "visa", "1111")
    assert (wallet.kind, wallet.is_default) == ("paypal", True)
    before = len(paypal_account.vault)
    await method.remove(owner, wallet.id)
    assert len(paypal_account.vault) == before - 1
    with pytest.raises(InvalidInput):
        await method.add(owner, "WRONG")


async def test_the_same_token_is_one_method_and_may_become_the_default(customer: Deps) -> None:
    first = await method.add(customer, "tok_visa")
    second = await method.add(customer, " tok_mastercard ")
    assert (first.is_default, second.is_default) == (True, False)
    assert await method.add(customer, "tok_mastercard") == second
    promoted = await method.add(customer, "tok_mastercard", is_default=True)
    assert (promoted.id, promoted.is_default) == (second.id, True)
    await method.remove(customer, promoted.id)
    async with customer.begin() as uow:
        assert [(m.id, m.is_default) for m in await method.list_methods(uow)] == [(first.id, True)]
    back = await method.add(customer, "tok_mastercard")
    assert (back.id, back.is_default) == (second.id, False), "it is found again, and takes nothing"
    await method.remove(customer, back.id)
    await method.remove(customer, first.id)
    async with customer.begin() as uow:
        assert await method.list_methods(uow) == []


async def test_a_person_keeps_so_many(customer: Deps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method, "METHODS_MAX", 2)
    for n in range(2):
        await method.add(customer, f"tok_{n}")
    with pytest.raises(Conflict, match="remove one first"):
        await method.add(customer, "tok_2")
    await method.add(customer, "tok_1")  # Kept already.


async def test_a_provider_that_does_not_answer_leaves_things_as_they_were(
    stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    owner = await factories.user(stripe_shop)
    stripe_account.faults.script.append(Fault.ERROR_BEFORE)
    with pytest.raises(Unavailable, match="send it again"):
        await method.add(owner, "pm_card_visa")
    kept = await method.add(owner, "pm_card_visa")
    stripe_account.faults.script.append(Fault.ERROR_BEFORE)
    with pytest.raises(Unavailable, match="repeat it"):
        await method.remove(owner, kept.id)
    async with owner.begin() as uow:
        assert [m.id for m in await method.list_methods(uow)] == [kept.id]
    await method.remove(owner, kept.id)


async def test_a_method_of_a_provider_that_was_given_up_is_of_no_use_but_can_be_forgotten(
    stripe_shop: Deps,
) -> None:
    owner = await factories.user(stripe_shop)
    kept = await method.add(owner, "pm_card_visa")
    gateways = {name: gateway for name, gateway in owner.gateways.items() if name != "stripe"}
    settings = owner.settings.model_copy(update={"payment_provider": "scripted"})
    moved = replace(owner, gateways=gateways, settings=settings)
    with pytest.raises(NotFound, match="takes no stripe now"):
        await method.token_for(moved, str(kept.id))
    assert not (await method.remove(moved, kept.id)).is_default
    async with moved.begin() as uow:
        assert await method.list_methods(uow) == []


async def test_a_method_that_was_added_is_forgotten_and_the_default_is_what_it_was(
    stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    owner = await factories.user(stripe_shop)
    visa = {"token": "pm_card_visa"}
    await undone(owner, "method.add", **visa)
    oldest = await method.add(owner, "pm_card_createDispute")
    await method.add(owner, "pm_card_mastercard")
    await undone(owner, "method.add", **visa, is_default=True)
    kept = await method.add(owner, visa["token"])
    await undone(owner, "method.add", **visa, is_default=True)
    await undone(owner, "method.set_default", method_id=str(kept.id))
    before = await rows(owner)
    for key, arguments in (("method.add", visa), ("method.set_default", {"method_id": oldest.id})):
        (step,) = (await undo.undo(owner, await act(owner, key, **arguments))).steps
        assert (step.is_undone, await rows(owner)) == (True, before), "nothing was changed"
    run = await act(owner, "method.add", **visa, is_default=True)
    async with owner.begin() as uow:
        await method.set_default(uow, oldest.id)
    (step,) = (await undo.undo(owner, run)).steps
    assert step.why_not == "It was changed since."
    assert await rows(owner) == before


async def test_a_default_that_is_gone_is_not_put_back(
    stripe_shop: Deps, stripe_account: StripeServer
) -> None:
    owner = await factories.user(stripe_shop)
    oldest = await method.add(owner, "pm_card_createDispute")
    added = await act(owner, "method.add", token="pm_card_visa", is_default=True)
    newest = await method.add(owner, "pm_card_mastercard")
    chosen = await act(owner, "method.set_default", method_id=newest.id)
    await method.remove(owner, oldest.id)
    for run, why in ((chosen, ""), (added, "It was changed since.")):
        (step,) = (await undo.undo(owner, run)).steps
        assert (step.is_undone, step.why_not) == (not why, why)
    async with owner.begin() as uow:
        listed = await method.list_methods(uow)
    assert [one.is_default for one in listed] == [True, False]
    assert newest.id == listed[1].id
    gone = method.MethodBefore(kept_ids=[newest.id], default_id=oldest.id)
    await method.remove(owner, listed[0].id, gone)
    async with owner.begin() as uow:
        (left,) = await method.list_methods(uow)
    assert (left.id, left.is_default) == (newest.id, True)
