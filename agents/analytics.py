"""Analytics agent: what the shop sold, for staff."""

from agents.base import build_agent, operations_of
from tools import analytics as _operations  # noqa: F401  Registers the operations.

analytics_agent = build_agent("analytics", operations_of("analytics"))
