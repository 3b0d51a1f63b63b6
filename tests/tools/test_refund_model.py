"""Random refunds of random orders, with a provider that fails, kept in a notebook.

Reproduce a failure with `SEED=<n> pytest tests/tools/test_refund_model.py`; widen with `STEPS=<n>`.
"""

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import text

from db.models.order import Order
from db.models.refund import Refund, RefundState
from db.models.user import Role
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tools import (
    cart_discount,
    checkout,
    credit_code,
    credit_desk,
    credit_tender,
    refund,
    refund_process,
)
from tools.errors import NotRefundable, Unavailable
from tools.invariant import check
from tools.order import OrderView
from tools.refund_share import Breakdown

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else [1, 2, 3, 4, 5, 6]
STEPS = int(os.environ.get("STEPS", "14"))
PRICES = {"MUG": 1_249, "TEA": 333, "TRAY": 1}
CURRENCIES = ("EUR", "JPY", "KWD")  # With cents, without, and with mills.
FAULTS = (Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER, Fault.DECLINE)


async def buy(customer: Deps, staff: Deps, rng: random.Random) -> OrderView:
    units = {sku: rng.randint(1, 4) for sku in rng.sample(list(PRICES), rng.randint(1, 3))}
    filled = await factories.filled_cart(customer, **units)
    term = rng.choice(["percent", "amount"])
    await factories.discount(staff, "SALE", **{term: rng.randint(1, 99)})
    if rng.random() < 0.7:
        await cart_discount.put(customer, filled.id, "SALE")
    codes = []
    for _ in range(rng.randint(0, 2)):
        async with staff.begin() as uow:
            card = await credit_desk.issue_gift_card(uow, rng.randint(1, 400))
            codes.append((await credit_code.reveal(uow, card.id)).code)
    await credit_tender.choose(customer, filled.id, codes=codes, uses_account=False)
    return await checkout.complete(customer, filled.id, payment_method="tok_visa")


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_notebook_agrees(deps: Deps, gateway: ScriptedGateway, seed: int) -> None:
    rng = random.Random(seed)
    currency = CURRENCIES[seed % len(CURRENCIES)]
    deps = replace(deps, settings=deps.settings.model_copy(update={"currency": currency}))
    rate = f"{rng.choice([0, rng.randint(1, 2_500)]) / 100:.2f}"
    customer = factories.taxed(await factories.user(deps), DE=rate)
    for sku, price in PRICES.items():
        await factories.product(deps, sku, price=price, stock=100, title=sku)
    staff = await factories.user(deps, role=Role.MERCHANT)
    placed = await buy(customer, staff, rng)
    assert placed.currency == currency
    left_units = Counter({line.sku: line.quantity for line in placed.lines})
    reserved = 0  # In minor units: what refunds took that did not fail.

    async def ask(**asked: object) -> Refund | None:
        try:
            async with staff.begin() as uow:
                of = await uow.session.get_one(Order, placed.id)
                return await refund.request(uow, of, reason="x", **asked)  # type: ignore[arg-type]
        except NotRefundable:
            return None

    async def pay(asked: Refund) -> Refund:
        gateway.script.extend(rng.choices([None, None, *FAULTS], k=rng.randint(0, 2)))
        try:
            done = await refund_process.drive(staff, asked.id)
        except Unavailable:
            gateway.script.clear()
            done = await refund_process.drive(staff, asked.id)
        gateway.script.clear()
        while done.state is RefundState.FAILED:
            async with staff.begin() as uow:
                await refund.reopen(uow, done.id)
            done = await refund_process.drive(staff, done.id)
        return done

    for _ in range(STEPS):
        left = placed.total_amount - reserved
        to = rng.choice(["original", "original", "store_credit"])
        kind = rng.choice(["lines", "amount", "too much"])
        if kind == "lines":
            lines = {s: n for s, n in ((s, rng.randint(0, q)) for s, q in left_units.items()) if n}
            asked = await ask(lines=lines, to=to)
            if asked is not None:
                left_units -= Counter(lines)
        elif kind == "amount":
            asked = await ask(amount=rng.randint(1, max(1, left // 2)), to=to)
        else:
            assert await ask(amount=left + 1, to=to) is None
            continue
        if asked is None:
            assert left == 0 or kind == "lines"
            continue
        reserved += asked.amount
        assert reserved <= placed.total_amount
        assert (await pay(asked)).state is RefundState.SUCCEEDED
        assert await check(deps) == []
    rest = await ask()
    if rest is not None:
        reserved += (await pay(rest)).amount
    assert reserved == placed.total_amount
    assert await check(deps) == []
    await whole(deps, placed)


async def whole(deps: Deps, placed: OrderView) -> None:
    """Given back in pieces, an order is given back to the cent, in every account and share."""
    async with deps.begin() as uow:
        of = await uow.session.get_one(Order, placed.id)
        assert of.payment_status == "refunded"
        rows = await uow.session.execute(
            text("SELECT account, sum(amount) FROM ledger_entry WHERE order_id = :id GROUP BY 1"),
            {"id": placed.id},
        )
        books = {account: int(amount) for account, amount in rows}
        breakdowns = await uow.session.execute(text("SELECT breakdown FROM refund"))
        shares = [Breakdown.model_validate(row.breakdown) for row in breakdowns]
    assert books.get("revenue", 0) + books.get("refunds", 0) == 0
    assert books.get("shipping_revenue", 0) == books.get("tax_payable", 0) == 0
    assert sum(share.tax_amount for share in shares) == of.tax_amount
    assert sum(share.shipping_amount for share in shares) == of.shipping_amount
    goods = of.subtotal_amount - of.discount_amount
    assert sum(share.goods_amount for share in shares) == goods
