"""After-sales agent: changes of placed orders, returns and exchanges.

It may look orders and products up, because people name them by what they are.
"""

from agents.base import build_agent, operations_of
from tools import aftersales as _aftersales  # noqa: F401  Registers the operations.
from tools import checkout as _checkout  # noqa: F401
from tools import customer as _customers  # noqa: F401
from tools import exchange as _exchanges  # noqa: F401
from tools import exchange_view as _exchange_views  # noqa: F401
from tools import fulfillment as _fulfillments  # noqa: F401
from tools import order as _orders  # noqa: F401
from tools import order_edit as _edits  # noqa: F401
from tools import product as _products  # noqa: F401
from tools import return_ as _returns  # noqa: F401

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
