"""User agent: who the caller is, and for staff who the customers are."""

from agents.base import build_agent, operations_of
from tools import address as _addresses  # noqa: F401  Registers the operations.
from tools import customer as _customers  # noqa: F401
from tools import user as _users  # noqa: F401

user_agent = build_agent("user", operations_of("user", "address"))
