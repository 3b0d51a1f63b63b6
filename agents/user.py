"""User agent: who the caller is, and for staff who the customers are."""

from agents.base import build_agent, operations_of
from tools import user as _operations  # noqa: F401  Registers the operations.

user_agent = build_agent("user", operations_of("user"))
