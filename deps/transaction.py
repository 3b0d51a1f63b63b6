"""The rule that no network call holds a transaction, enforced."""

from contextvars import ContextVar

in_transaction: ContextVar[bool] = ContextVar("in_transaction", default=False)


def external() -> None:
    """Assert that no transaction is open. Gateways and mailers call it before the network."""
    assert not in_transaction.get(), "a vendor was called inside a transaction"
