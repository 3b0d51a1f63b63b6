"""Payment agent: what was authorised and captured, gift cards and store credit."""

from agents.base import build_agent, operations_of
from tools import credit as _credit  # noqa: F401  Registers the operations.
from tools import payment as _operations  # noqa: F401

payment_agent = build_agent("payment", operations_of("payment", "credit", "capture"))
