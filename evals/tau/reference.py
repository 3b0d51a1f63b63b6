"""Where the benchmark's own tools do what no shop may, found by reading and running them.

A gold state made by them holds these results. They are not copied into the shop: a task that
differs in nothing else is counted as matched and listed by the name of the defect, and the
comparison is exact, with the defect's result worked out from ours.

`last_variant`   `modify_pending_order_items` gives every changed item the price and the options of
                 the last one, whatever it is: sunglasses come to cost, and consist of, a suitcase.
                 The money it charges is right.
`refund_of_all`  `cancel_pending_order` refunds every row of the history, refunds too: after a
                 change of payment, money paid once is given back three times.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evals.tau import export
from evals.tau.data import Call, Json, Shop

LAST_VARIANT = "last_variant"
REFUND_OF_ALL = "refund_of_all"


@dataclass(frozen=True, slots=True)
class Step:
    """An accepted call, and its order as it was before."""

    call: Call
    order: Json


def order_with_defects(shop: Shop, steps: Sequence[Step], ours: Json) -> tuple[Json, set[str]]:
    """Return our order as the benchmark's defects would have left it, and which were at work."""
    shown, found = copy.deepcopy(ours), set[str]()
    for step in steps:
        if step.call.name == "modify_pending_order_items":
            items = _last_variant(shop, step)
            same_items = Counter(i["item_id"] for i in items) == Counter(
                i["item_id"] for i in shown["items"]
            )
            if same_items and items != shown["items"]:
                shown["items"] = items
                found.add(LAST_VARIANT)
        elif step.call.name == "cancel_pending_order" and _overpays(step):
            before = step.order["payment_history"]
            shown["payment_history"] = before + [
                {**row, "transaction_type": "refund"} for row in before
            ]
            found.add(REFUND_OF_ALL)
    return shown, found


def user_with_defects(steps: Sequence[Step], ours: Json) -> Json:
    """Return our user with the balances that `refund_of_all` would have left."""
    shown = copy.deepcopy(ours)
    for step in steps:
        if step.call.name == "cancel_pending_order" and _overpays(step):
            for row in step.order["payment_history"]:
                method = shown["payment_methods"].get(row["payment_method_id"], {})
                if "balance" in method:
                    method["balance"] += row["amount"]
            for method_id, held in _held(step.order).items():
                method = shown["payment_methods"].get(method_id, {})
                if "balance" in method:
                    method["balance"] -= held
    return shown


def _overpays(step: Step) -> bool:
    return len(step.order["payment_history"]) > 1


def _held(order: Json) -> Mapping[str, int]:
    held: Counter[str] = Counter()
    for row in order["payment_history"]:
        sign = 1 if row["transaction_type"] == "payment" else -1
        held[row["payment_method_id"]] += sign * row["amount"]
    return held


def _last_variant(shop: Shop, step: Step) -> list[Json]:
    items: list[Json] = copy.deepcopy(step.order["items"])
    old, new = step.call.arguments["item_ids"], step.call.arguments["new_item_ids"]
    last = next(
        product["variants"][new[-1]]
        for product in shop.products.values()
        if new[-1] in product["variants"]
    )
    for item_id, new_item_id in zip(old, new, strict=True):
        item = next(item for item in items if item["item_id"] == item_id)
        item["item_id"] = new_item_id
        item["price"] = export.normal(last["price"], "price")
        item["options"] = export.normal(last["options"])
    return items
