"""Sale eval: a guest finds, orders and pays for mugs by chat alone, and then asks about the order.

It runs on the shop it is given and buys for real there, as a fresh guest.
"""

import json
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import Evaluator, EvaluatorContext

from agents import coordinator
from agents.coordinator import Said
from agents.model import choose_model
from deps import security
from deps.core import ROLE_SCOPES, Actor, Deps
from tools import action
from tools import conversation as conversations
from tools.demo.load import load

STEPS = (
    ("find", "do you have a mug?"),
    ("stock", "how many are in stock?"),
    ("add", "add two of the first one to my cart"),
    ("address", "deliver to Ada Lovelace, 12 Quay Street, 20457 Hamburg, DE, ada@example.com"),
    ("check out", "check out"),
)


@dataclass
class Sale:
    """What came of the conversation."""

    transcript: list[tuple[str, str]] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)
    charge_amount: int | None = None
    order: dict[str, Any] | None = None
    told: str = ""


@dataclass
class Sold(Evaluator[str, Sale, Any]):
    def evaluate(self, ctx: EvaluatorContext[str, Sale, Any]) -> dict[str, bool]:
        sale = ctx.output
        order = sale.order or {}
        return {
            "cards_shown": {"products", "cart"} <= set(sale.cards),
            "charge_was_shown": sale.charge_amount is not None
            and sale.charge_amount == order.get("total_amount"),
            "paid": order.get("payment_status") == "captured",
            "two_units": sum(line["quantity"] for line in order.get("lines", [])) == 2,
            "order_found_again": f"#{order.get('number')}" in sale.told,
        }


async def _say(deps: Deps, conversation_id: UUID, text: str, sale: Sale) -> UUID | None:
    """Say one thing; return the action that waits for approval, if one does."""
    async with deps.begin() as uow:
        row = await conversations.access(uow, conversation_id)
    turn, waiting = coordinator.begin(row.state, conversation_id), None
    told: list[Said] = []
    model = choose_model(deps.settings, deps.actor)
    await coordinator.answer(deps, model, text, turn, told.append)
    for said in told:
        if said.name == "card":
            sale.cards.append(said.data["kind"])
        elif said.name == "approval":
            waiting = UUID(said.data["action_id"])
            sale.charge_amount = said.data["preview"]["charge_amount"]
    await coordinator.persist(deps, conversation_id, turn, [])
    sale.transcript.append((text, turn.text))
    sale.told = turn.text
    return waiting


async def sell(deps: Deps) -> Sale:
    digest = security.sha256(secrets.token_urlsafe(32))
    guest = deps.acting_as(Actor(scopes=ROLE_SCOPES[None], guest_secret_sha256=digest))
    async with guest.begin() as uow:
        conversation_id = (await conversations.start(uow, "sale")).id
    sale, waiting = Sale(), None
    for name, text in STEPS:
        waiting = await _say(guest, conversation_id, text, sale)
        if name == "add" and "Which one" in sale.told:  # A product with variants: take the first.
            await _say(guest, conversation_id, "the first one", sale)
    if waiting is None:
        return sale
    approved = await action.approve(guest, waiting)
    assert approved.result is not None
    sale.order = approved.result
    await _say(guest, conversation_id, f"where is my order {approved.result['number']}?", sale)
    return sale


async def main(deps: Deps, *, data: Path | None = None, as_json: bool = False) -> int:
    """Open the demo shop behind `deps` and hold the conversation in it.

    Args:
        deps: A scratch database.
        data: Unused: the conversation is the data. Every eval is called alike.
        as_json: Print one JSON object instead of lines.
    """
    await load(deps)
    return await hold(deps, as_json=as_json)


async def hold(deps: Deps, *, as_json: bool = False) -> int:
    """Hold the conversation in a shop that sells mugs; return 1 when any check fails."""
    cases = [Case(name="guest buys two mugs", inputs="mugs")]
    evaluation: Dataset[str, Sale, Any] = Dataset(name="sale", cases=cases, evaluators=[Sold()])

    async def task(_: str) -> Sale:
        return await sell(deps)

    report = await evaluation.evaluate(task, progress=False)
    if report.failures:
        sys.stdout.write(f"sale: {report.failures[0].error_message}\n")
        return 1
    (case,) = report.cases
    checks = {name: bool(result.value) for name, result in case.assertions.items()}
    if as_json:
        sys.stdout.write(
            json.dumps({"checks": checks, "transcript": case.output.transcript}) + "\n"
        )
    else:
        for said, replied in case.output.transcript:
            sys.stdout.write(f"> {said}\n  {replied}\n")
        for name, passed in checks.items():
            sys.stdout.write(f"{'pass' if passed else 'FAIL'}  {name}\n")
    return 0 if all(checks.values()) else 1
