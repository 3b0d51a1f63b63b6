"""User agent: who the caller is, and for staff who the customers are."""

from agents.base import build_agent, operations_of

user_agent = build_agent("user", operations_of("user", "address"))
