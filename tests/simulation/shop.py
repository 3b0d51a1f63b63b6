"""What happens in a simulated shop, and what a person with a notebook would know of it.

The notebook adds and subtracts whole numbers and knows nothing of rows, states or locks. It is
written only from answers and from what the shop shows afterwards, never from its tables.
"""

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from uuid import UUID

from deps.core import Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tools import (
    capture,
    cart,
    cart_discount,
    checkout,
    credit_desk,
    credit_tender,
    inventory,
    order,
    refund_desk,
    refund_process,
    sale,
    stock,
    transfer,
)
from tools.errors import Conflict, DomainError, NotRefundable, PaymentDeclined, Unavailable
from tools.transfer import TransferUnits
from tools.transfer_step import ReceivedUnits

STOCK = {"MUG": 14, "TEA": 9, "TRAY": 6}
PRICE = 1000
PLACES = ("HAM", "BER")
CUSTOMERS = 4
TAX_PERCENT = 7
CODE, CODE_USES = "TENTH", 4
FAULTS = (
    Fault.TIMEOUT_BEFORE,
    Fault.TIMEOUT_AFTER,
    Fault.DECLINE,
    Fault.WRONG_AMOUNT,
    Fault.SLOW,
    Fault.PENDING,
)


class Crash(Exception):
    """The process died before the commit."""


@dataclass
class Notebook:
    """Units and cents, as they were promised to people."""

    on_shelf: Counter[str] = field(default_factory=lambda: Counter(STOCK))
    on_the_road: Counter[str] = field(default_factory=Counter)
    sold: dict[int, dict[str, int]] = field(default_factory=dict)
    totals: dict[int, int] = field(default_factory=dict)
    reduced: set[int] = field(default_factory=set)
    refunds: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    granted: int = 0

    def sell(self, placed: order.OrderView, units: dict[str, int]) -> None:
        assert placed.status == "placed"
        assert {line.sku: line.quantity for line in placed.lines} == units
        assert placed.subtotal_amount == PRICE * sum(units.values())
        assert placed.discount_amount == (
            placed.subtotal_amount // 10 if placed.discount_code else 0
        )
        untaxed = placed.subtotal_amount - placed.discount_amount + placed.shipping_amount
        assert placed.total_amount == untaxed + (untaxed * TAX_PERCENT + 50) // 100
        if placed.discount_code:
            self.reduced.add(placed.number)
        self.sold[placed.number] = units
        self.totals[placed.number] = placed.total_amount

    def owed_to_us(self) -> int:
        """What all sales that stand brought, less what was given back of them."""
        return sum(self.totals.values()) - sum(
            amount for number, amount in self.refunds.values() if number in self.totals
        )


class Shop:
    def __init__(self, deps: Deps, gateway: ScriptedGateway, rng: random.Random) -> None:
        self.deps, self.gateway, self.rng = deps, gateway, rng
        self.sweeps = 0
        self.book = Notebook()
        self.customers: list[Deps] = []
        self.carts: dict[UUID, tuple[Deps, dict[str, int]]] = {}
        self.waiting: set[UUID] = set()
        self.transfers: dict[UUID, dict[str, int]] = {}

    def at(self, who: Deps) -> Deps:
        return replace(who, clock=self.deps.clock)

    def fail_perhaps(self, chance: float) -> None:
        self.gateway.script.clear()
        if self.rng.random() < chance:
            self.gateway.script.extend([None] * self.rng.randrange(3))
            self.gateway.script.append(self.rng.choice(FAULTS))

    async def open_cart(self) -> None:
        is_guest = self.rng.random() < 0.4
        buyer = (
            factories.guest(self.deps, f"buyer-{self.rng.randrange(10**12):040}")
            if is_guest
            else self.at(self.rng.choice(self.customers))
        )
        units = {sku: self.rng.randint(1, 3) for sku in self.rng.sample(list(STOCK), 2)}
        filled = await factories.filled_cart(buyer, **units)
        if not is_guest and self.rng.random() < 0.6:
            with suppress(DomainError):  # Nothing left to spend.
                await credit_tender.use_in_cart(buyer)
        if self.rng.random() < 0.5:
            with suppress(DomainError):  # Used up, for now.
                await cart_discount.put(buyer, filled.id, CODE)
        self.carts[filled.id] = (buyer, units)

    async def buy(self) -> None:
        if not self.carts:
            return
        cart_id = self.rng.choice(list(self.carts))
        buyer, _ = self.carts[cart_id]
        self.fail_perhaps(0.4)
        token = "tok_3ds" if self.rng.random() < 0.2 else "tok_visa"
        try:
            answer = await checkout.complete(self.at(buyer), cart_id, payment_method=token)
        except (PaymentDeclined, Unavailable, Conflict):
            return
        self._note(cart_id, answer)

    def _note(self, cart_id: UUID, answer: order.OrderView) -> None:
        if answer.status == "pending":
            assert answer.payment_action is not None
            self.waiting.add(cart_id)
            return
        self.book.sell(answer, self.carts.pop(cart_id)[1])
        self.waiting.discard(cart_id)

    async def authenticate(self) -> None:
        """A shopper comes back from their bank, and asks again."""
        for cart_id in sorted(self.waiting):
            buyer, _ = self.carts[cart_id]
            reference = await self.deps.hot.fetchval(
                "SELECT provider_reference FROM payment p JOIN orders o ON o.id = p.order_id"
                " WHERE o.cart_id = $1 AND p.state = 'requires_action'",
                cart_id,
            )
            self.waiting.discard(cart_id)
            if reference is None:
                continue
            self.gateway.finish_action(reference, succeeds=self.rng.random() < 0.7)
            try:
                answer = await checkout.complete(self.at(buyer), cart_id, payment_method="tok_3ds")
            except (PaymentDeclined, Unavailable, Conflict):
                continue
            self._note(cart_id, answer)

    async def cancel(self, merchant: Deps) -> None:
        if not self.book.sold:
            return
        number = self.rng.choice(list(self.book.sold))
        self.fail_perhaps(0.3)
        for _ in range(3):
            try:
                await checkout.cancel(merchant, number, reason="changed their mind")
            except Unavailable:
                self.gateway.script.clear()
                continue
            except Conflict:
                return  # A refund of it is under way.
            break
        del self.book.sold[number]
        del self.book.totals[number]
        self.book.reduced.discard(number)

    async def give_back(self, merchant: Deps) -> None:
        if not self.book.totals:
            return
        number = self.rng.choice(list(self.book.totals))
        self.fail_perhaps(0.3)
        try:
            asked = await refund_desk.request(
                merchant, number, "a scratch", amount=self.rng.randint(1, 900)
            )
        except Conflict:
            return
        # Refused or unanswered, staff try until it is done.
        self.book.refunds[asked.id] = (number, asked.amount)

    async def adjust(self, merchant: Deps) -> None:
        sku, delta = self.rng.choice(list(STOCK)), self.rng.choice([-1, 1, 2])
        try:
            async with merchant.begin() as uow:
                await stock.adjust(uow, sku, "HAM", delta, "count")
                if self.rng.random() < 0.3:
                    raise Crash
        except (Crash, Conflict):
            return
        self.book.on_shelf[sku] += delta

    async def send(self, merchant: Deps) -> None:
        sku, quantity = self.rng.choice(list(STOCK)), self.rng.randint(1, 4)
        source, target = self.rng.sample(PLACES, 2)
        try:
            async with merchant.begin() as uow:
                lines = [TransferUnits(sku=sku, quantity=quantity)]
                made = await transfer.create(uow, source, target, lines)
                await transfer.ship(uow, made.id)
                if self.rng.random() < 0.2:
                    raise Crash
        except (Crash, Conflict):
            return
        self.transfers[made.id] = {sku: quantity}
        self.book.on_shelf[sku] -= quantity
        self.book.on_the_road[sku] += quantity

    async def take_in(self, merchant: Deps) -> None:
        if not self.transfers:
            return
        transfer_id = self.rng.choice(list(self.transfers))
        ((sku, quantity),) = self.transfers[transfer_id].items()
        lost = self.rng.choice([0, 0, 1])
        arrived = ReceivedUnits(sku=sku, received=quantity - lost, lost=lost, reason="broken")
        try:
            async with merchant.begin() as uow:
                await transfer.receive(uow, transfer_id, [arrived])
                if self.rng.random() < 0.2:
                    raise Crash
        except Crash:
            return
        del self.transfers[transfer_id]
        self.book.on_the_road[sku] -= quantity
        self.book.on_shelf[sku] += quantity - lost

    async def grant(self, merchant: Deps) -> None:
        lucky = self.rng.choice(self.customers)
        amount = self.rng.randint(100, 2500)
        async with lucky.begin() as uow:
            email = await uow.fetchval(
                "SELECT email FROM app_user WHERE id = $1", lucky.actor.user_id
            )
        async with merchant.begin() as uow:
            await credit_desk.grant(uow, email, amount, "for your patience")
        self.book.granted += amount

    async def sweep(self) -> None:
        self.gateway.script.clear()
        self.sweeps += 1
        if self.sweeps % 2 == 0:  # No order may be pending for an hour; sweeps are 20 min apart.
            self.gateway.decide()
        await inventory.expire_due(self.deps)
        await sale.resume_stuck(self.deps)
        await refund_process.resume_stuck(self.deps)
        await capture.resume_stuck(self.deps)

    async def settle(self, staff: Deps) -> None:
        """Let time pass until nothing is under way, then note what the sweepers finished."""
        self.deps = factories.later(self.deps, hours=2)
        self.gateway.decide()
        for _ in range(4):
            await self.sweep()
        for row in await self.deps.hot.fetch("SELECT id FROM refund WHERE state = 'failed'"):
            try:
                await refund_desk.retry(self.at(staff), row["id"])
            except NotRefundable:  # Refused before the order was cancelled and all given back.
                assert self.book.refunds[row["id"]][0] not in self.book.totals
        for cart_id, (buyer, units) in list(self.carts.items()):
            late = self.at(buyer)
            async with late.begin() as uow:
                if (await cart.view(uow, cart_id)).status != "completed":
                    continue
                number = await uow.fetchval("SELECT number FROM orders WHERE cart_id = $1", cart_id)
                self.book.sell(await order.get(uow, number), units)
