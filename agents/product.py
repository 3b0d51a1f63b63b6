"""Product agent: finds and describes what the shop sells."""

from agents.base import build_agent, operations_of
from tools import product as _operations  # noqa: F401  Registers the operations.

product_agent = build_agent("product", operations_of("product"))
