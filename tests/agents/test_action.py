"""Approvals: single-use, bound to actor, arguments and time."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import col, update

from db.models.conversation import ActionStatus, PendingAction
from deps.core import Actor, Deps
from deps.scripted import ScriptedGateway
from tests import factories
from tools import action, cart, cart_delivery
from tools.action import ACTION_TTL, EXECUTION_LEASE, ActionView
from tools.errors import Conflict, DomainError, Forbidden, InvalidInput, NotFound
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()

BUY = "checkout.buy"


async def filled(deps: Deps, shopper: Deps, quantity: int = 2) -> None:
    await factories.product(deps, sku="MUG", price=1250, stock=10)
    async with shopper.begin() as uow:
        await cart.add_item(uow, sku="MUG", quantity=quantity)
        await cart_delivery.deliver_to(
            uow, email="ada@example.com", name="Ada", line1="12 Quay Street",
            postal_code="20457", city="Hamburg", country_code="DE",
        )  # fmt: skip


async def proposed(shopper: Deps) -> ActionView:
    return await action.propose(shopper, OPERATIONS[BUY], {})


async def edit(deps: Deps, shown: ActionView, **values: object) -> None:
    async with deps.begin() as uow:
        change = update(PendingAction).where(col(PendingAction.id) == shown.id).values(**values)
        await uow.session.exec(change)


async def test_proposing_changes_nothing(deps: Deps, guest: Deps, gateway: ScriptedGateway) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    assert shown.status is ActionStatus.PENDING
    assert shown.preview["charge_amount"] == 2990
    assert gateway.calls == 0


async def test_approved_eight_times_at_once_buys_once(
    deps: Deps, guest: Deps, gateway: ScriptedGateway
) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    outcomes = await asyncio.gather(
        *(action.approve(guest, shown.id) for _ in range(8)), return_exceptions=True
    )
    done = [outcome for outcome in outcomes if isinstance(outcome, ActionView)]
    assert all(isinstance(outcome, ActionView | Conflict) for outcome in outcomes)
    assert len({str(view.result and view.result["number"]) for view in done}) == 1
    assert list(gateway.charges.values()) == [2990]
    again = await action.approve(guest, shown.id)
    assert again.result == done[0].result
    assert list(gateway.charges.values()) == [2990]


@pytest.mark.parametrize("tampered", [{"arguments": {"payment_method": "tok_other"}}])
async def test_edited_arguments_are_refused(
    deps: Deps, guest: Deps, gateway: ScriptedGateway, tampered: dict[str, object]
) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    await edit(deps, shown, **tampered)
    for _ in range(2):
        with pytest.raises(Conflict):
            await action.approve(guest, shown.id)
    assert gateway.calls == 0


async def test_a_changed_cart_is_not_what_was_approved(
    deps: Deps, guest: Deps, gateway: ScriptedGateway
) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    async with guest.begin() as uow:
        await cart.add_item(uow, sku="MUG", quantity=3)
    with pytest.raises(DomainError) as refused:
        await action.approve(guest, shown.id)
    assert refused.value.error_code() == "state_changed"
    assert gateway.calls == 0


async def test_what_waits_for_others_hides_nothing_of_ones_own(deps: Deps, guest: Deps) -> None:
    await filled(deps, guest)
    first = await proposed(guest)
    async with deps.begin() as uow:
        await uow.fetch(
            """INSERT INTO pending_action
               SELECT (jsonb_populate_record(p, jsonb_build_object(
                   'id', uuidv7(), 'actor_id', gen_random_uuid()))).*
               FROM pending_action p, generate_series(1, 600)"""
        )
    last = await proposed(guest)
    async with guest.begin() as uow:
        assert [shown.id for shown in await action.waiting(uow)] == [first.id, last.id]
    async with guest.acting_as(Actor(scopes=guest.actor.scopes)).begin() as uow:
        assert await action.waiting(uow) == []


async def test_expired_is_refused(deps: Deps, guest: Deps, gateway: ScriptedGateway) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    late = replace(guest, clock=lambda: guest.clock() + ACTION_TTL + timedelta(seconds=1))
    with pytest.raises(Conflict, match="expired"):
        await action.approve(late, shown.id)
    assert gateway.calls == 0


async def test_someone_elses_looks_absent(
    deps: Deps, guest: Deps, customer: Deps, merchant: Deps, gateway: ScriptedGateway
) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    stranger = factories.guest(deps, "another-guest-token-0123456789abcdef")
    for other in (customer, merchant, stranger, deps):
        for decide in (action.approve, action.reject):
            with pytest.raises(NotFound):
                await decide(other, shown.id)
    assert gateway.calls == 0


async def test_rejected_stays_rejected(deps: Deps, guest: Deps, gateway: ScriptedGateway) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    assert (await action.reject(guest, shown.id)).status is ActionStatus.REJECTED
    assert (await action.reject(guest, shown.id)).status is ActionStatus.REJECTED
    with pytest.raises(Conflict):
        await action.approve(guest, shown.id)
    assert gateway.calls == 0


async def test_a_crash_is_resumed_after_the_lease_and_buys_once(
    deps: Deps, guest: Deps, gateway: ScriptedGateway
) -> None:
    await filled(deps, guest)
    shown = await proposed(guest)
    await action.approve(guest, shown.id)
    # As if the process had died after buying and before writing the outcome.
    await edit(deps, shown, status=ActionStatus.EXECUTING, result=None)
    with pytest.raises(Conflict, match="already"):
        await action.approve(guest, shown.id)
    later = replace(guest, clock=lambda: guest.clock() + EXECUTION_LEASE)
    resumed = await action.approve(later, shown.id)
    assert resumed.status is ActionStatus.EXECUTED
    assert list(gateway.charges.values()) == [2990]


async def test_a_crash_of_what_may_not_repeat_is_unknown(merchant: Deps, deps: Deps) -> None:
    await factories.product(deps, sku="MUG", stock=10)
    adjust = OPERATIONS["inventory.adjust"]
    arguments = {"sku": "MUG", "location": "HAM", "delta": 1, "reason": "recount"}
    shown = await action.propose(merchant, adjust, arguments)
    await edit(deps, shown, status=ActionStatus.EXECUTING, decided_at=deps.clock())
    later = replace(merchant, clock=lambda: deps.clock() + EXECUTION_LEASE)
    with pytest.raises(Conflict, match="unknown"):
        await action.approve(later, shown.id)


async def test_proposing_needs_the_scope_and_an_identity(deps: Deps, guest: Deps) -> None:
    adjust = OPERATIONS["inventory.adjust"]
    with pytest.raises(Forbidden):
        await action.propose(guest, adjust, {})
    with pytest.raises(InvalidInput):
        await proposed(deps)


async def test_arguments_are_checked_before_anything_is_stored(merchant: Deps) -> None:
    adjust = OPERATIONS["inventory.adjust"]
    for arguments in ({}, {"sku": "M", "location": "H", "delta": "x", "reason": "r"}, {"x": 1}):
        with pytest.raises(InvalidInput):
            await action.propose(merchant, adjust, arguments)
