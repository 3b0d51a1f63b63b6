"""Support agent: how the shop works, receipts, and a person when one is wanted."""

from agents.base import build_agent, operations_of
from tools import handover as _handovers  # noqa: F401  Registers the operations.
from tools import help as _help  # noqa: F401
from tools import receipt as _receipts  # noqa: F401

support_agent = build_agent("support", operations_of("help", "handover", "receipt"))
