"""Inventory agent: answers about stock, and corrects, moves and counts it for staff.

It may search the catalogue because people name products, and stock is kept by SKU.
"""

from agents.base import build_agent, operations_of

DOMAINS = ("inventory", "transfer", "stock_count", "bundle", "stock_rule", "location")

inventory_agent = build_agent(
    "inventory", operations_of(*DOMAINS, also=["product.search", "product.get"])
)
