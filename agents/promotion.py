"""Promotion agent: the codes that make a cart cheaper."""

from agents.base import build_agent, operations_of

promotion_agent = build_agent("promotion", operations_of("promotion"))
