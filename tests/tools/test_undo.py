"""Undoing what an agent did, and tracing money back to the words that asked for it."""

import asyncio
from uuid import UUID

import pytest

from agents.base import call_operation
from deps.core import Deps
from tests import factories
from tools import action, agent_run, cart, checkout, provenance, undo
from tools.errors import NotFound
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()


async def act(deps: Deps, words: str, *calls: tuple[str, dict[str, object]]) -> UUID:
    """Call operations as an agent does for one message; return the run."""
    within = agent_run.within(deps, words=words, route="order")
    for key, arguments in calls:
        await call_operation(within, OPERATIONS[key], arguments)
    assert within.turn is not None
    return within.turn.id


async def quantity(deps: Deps) -> int:
    async with deps.begin() as uow:
        lines = (await cart.current(uow)).lines
    return lines[0].quantity if lines else 0


async def test_a_run_is_undone_in_reverse_with_proof(deps: Deps, customer: Deps) -> None:
    await factories.product(deps, "MUG", stock=20)
    await act(customer, "add 2", ("cart.add_item", {"sku": "MUG", "quantity": 2}))
    run = await act(
        customer, "3 more, no, 9, and call me Grace",
        ("cart.add_item", {"sku": "MUG", "quantity": 3}),
        ("cart.change_item", {"sku": "MUG", "quantity": 9}),
        ("user.rename", {"name": "Grace"}),
    )  # fmt: skip
    assert await quantity(customer) == 9
    done = await undo.undo(customer, run)
    assert [step.operation for step in done.steps] == [
        "user.rename", "cart.change_item", "cart.add_item",
    ]  # fmt: skip
    assert all(step.is_undone and step.proof for step in done.steps)
    assert await quantity(customer) == 2
    again = await undo.undo(customer, run)
    assert not any(step.is_undone for step in again.steps)
    assert await quantity(customer) == 2


async def test_what_changed_since_is_left_alone(deps: Deps, customer: Deps) -> None:
    await factories.product(deps, "MUG", stock=20)
    run = await act(customer, "add 2", ("cart.add_item", {"sku": "MUG", "quantity": 2}))
    async with customer.begin() as uow:
        await cart.change_item(uow, "MUG", 5)
    (step,) = (await undo.undo(customer, run)).steps
    assert (step.is_undone, step.why_not) == (False, "It was changed since.")
    assert await quantity(customer) == 5


async def test_undone_once_by_many_at_once(deps: Deps, merchant: Deps) -> None:
    await factories.product(deps, "MUG", stock=20)
    adjust = {"sku": "MUG", "location": "HAM", "delta": -5, "reason": "lost"}
    run = await act(merchant, "write off 5", ("inventory.adjust", adjust))
    reports = await asyncio.gather(*(undo.undo(merchant, run) for _ in range(6)))
    assert sum(report.steps[0].is_undone for report in reports) == 1
    async with merchant.begin() as uow:
        shown = await OPERATIONS["inventory.levels"].run(uow, "MUG")
    assert shown.available == 20


async def test_anothers_run_looks_absent(deps: Deps, customer: Deps, merchant: Deps) -> None:
    await factories.product(deps, "MUG", stock=20)
    run = await act(customer, "add 2", ("cart.add_item", {"sku": "MUG", "quantity": 2}))
    for other in (merchant, await factories.user(deps), factories.guest(deps), deps):
        with pytest.raises(NotFound):
            await undo.undo(other, run)
    assert await quantity(customer) == 2


async def bought(deps: Deps, shopper: Deps) -> UUID:
    """Buy by way of an agent: proposed in a run, approved; return the action."""
    await factories.product(deps, "MUG", stock=20)
    await factories.filled_cart(shopper, MUG=2)
    within = agent_run.within(shopper, words="buy the mugs", route="order")
    answer = await call_operation(within, OPERATIONS["checkout.buy"], {})
    approved = await action.approve(shopper, UUID(answer["data"]["id"]))
    assert approved.result is not None
    return approved.id


async def test_what_was_taken_out_before_a_purchase_is_not_put_into_the_next_cart(
    deps: Deps, customer: Deps
) -> None:
    for sku in ("MUG", "BOWL"):
        await factories.product(deps, sku, stock=20)
        await act(customer, f"a {sku}", ("cart.add_item", {"sku": sku}))
    run = await act(customer, "no bowl", ("cart.remove_item", {"sku": "BOWL"}))
    async with customer.begin() as uow:
        cart_id = await cart.current_id(uow)
        await cart.set_details(
            uow, cart_id, email="ada@example.com", shipping_address=factories.ADDRESS,
            shipping_method="standard",
        )  # fmt: skip
    await checkout.complete(customer, cart_id, payment_method="tok_visa")
    (step,) = (await undo.undo(customer, run)).steps
    assert (step.is_undone, step.why_not) == (False, "It was changed since.")
    assert await quantity(customer) == 0


async def test_a_purchase_is_taken_back_by_cancelling(deps: Deps, customer: Deps) -> None:
    await bought(deps, customer)
    report = await undo.undo(customer)
    assert [step.inverse for step in report.steps if step.is_undone] == ["checkout.cancel"]


async def test_one_query_goes_from_a_refund_to_the_words(
    deps: Deps, customer: Deps, merchant: Deps
) -> None:
    await factories.product(deps, "MUG", price=1250, stock=20)
    placed = await factories.placed_order(customer, MUG=2)
    within = agent_run.within(merchant, words="refund 5 euros, the mug is chipped", route="refund")
    asked = {"number": placed.number, "amount": 500, "reason": "chipped"}
    answer = await call_operation(within, OPERATIONS["refund.request"], asked)
    approved = await action.approve(merchant, UUID(answer["data"]["id"]))
    assert approved.result is not None
    async with merchant.begin() as uow:
        found = await provenance.provenance(uow, refund_id=UUID(approved.result["id"]))
        by_action = await provenance.provenance(uow, action_id=approved.id)
    (call,) = found.calls
    assert call["words"] == "refund 5 euros, the mug is chipped"
    assert call["route"] == "refund"
    assert call["arguments"]["amount"] == 500
    assert call["approval"]["action_id"] == str(approved.id)
    assert call["approval"]["decided_by"] == str(merchant.actor.user_id)
    assert sum(row["amount"] for row in found.ledger) == 0
    assert -500 in [row["amount"] for row in found.ledger]
    assert {"RefundRequested", "PaymentRefunded"} <= {event["type"] for event in found.events}
    assert found.refunds[0]["amount"] == 500
    assert by_action.number == placed.number
