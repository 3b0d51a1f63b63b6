"""Payment agent: what was authorised, captured and given back, for staff."""

from agents.base import build_agent, operations_of
from tools import payment as _operations  # noqa: F401  Registers the operations.

payment_agent = build_agent("payment", operations_of("payment"))
