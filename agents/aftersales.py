"""After-sales agent: changes of placed orders, returns and exchanges.

It may look orders and products up, because people name them by what they are.
"""

from agents.base import build_agent, operations_of

aftersales_agent = build_agent(
    "aftersales",
    operations_of(
        "aftersales",
        "order_edit",
        "return",
        "exchange",
        also=[
            "order.get",
            "order.list_mine",
            "checkout.cancel",
            "product.search",
            "product.get",
            "user.account",
        ],
    ),
)
