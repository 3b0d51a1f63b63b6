"""The benchmark's own calls and sequences against our operations, when its data is on this machine.

The replay of whole tasks with their mutations is `./shopkeeper eval tau`.
"""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from db.types import new_id
from deps import postgres
from deps.core import Deps
from deps.embedded_postgres import EmbeddedPostgres
from deps.runtime import open_deps
from deps.settings import Settings
from evals.tau import data, export, names, replay
from evals.tau.adapter import TOOLS, Refused, Tools
from evals.tau.data import Call, Shop, Task
from evals.tau.export import Names
from evals.tau.lab import Lab
from evals.tau.mutations import mutated, permuted
from evals.tau.reference import Step, order_with_defects
from tools import invariant

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
DATA = Path(os.environ.get("SHOPKEEPER_DATA", SHARED)) / "tau_retail"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the benchmark is not at {DATA}")
SOME = int(os.environ.get("SHOPKEEPER_TAU_SOME", "120"))  # Of the calls and sequences, each.

MUG = {"item_id": "1", "options": {"color": "blue"}, "available": True, "price": 5.1}
CUP = {"item_id": "2", "options": {"color": "red"}, "available": True, "price": 6.3}
GONE = {"item_id": "3", "options": {"color": "gold"}, "available": False, "price": 9.0}
SMALL = Shop(
    products={
        "77": {"name": "Mug", "product_id": "77", "variants": {"1": MUG, "2": CUP, "3": GONE}}
    },
    users={
        "ada_1": {
            "user_id": "ada_1",
            "name": {"first_name": "Ada", "last_name": "Byron"},
            "address": {
                "address1": "1 Main Street",
                "address2": "",
                "city": "Denver",
                "country": "USA",
                "state": "CO",
                "zip": "80279",
            },
            "email": "ada@example.com",
            "payment_methods": {
                "gift_card_1": {"source": "gift_card", "id": "gift_card_1", "balance": 3.0},
                "paypal_1": {"source": "paypal", "id": "paypal_1"},
            },
            "orders": ["#W0000007"],
        },
        "bob_2": {
            "user_id": "bob_2",
            "name": {"first_name": "Bob", "last_name": "Moore"},
            "address": {
                "address1": "2 Main Street",
                "address2": "Suite 1",
                "city": "Denver",
                "country": "USA",
                "state": "CO",
                "zip": "80279",
            },
            "email": "bob@example.com",
            "payment_methods": {"paypal_2": {"source": "paypal", "id": "paypal_2"}},
            "orders": [],
        },
    },
    orders={
        "#W0000007": {
            "order_id": "#W0000007",
            "user_id": "ada_1",
            "address": {
                "address1": "1 Main Street",
                "address2": "",
                "city": "Denver",
                "country": "USA",
                "state": "CO",
                "zip": "80279",
            },
            "items": [
                {
                    "name": "Mug",
                    "product_id": "77",
                    "item_id": "1",
                    "price": 5.1,
                    "options": {"color": "blue"},
                }
            ],
            "status": "pending",
            "fulfillments": [],
            "payment_history": [
                {"transaction_type": "payment", "amount": 5.1, "payment_method_id": "paypal_1"}
            ],
        }
    },
)


@pytest.fixture(scope="module")
async def lab(server: EmbeddedPostgres) -> AsyncGenerator[Lab, None]:
    """The small shop of this file."""
    async with _lab(server, SMALL) as made:
        yield made


@pytest.fixture(scope="module")
async def retail(server: EmbeddedPostgres) -> AsyncGenerator[tuple[Lab, Shop], None]:
    """The benchmark's shop."""
    shop = data.shop(DATA)
    async with _lab(server, shop) as made:
        yield made, shop


class _lab:
    def __init__(self, server: EmbeddedPostgres, shop: Shop) -> None:
        self.url, self.shop = server.dsn(f"tau_{new_id().hex}"), shop

    async def __aenter__(self) -> Lab:
        await postgres.ensure_database(self.url)
        settings = Settings(_env_file=None)
        async with open_deps(settings, database_url=self.url, redis_url=None) as deps:
            self.made = Lab.beside(deps)
            await self.made.build(self.shop)
        return self.made

    async def __aexit__(self, *_: object) -> None:
        await self.made.close()
        await postgres.drop_database(self.url)


def modify(new: str = "2", method: str = "paypal_1") -> Call:
    return Call(
        "modify_pending_order_items",
        {
            "order_id": "#W0000007",
            "item_ids": ["1"],
            "new_item_ids": [new],
            "payment_method_id": method,
        },
    )


def tools(deps: Deps, user_id: str = "ada_1") -> Tools:
    return Tools(deps, Names.of(SMALL), user_id)


async def test_the_imported_shop_is_the_benchmarks_and_holds_every_invariant(lab: Lab) -> None:
    async with lab.shop() as deps:
        orders = await export.orders(deps, Names.of(SMALL))
        users = await export.users(deps, Names.of(SMALL))
        assert await invariant.check(deps) == []

    for found, given in ((orders, SMALL.orders), (users, SMALL.users)):
        assert {key: export.compact(row) for key, row in found.items()} == {
            key: export.normal(row) for key, row in given.items()
        }


async def test_reads_answer_as_the_benchmarks_tools_do(lab: Lab) -> None:
    async with lab.shop() as deps:
        ada = tools(deps)
        assert await ada("find_user_id_by_email", {"email": "Ada@example.com"}) == "ada_1"
        named = {"first_name": "bob", "last_name": "MOORE", "zip": "80279"}
        assert await ada("find_user_id_by_name_zip", named) == "bob_2"
        assert await ada("list_all_product_types", {}) == '{"Mug": "77"}'
        assert await ada("get_product_details", {"product_id": "77"}) == SMALL.products["77"]
        assert await ada("get_item_details", {"item_id": "3"}) == GONE
        shown = await ada("get_order_details", {"order_id": "#W0000007"})
        assert {k: v for k, v in shown.items() if v is not None} == SMALL.orders["#W0000007"]
        assert await ada("get_user_details", {"user_id": "ada_1"}) == SMALL.users["ada_1"]
        assert await ada("calculate", {"expression": "(5.1 + 6.3) / 2"}) == "5.7"
        assert await ada("think", {"thought": "hm"}) == ""
        handed = await ada("transfer_to_human_agents", {"summary": "wants a discount"})
        assert handed == "Transfer successful"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("get_order_details", {"order_id": "#W0000008"}, "Order not found"),
        ("get_order_details", {"order_id": "seven"}, "Order not found"),
        ("get_product_details", {"product_id": "1"}, "Product not found"),
        ("get_item_details", {"item_id": "77"}, "Item not found"),
        ("get_user_details", {"user_id": "bob_2"}, "User not found"),
        ("find_user_id_by_email", {"email": "x@example.com"}, "User not found"),
        ("calculate", {"expression": "__import__('os')"}, "Invalid characters in expression"),
        ("calculate", {"expression": "1/0"}, "Invalid expression"),
        ("cancel_pending_order", {"order_id": "#W0000007", "reason": "bored"}, "Invalid reason"),
        (modify("3").name, modify("3").arguments, "New item 3 not found or available"),
        (modify("1").name, modify("1").arguments, "The new item id should be different"),
        (modify(method="paypal_2").name, modify(method="paypal_2").arguments, "Payment method not"),
    ],
)
async def test_refusals_say_what_the_benchmark_says(
    lab: Lab, name: str, arguments: dict[str, object], said: str
) -> None:
    async with lab.shop() as deps:
        with pytest.raises(Refused) as refusal:
            await tools(deps)(name, arguments)

    assert str(refusal.value).startswith(said)


async def test_a_gold_state_that_is_wrong_does_not_match(lab: Lab) -> None:
    order = {
        **SMALL.orders["#W0000007"],
        "status": "pending (item modified)",
        "items": [
            {
                "name": "Mug",
                "product_id": "77",
                "item_id": "2",
                "price": 6.3,
                "options": {"color": "red"},
            }
        ],
        "payment_history": [
            *SMALL.orders["#W0000007"]["payment_history"],
            {"transaction_type": "payment", "amount": 1.2, "payment_method_id": "gift_card_1"},
        ],
    }
    user = {
        **SMALL.users["ada_1"],
        "payment_methods": {
            **SMALL.users["ada_1"]["payment_methods"],
            "gift_card_1": {"source": "gift_card", "id": "gift_card_1", "balance": 1.8},
        },
    }
    call = Call(modify().name, modify(method="gift_card_1").arguments, is_ok=True)
    right = Task("right", "ada_1", [call], {"#W0000007": order}, {"ada_1": user})
    wrong = [
        Task("cent", "ada_1", [call], {"#W0000007": order}, {}),
        Task("kept", "ada_1", [call], {}, {"ada_1": user}),
        Task(
            "said",
            "ada_1",
            [Call(call.name, call.arguments, is_ok=False)],
            right.orders,
            right.users,
        ),
    ]

    for task, is_matched in ((right, True), *((task, False) for task in wrong)):
        (outcome,), broken = await replay.plain(lab, SMALL, [task])
        assert (outcome.is_matched, broken) == (is_matched, []), outcome.differences


async def test_mutations_are_tried_and_leave_the_gold_state(lab: Lab) -> None:
    cancel = {"order_id": "#W0000007", "reason": "ordered by mistake"}
    task = Task("t", "ada_1", [modify(), Call("cancel_pending_order", cancel)], {}, {})
    outcomes, _ = await replay.plain(lab, SMALL, [task])

    report = await mutated(lab, SMALL, outcomes)

    assert (report.failures, report.broken) == ([], [])
    assert dict(report.tried) == {
        "another_user": 1,
        "unconfirmed": 1,
        "eight_at_once": 1,
        "twice": 1,
        "refused_again": 1,
    }


def test_items_are_permuted_with_what_they_become() -> None:
    given = {"item_ids": ["a", "b", "c"], "new_item_ids": ["x", "y", "z"]}
    pairs = set(zip(given["item_ids"], given["new_item_ids"], strict=True))

    for seed in range(8):
        shuffled = permuted(given, seed)
        assert set(zip(shuffled["item_ids"], shuffled["new_item_ids"], strict=True)) == pairs


def test_a_defect_of_the_benchmark_explains_nothing_else() -> None:
    items = [
        {"item_id": "1", "price": 510, "options": {}},
        {"item_id": "9", "price": 5, "options": {}},
    ]
    call = Call("modify_pending_order_items", {"item_ids": ["1"], "new_item_ids": ["2"]})
    ours = {"items": [{"item_id": "2", "price": 631, "options": {"color": "red"}}, items[1]]}

    shown, found = order_with_defects(SMALL, [Step(call, {"items": items})], ours)

    assert found == {"last_variant"}
    assert shown["items"][0] == {"item_id": "2", "price": 630, "options": {"color": "red"}}


def test_names_lead_back() -> None:
    assert names.order_number("#W0000007") == 7
    assert names.order_id(7) == "#W0000007"
    assert names.order_number("W7") is None
    assert names.country(names.country_code("USA")) == "USA"
    assert names.cents(14.739999999999952) == 1474
    assert len(TOOLS) == 17


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("file", ["single_calls", "sequences"])
async def test_calls_do_what_the_benchmarks_tools_do(retail: tuple[Lab, Shop], file: str) -> None:
    lab, shop = retail
    tasks = data.tasks(DATA / f"tau2_retail_differential_{file}.jsonl.gz")[:SOME]
    outcomes: list[replay.Outcome] = []
    for part in replay.batches(shop, tasks):
        found, broken = await replay.plain(lab, shop, part)
        assert broken == []
        outcomes += found

    assert {o.task.id: o.differences for o in outcomes if o.differences} == {}
    counted = replay.counts(outcomes)
    assert counted["refused"] == counted["must_refuse"] > 0
