"""Order agent: the cart, the purchase and what becomes of it.

It may search the catalogue because people say "the blue mug" when they fill a cart.
"""

from agents.base import build_agent, operations_of

order_agent = build_agent(
    "order", operations_of("order", "cart", "checkout", also=["product.search", "product.get"])
)
