"""Order agent: the cart, the purchase and what becomes of it.

It may search the catalogue because people say "the blue mug" when they fill a cart.
"""

from agents.base import build_agent, operations_of
from tools import cart as _carts  # noqa: F401  Registers the operations.
from tools import checkout as _checkout  # noqa: F401
from tools import fulfillment as _fulfillments  # noqa: F401
from tools import order as _orders  # noqa: F401
from tools import product as _products  # noqa: F401

order_agent = build_agent(
    "order", operations_of("order", "cart", "checkout", also=["product.search", "product.get"])
)
