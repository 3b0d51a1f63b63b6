"""Answers about the shop are made from what the shop applies."""

import httpx
import pytest

from api.support import Subject
from deps.core import Deps
from tests import factories
from tools import help, receipt
from tools.errors import NotFound
from tools.registry import OPERATIONS


@pytest.mark.parametrize("subject", list(Subject))
async def test_every_subject_is_answered(client: httpx.AsyncClient, subject: Subject) -> None:
    answer = await client.get(f"/v1/help/{subject.value}")
    assert answer.status_code == 200
    assert answer.json()["statements"]


def test_every_help_operation_is_a_subject() -> None:
    named = {op.name for op in OPERATIONS.values() if op.domain == "help"}
    assert named == {subject.value for subject in Subject}


async def test_delivery_tells_the_prices_a_cart_is_charged(customer: Deps) -> None:
    async with customer.begin() as uow:
        told = " ".join((await help.delivery(uow)).statements)
    await factories.product(customer, "MUG", price=1250)
    cart = await factories.filled_cart(customer, MUG=1)
    assert f"EUR {cart.shipping_amount / 100:.2f}" in told


async def test_payment_methods_are_those_switched_on(deps: Deps) -> None:
    told = (await help.payment_methods(deps)).statements[0]
    assert "card" in told
    assert "PayPal" not in told


async def test_a_receipt_adds_up(customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1250)
    placed = await factories.placed_order(customer, MUG=2)
    async with customer.begin() as uow:
        newest = await receipt.show(uow)
    assert newest.number == placed.number
    assert newest.total_amount == 2990
    assert newest.captured_amount == sum(t.captured_amount for t in newest.tenders) == 2990


async def test_a_receipt_of_nobody_or_somebody_else_is_absent(deps: Deps, customer: Deps) -> None:
    await factories.product(customer, "MUG", price=1250)
    placed = await factories.placed_order(customer, MUG=1)
    other = await factories.user(deps)
    async with other.begin() as uow:
        with pytest.raises(NotFound):
            await receipt.show(uow, placed.number)
        with pytest.raises(NotFound):
            await receipt.show(uow)
