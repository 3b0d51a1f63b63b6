"""What lines cost: reading a cart of ever more, adding one more, and buying it."""

import itertools
from collections.abc import Sequence
from typing import Any

from bench.growth import timing
from deps.core import Deps
from tools import cart


def check(steps: Sequence[int], size: int) -> None:
    """Raise ValueError where a cart cannot have so many lines, or the shop so many SKUs."""
    most = min(cart.LINES_MAX, size)
    if steps[-1] > most:
        raise ValueError(f"--lines: a cart has {most} at most, in a shop of {size} SKUs")


async def measure(deps: Deps, count: int, size: int) -> dict[str, Any]:
    """Return milliseconds of each operation on a cart of `count` lines, in total and per line."""
    shopper = timing.guest(deps)
    work = shopper.hot_work()
    *some, last = timing.any_skus(size, count)
    read_id = await timing.filled_cart(shopper, [*some, last])
    # As many carts as samples: the line that is added last must be new each time.
    carts = iter(
        [await timing.filled_cart(shopper, some) for _ in range(timing.RUNS + timing.WARM)]
    )
    found = {
        "read": await timing.p50_ms(lambda: cart.view(work, read_id)),
        "add_last": await timing.p50_ms(lambda: cart.add(work, next(carts), last, 1)),
        "complete": await timing.place_ms(deps, size, count),
    }
    per_line = {f"{name}_per_line": round(ms / count, 2) for name, ms in found.items()}
    return dict(itertools.chain(found.items(), per_line.items()))
