"""Inventory agent: answers about stock, and corrects it for staff.

It may search the catalogue because people name products, and stock is kept by SKU.
"""

from agents.base import build_agent, operations_of
from tools import inventory as _operations  # noqa: F401  Registers the operations.
from tools import product as _products  # noqa: F401

inventory_agent = build_agent("inventory", operations_of("inventory", also=["product.search"]))
