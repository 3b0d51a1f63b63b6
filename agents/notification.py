"""Notification agent: which messages were sent to whom."""

from agents.base import build_agent, operations_of

notification_agent = build_agent("notification", operations_of("notification"))
