"""A seeded random shop, with crashes and gateway faults, audited by a model too simple to be wrong.

Reproduce a failure with `SEED=<n> ./shopkeeper test tests/simulation`; widen with `STEPS=<n>`.
"""

import os
import random
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import text

from db.models.user import Role
from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tools import cart, checkout, inventory, order, sale, stock
from tools.errors import Conflict, PaymentDeclined, Unavailable
from tools.invariant import check

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else [1, 2, 3, 4]
STEPS = int(os.environ.get("STEPS", "60"))
STOCK = {"MUG": 9, "TEA": 5, "TRAY": 3}
FAULTS = (
    Fault.TIMEOUT_BEFORE,
    Fault.TIMEOUT_AFTER,
    Fault.DECLINE,
    Fault.WRONG_AMOUNT,
)


class Crash(Exception):
    """The process died before the commit."""


class Shop:
    """The actions, and what a person with a notebook would know of their effect."""

    def __init__(self, deps: Deps, gateway: ScriptedGateway, rng: random.Random) -> None:
        self.deps, self.gateway, self.rng = deps, gateway, rng
        self.stock = Counter(STOCK)
        self.sold: dict[int, dict[str, int]] = {}
        self.carts: dict[str, tuple[Deps, dict[str, int]]] = {}

    async def open_cart(self) -> None:
        buyer = factories.guest(self.deps, f"buyer-{self.rng.randrange(10**12):040}")
        units = {sku: self.rng.randint(1, 3) for sku in self.rng.sample(list(STOCK), 2)}
        filled = await factories.filled_cart(buyer, **units)
        self.carts[str(filled.id)] = (buyer, units)

    async def buy(self) -> None:
        if not self.carts:
            return
        cart_id = self.rng.choice(list(self.carts))
        buyer, units = self.carts[cart_id]
        buyer = replace(buyer, clock=self.deps.clock)
        if self.rng.random() < 0.4:
            self.gateway.script.append(self.rng.choice(FAULTS))
        try:
            async with buyer.begin() as uow:
                view = await cart.view(uow, cart_id)  # type: ignore[arg-type]
            placed = await checkout.complete(buyer, view.id, payment_method="tok_visa")
        except (PaymentDeclined, Unavailable, Conflict):
            self.gateway.script.clear()
            return
        self.gateway.script.clear()
        self._note_sale(placed, units)
        del self.carts[cart_id]

    def _note_sale(self, placed: order.OrderView, units: dict[str, int]) -> None:
        assert placed.status == "placed"
        assert {line.sku: line.quantity for line in placed.lines} == units
        self.sold[placed.number] = units

    async def cancel(self, merchant: Deps) -> None:
        if not self.sold:
            return
        number = self.rng.choice(list(self.sold))
        if self.rng.random() < 0.3:
            self.gateway.script.append(Fault.TIMEOUT_AFTER)
        try:
            await checkout.cancel(merchant, number, reason="changed their mind")
        except Unavailable:
            self.gateway.script.clear()
            await checkout.cancel(merchant, number, reason="changed their mind")
        del self.sold[number]

    async def adjust(self, merchant: Deps) -> None:
        sku, delta = self.rng.choice(list(STOCK)), self.rng.choice([-1, 1, 2])
        try:
            async with merchant.begin() as uow:
                await stock.adjust(uow, sku, "HAM", delta, "count")
                if self.rng.random() < 0.3:
                    raise Crash
        except (Crash, Conflict):
            return
        self.stock[sku] += delta

    async def sweep(self) -> None:
        await inventory.expire_due(self.deps)
        await sale.resume_stuck(self.deps)


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_shop_matches_the_notebook(
    deps: Deps, gateway: ScriptedGateway, seed: int
) -> None:
    rng = random.Random(seed)
    for sku, units in STOCK.items():
        await factories.product(deps, sku, title=sku.title(), price=1000, stock=units)
    shop = Shop(deps, gateway, rng)
    staff = await factories.user(deps, role=Role.MERCHANT)
    for step in range(STEPS):
        shop.deps = factories.later(deps, minutes=4 * step)
        merchant = replace(staff, clock=shop.deps.clock)
        action = rng.choice(["cart", "cart", "buy", "buy", "buy", "cancel", "adjust", "sweep"])
        if action == "cart":
            await shop.open_cart()
        elif action == "buy":
            await shop.buy()
        elif action == "cancel":
            await shop.cancel(merchant)
        elif action == "adjust":
            await shop.adjust(merchant)
        else:
            await shop.sweep()
        assert await check(shop.deps) == [], f"{seed=} {step=} {action}"
    await settle(shop)
    await audit(shop, gateway, seed)


async def settle(shop: Shop) -> None:
    """Let time pass until nothing is under way, then note what the sweeper finished."""
    shop.deps = factories.later(shop.deps, hours=2)
    for _ in range(3):
        await shop.sweep()
    for cart_id, (buyer, units) in list(shop.carts.items()):
        late = replace(buyer, clock=shop.deps.clock)
        async with late.begin() as uow:
            status = (await cart.view(uow, cart_id)).status  # type: ignore[arg-type]
        if status == "completed":
            async with late.begin() as uow:
                (number,) = [
                    o.number for o in (await order.list_mine(uow)).items if o.status == "placed"
                ]
                shop._note_sale(await order.get(uow, number), units)


async def audit(shop: Shop, gateway: ScriptedGateway, seed: int) -> None:
    assert await check(shop.deps) == [], f"{seed=}"
    allocated: Counter[str] = Counter()
    for units in shop.sold.values():
        allocated.update(units)
    async with shop.deps.begin() as uow:
        levels = await uow.session.execute(
            text("SELECT sku, on_hand, reserved, allocated FROM stock_level")
        )
        found = {row.sku: (row.on_hand, row.reserved, row.allocated) for row in levels}
        revenue = await uow.session.execute(
            text("SELECT coalesce(sum(total_amount), 0) FROM orders WHERE status = 'placed'")
        )
        charged = revenue.scalar_one()
        placed = await uow.session.execute(
            text("SELECT count(*) FROM outbox WHERE type = 'OrderPlaced'")
        )
        assert placed.scalar_one() > 0, f"{seed=} sold nothing: the run proves nothing"
    assert found == {sku: (shop.stock[sku], 0, allocated[sku]) for sku in STOCK}, f"{seed=}"
    assert sum(gateway.charges.values()) == charged, f"{seed=}"
