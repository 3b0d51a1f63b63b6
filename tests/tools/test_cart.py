"""Carts: whose they are, what they hold and what they still need."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from db.types import new_id
from deps.core import Actor, Deps
from deps.scripted import Fault, ScriptedGateway
from tests import factories
from tools import cart, cart_delivery, checkout, credit_tender
from tools.address import Address
from tools.errors import Conflict, InvalidInput, NotFound, PaymentDeclined, Unavailable


async def test_adding_twice_sums_and_zero_removes(guest: Deps) -> None:
    await factories.product(guest, "MUG", price=1000, stock=10)
    async with guest.begin() as uow:
        await cart.add_item(uow, "MUG", 2)
        view = await cart.add_item(uow, "MUG", 3)
        assert [(line.sku, line.quantity) for line in view.lines] == [("MUG", 5)]
        assert view.subtotal_amount == 5000
        assert (await cart.change_item(uow, "MUG", 1)).lines[0].quantity == 1
        assert (await cart.remove_item(uow, "MUG")).lines == []


async def test_what_brings_a_line_back_knows_whether_there_was_one(guest: Deps) -> None:
    for sku in ("MUG", "TEA"):
        await factories.product(guest, sku, title=sku.title(), stock=10)
    async with guest.begin() as uow:
        opened = await cart.add_item(uow, "TEA", 2)
        back = {sku: await cart.held(uow, sku) for sku in ("MUG", "TEA")}
    assert back == {
        "MUG": {"sku": "MUG", "quantity": 0, "cart": str(opened.id)},
        "TEA": {"sku": "TEA", "quantity": 2, "cart": str(opened.id)},
    }


async def test_messages_at_once_share_one_cart_and_lose_nothing(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=100)

    async def add() -> None:
        async with guest.begin() as uow:
            await cart.add_item(uow, "MUG", 1)

    await asyncio.gather(*(add() for _ in range(20)))
    async with guest.begin() as uow:
        assert (await cart.current(uow)).lines[0].quantity == 20


@pytest.mark.parametrize("quantity", [0, -1, 1000, 10**9])
async def test_quantities_are_bounded(guest: Deps, quantity: int) -> None:
    await factories.product(guest, "MUG", stock=10)
    with pytest.raises(InvalidInput) as refused:
        async with guest.begin() as uow:
            await cart.add_item(uow, "MUG", quantity)
    assert refused.value.field == "quantity"


async def test_a_line_holds_just_as_many_as_it_may(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=10)
    async with guest.begin() as uow:
        assert (await cart.add_item(uow, "MUG", cart.QUANTITY_MAX)).lines[0].quantity == 999
        await cart.remove_item(uow, "MUG")
        assert (await cart.change_item(uow, "MUG", 999)).lines[0].quantity == 999
        with pytest.raises(InvalidInput):
            await cart.change_item(uow, "MUG", 1000)


async def test_a_guests_cart_comes_along_when_they_sign_in(guest: Deps, customer: Deps) -> None:
    await factories.product(guest, "MUG", stock=10)
    async with guest.begin() as uow:
        opened = await cart.add_item(uow, "MUG", 2)
    secret = guest.actor.guest_secret_sha256
    signed_in = customer.acting_as(replace(customer.actor, guest_secret_sha256=secret))
    async with signed_in.begin() as uow:
        assert (await cart.current(uow)).id == opened.id
    async with guest.begin() as uow:
        with pytest.raises(NotFound):
            await cart.view(uow, opened.id)


async def test_shipping_is_free_from_sixty(guest: Deps) -> None:
    await factories.product(guest, "MUG", price=3000, stock=10)
    assert (await factories.filled_cart(guest, MUG=1)).shipping_amount == 490
    assert (await factories.filled_cart(guest, MUG=2)).shipping_amount == 0


async def test_express_is_never_free(guest: Deps) -> None:
    await factories.product(guest, "MUG", price=30_000, stock=10)
    filled = await factories.filled_cart(guest, MUG=1)
    async with guest.begin() as uow:
        fast = await cart.set_details(uow, filled.id, shipping_method="express")
    assert filled.shipping_amount == 0
    assert fast.shipping_amount > 0
    assert fast.total_amount == 30_000 + fast.shipping_amount


async def test_a_cart_adds_up_and_says_what_it_needs(guest: Deps) -> None:
    await factories.product(guest, "MUG", price=1000, stock=2)
    await factories.product(guest, "TEA", title="Tea", price=250, stock=5)
    async with guest.begin() as uow:
        empty = await cart.create(uow)
        assert [problem.field for problem in empty.problems] == [
            "lines",
            "email",
            "shipping_address",
            "shipping_method",
        ]
        assert (empty.problems[0].code, empty.total_amount) == ("empty", 0)
    full = await factories.filled_cart(guest, MUG=2, TEA=3)
    assert full.problems == [], "the last two mugs can be bought"
    assert {line.sku: line.total_amount for line in full.lines} == {"MUG": 2000, "TEA": 750}
    assert (full.subtotal_amount, full.total_amount) == (2750, 2750 + 490)


@pytest.mark.parametrize("change", ["is_active = false", "currency = 'USD'"])
async def test_what_is_no_longer_sold_so_is_a_problem_that_names_the_line(
    guest: Deps, change: str
) -> None:
    for sku in ("MUG", "TEA"):
        await factories.product(guest, sku, title=sku.title(), stock=5)
    filled = await factories.filled_cart(guest, MUG=1, TEA=1)
    async with guest.begin() as uow:
        await uow.fetch(f"UPDATE variant SET {change} WHERE sku = 'TEA'")
    async with guest.begin() as uow:
        (problem,) = (await cart.view(uow, filled.id)).problems
    assert (problem.code, problem.field) == ("not_on_sale", "lines.TEA")
    assert problem.message == "Tea is not on sale."


async def test_a_guest_s_carts_stay_apart(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=5)
    first = await factories.filled_cart(guest, MUG=1)
    second = await factories.filled_cart(guest, MUG=2)
    async with guest.begin() as uow:
        assert (await cart.current(uow)).id == second.id
        assert (await cart.view(uow, first.id)).status == "open"


async def test_too_few_in_stock_is_a_problem_that_names_the_line(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=1)
    problems = (await factories.filled_cart(guest, MUG=2)).problems
    assert [(p.code, p.field) for p in problems] == [("out_of_stock", "lines.MUG")]


async def test_a_bought_cart_can_not_be_changed(guest: Deps) -> None:
    await factories.product(guest, "MUG", stock=5)
    filled = await factories.filled_cart(guest, MUG=1)
    await checkout.complete(guest, filled.id, payment_method="tok_visa")
    with pytest.raises(Conflict):
        async with guest.begin() as uow:
            await cart.set_quantity(uow, filled.id, "MUG", 4)
    with pytest.raises(Conflict, match="has been checked out"):
        await credit_tender.choose(guest, filled.id, codes=[], uses_account=False)


async def test_a_sale_closes_and_opens_its_own_cart_alone(
    guest: Deps, gateway: ScriptedGateway
) -> None:
    await factories.product(guest, "MUG", stock=9)
    carts = [await factories.filled_cart(guest, MUG=1) for _ in range(4)]
    _, bought, late, declined = [filled.id for filled in carts]
    await checkout.complete(guest, bought, payment_method="tok_visa")
    gateway.script.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(Unavailable):
        await checkout.complete(guest, late, payment_method="tok_visa")
    await checkout.complete(guest, late, payment_method="tok_visa")
    with pytest.raises(PaymentDeclined):
        await checkout.complete(guest, declined, payment_method="tok_declined")
    async with guest.begin() as uow:
        states = [(await cart.view(uow, filled.id)).status.value for filled in carts]
    assert states == ["open", "completed", "completed", "open"]


async def test_a_cart_is_its_owner_s_and_nobody_s_without_one(deps: Deps, guest: Deps) -> None:
    nobody = deps.acting_as(Actor(scopes=guest.actor.scopes))
    opened = await factories.filled_cart(guest)
    for work in (cart.create, cart.current):
        with pytest.raises(InvalidInput) as refused:
            async with nobody.begin() as uow:
                await work(uow)
        assert refused.value.field == "X-Guest-Token"
    stranger = factories.guest(deps, "the-token-of-another-shopper-0123456789")
    for other, cart_id in ((nobody, opened.id), (stranger, opened.id), (guest, new_id())):
        with pytest.raises(NotFound):
            async with other.begin() as uow:
                await cart.access(uow, cart_id)
    async with guest.begin() as uow:
        assert (await cart.access(uow, opened.id)).id == opened.id


DELIVERY: dict[str, Any] = {
    "email": "ada@example.com",
    "name": "Ada",
    "line1": "12 Quay Street",
    "postal_code": "20457",
    "city": "Hamburg",
    "country_code": "de",
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "nonsense"),
        ("name", " "),
        ("line1", "x" * 201),
        ("city", "x" * 101),
        ("postal_code", "2" * 21),
        ("country_code", "Germany"),
        ("country_code", "D1"),
        ("country_code", "ÄÖ"),
        ("country_code", "ß"),
        ("shipping_method", "teleport"),
    ],
)
async def test_a_bad_address_names_its_field(guest: Deps, field: str, value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        async with guest.begin() as uow:
            await cart_delivery.deliver_to(uow, **(DELIVERY | {field: value}))
    assert refused.value.field == field


async def test_the_longest_and_the_shortest_address_is_taken(guest: Deps) -> None:
    longest = {"name": "A", "line1": "x" * 200, "city": "y" * 100, "postal_code": "2" * 20}
    async with guest.begin() as uow:
        view = await cart_delivery.deliver_to(uow, **(DELIVERY | longest))
        assert view.shipping_address is not None
        assert longest.items() <= view.shipping_address.model_dump().items()
        named = await cart.set_details(uow, view.id, email="other@example.com")
    assert (named.email, named.shipping_address) == ("other@example.com", view.shipping_address)
    assert named.shipping_method == view.shipping_method == "standard"


async def test_delivery_is_kept(guest: Deps) -> None:
    async with guest.begin() as uow:
        view = await cart_delivery.deliver_to(uow, **DELIVERY)
    assert view.shipping_address is not None
    assert view.shipping_address.country_code == "DE"
    assert [problem.code for problem in view.problems] == ["empty"]


async def test_delivery_is_said_in_pieces(guest: Deps) -> None:
    place = {part: DELIVERY[part] for part in ("line1", "postal_code", "city", "country_code")}
    async with guest.begin() as uow:
        view = await cart_delivery.deliver_to(uow, email="ada@example.com")
        assert (view.email, view.shipping_address, view.shipping_method) == (
            "ada@example.com", None, None,
        )  # fmt: skip
        view = await cart_delivery.deliver_to(uow, shipping_method="pickup")
        assert (view.email, view.shipping_method) == ("ada@example.com", "pickup")
        view = await cart_delivery.deliver_to(uow, name="Ada", **place)
        assert (view.shipping_address, view.shipping_method) == (
            Address.model_validate({"name": "Ada"} | place | {"country_code": "DE"}), "pickup",
        )  # fmt: skip
        elsewhere = place | {"line1": "3 Mole Lane"}
        view = await cart_delivery.deliver_to(uow, **elsewhere)
        assert view.shipping_address is not None
        assert (view.shipping_address.name, view.shipping_address.line1) == ("Ada", "3 Mole Lane")


async def test_another_name_keeps_the_place(guest: Deps) -> None:
    full = factories.ADDRESS.model_copy(update={"line2": "c/o Babbage", "region": "HH"})
    async with guest.begin() as uow:
        opened = await cart.create(uow)
        await cart.set_details(uow, opened.id, shipping_address=full)
        view = await cart_delivery.deliver_to(uow, name="Grace Hopper")
    assert view.shipping_address == full.model_copy(update={"name": "Grace Hopper"})


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "email"),
        ({"name": "Ada"}, "line1"),
        ({"line1": "12 Quay Street"}, "name"),
        ({"name": "Ada", "line1": "12 Quay Street", "city": "Hamburg"}, "postal_code"),
        (
            {"name": "Ada", "line1": "12 Quay Street", "city": "Hamburg", "postal_code": "20457"},
            "country_code",
        ),
    ],
)
async def test_half_an_address_is_none(guest: Deps, said: dict[str, str], field: str) -> None:
    async with guest.begin() as uow:
        with pytest.raises(InvalidInput) as refused:
            await cart_delivery.deliver_to(uow, **said)
        assert refused.value.field == field
        assert (await cart.current(uow)).shipping_address is None


async def test_who_signs_in_finds_both_carts_in_one(deps: Deps, client: httpx.AsyncClient) -> None:
    await factories.product(deps, "MUG", stock=2000)
    await factories.product(deps, "TEA", stock=10)
    await client.post(
        "/v1/auth/register",
        json={"email": "ada@example.com", "password": "a long passphrase", "name": "Ada"},
    )
    guest = (await client.post("/v1/carts")).json()["id"]
    await client.post(f"/v1/carts/{guest}/lines", json={"sku": "MUG", "quantity": 999})
    await client.post(f"/v1/carts/{guest}/lines", json={"sku": "TEA", "quantity": 2})
    credentials = {"email": "ada@example.com", "password": "a long passphrase"}
    elsewhere = {"X-Guest-Token": "the-token-of-another-device-0123456789"}
    first = (await client.post("/v1/auth/login", json=credentials, headers=elsewhere)).json()
    there = {"Authorization": f"Bearer {first['access_token']}", **elsewhere}
    own = (await client.get("/v1/carts/current", headers=there)).json()["id"]
    await client.post(f"/v1/carts/{own}/lines", json={"sku": "MUG", "quantity": 3}, headers=there)

    for _ in range(2):  # Signing in again changes nothing more.
        assert (await client.post("/v1/auth/login", json=credentials)).status_code == 200
    merged = (await client.get("/v1/carts/current", headers=there)).json()
    assert merged["id"] == own
    assert {x["sku"]: x["quantity"] for x in merged["lines"]} == {"MUG": 999, "TEA": 2}
    assert (await client.get(f"/v1/carts/{guest}")).json()["status"] == "merged"
    refused = await client.post(f"/v1/carts/{guest}/lines", json={"sku": "MUG", "quantity": 1})
    assert refused.status_code == 409
