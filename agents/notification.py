"""Notification agent: which messages were sent to whom."""

from agents.base import build_agent, operations_of
from tools import notification as _operations  # noqa: F401  Registers the operations.

notification_agent = build_agent("notification", operations_of("notification"))
