"""Analytics agent: what the shop sold, for staff."""

from agents.base import build_agent, operations_of

analytics_agent = build_agent("analytics", operations_of("analytics"))
