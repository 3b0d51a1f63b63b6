"""Support agent: how the shop works, receipts, and a person when one is wanted."""

from agents.base import build_agent, operations_of

support_agent = build_agent("support", operations_of("help", "handover", "receipt"))
