"""What size costs: ever more SKUs in the shop, lines in a cart, past orders in the books.

Example: ./shopkeeper bench growth --sizes 1000,100000,1000000 --lines 1,10,100 --orders 0,1000000

Nothing is cached: each figure is one operation asking PostgreSQL, one after the other, in
milliseconds. What should not grow with SKUs or orders is what a shopper, staff or the worker waits
for; a word that a thousandth of the titles share has a thousandth of the shop to rank, and the
sales of thirty days have the orders of thirty days to add up. Lines and orders are measured in the
shop of the last size.
"""

import sys
from typing import Any, Final

import orjson

from bench import load
from bench.growth import lines as cart_lines
from bench.growth import orders as past_orders
from bench.growth import skus
from deps.core import SYSTEM, Deps

SLOW: Final = True
SIZES: Final = "1000,100000"
LINES: Final = "1,10,100"
ORDERS: Final = "0,100000"


async def main(
    deps: Deps,
    *,
    sizes: str = SIZES,
    lines: str = LINES,
    orders: str = ORDERS,
    as_json: bool = False,
) -> int:
    """Grow the shop step by step and measure each. Return 1 for a bad list of sizes.

    Args:
        sizes: SKUs of the shop, as in "1000,100000".
        lines: Lines of a cart, 1 to 100 and no more than there are SKUs.
        orders: Orders of the past year, beside those that measuring places.
    """
    try:
        steps = _steps("sizes", sizes, 1), _steps("lines", lines, 1), _steps("orders", orders, 0)
        cart_lines.check(steps[1], steps[0][-1])
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    staff = deps.acting_as(SYSTEM)
    location_id = await skus.open_shop(staff)
    report: dict[str, list[dict[str, Any]]] = {"sizes": [], "lines": [], "orders": []}
    size = 0
    for more in steps[0]:
        await skus.grow(staff, location_id, size, more)
        size = more
        report["sizes"].append({"skus": size, **await skus.measure(deps, size)})
    for count in steps[1]:
        report["lines"].append({"lines": count, **await cart_lines.measure(deps, count, size)})
    past = 0
    for more in steps[2]:
        await past_orders.grow(staff, location_id, past, more, size)
        past = more
        report["orders"].append({"orders": past, **await past_orders.measure(deps, size)})
    sys.stdout.write(orjson.dumps(report).decode() + "\n" if as_json else _tables(report))
    return 0


def _steps(name: str, given: str, least: int) -> list[int]:
    try:
        steps = sorted(int(step) for step in given.split(","))
    except ValueError:
        steps = []
    if not steps or steps[0] < least:
        example = {"sizes": SIZES, "lines": LINES, "orders": ORDERS}[name]
        raise ValueError(f"--{name} is a list of whole numbers from {least}, as in {example}")
    return steps


def _tables(report: dict[str, list[dict[str, Any]]]) -> str:
    tables = [load.table(_turned(rows)) for rows in report.values()]
    return "\n".join(tables) + "milliseconds at the median, one at a time, uncached\n"


def _turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make each operation a row, with a column for each size: there are more of the former."""
    first, *operations = rows[0]
    return [
        {first: operation, **{str(row[first]): row[operation] for row in rows}}
        for operation in operations
    ]
