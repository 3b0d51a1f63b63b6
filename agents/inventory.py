"""Inventory agent: answers about stock, and corrects, moves and counts it for staff.

It may search the catalogue because people name products, and stock is kept by SKU.
"""

from agents.base import build_agent, operations_of
from tools import (  # noqa: F401  Each registers its operations.
    bundle,
    inventory,
    location,
    product,
    stock,
    stock_count,
    stock_ledger,
    stock_rule,
    transfer,
)

DOMAINS = ("inventory", "transfer", "stock_count", "bundle", "stock_rule", "location")

inventory_agent = build_agent(
    "inventory", operations_of(*DOMAINS, also=["product.search", "product.get"])
)
