"""Product agent: finds and describes what the shop sells."""

from agents.base import build_agent, operations_of

product_agent = build_agent("product", operations_of("product"))
