"""Gift cards and store credit as one more payment provider, whose ledger is our own database.

It is an adapter like those of Stripe and PayPal, and stands beside them: what a hold, a capture and
a refund do to a balance are SQL functions (`functions_0005.sql`), each one transaction of its own
with the outcome of its key, so this file knows no rule and imports nothing from above. Who may
spend which card is decided by `tools.credit` before a tender is written: like a provider's, this
gateway trusts the token it is given, and clients never get to name one.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel.ext.asyncio.session import AsyncSession

from db.types import Money, new_id
from deps.gateway import GatewayTimeout, Outcome, OutcomeStatus
from deps.postgres import DatabaseUnavailable
from deps.transaction import external

CREDIT = "credit"

_AUTHORIZE = text("SELECT * FROM credit_authorize(:key, :hold, :account, :amount, :currency, :now)")
_CAPTURE = text("SELECT * FROM credit_capture(:key, :hold, :amount, :currency, :is_final, :now)")
_VOID = text("SELECT * FROM credit_void(:key, :hold, :now)")
_REFUND = text("SELECT * FROM credit_refund(:key, :hold, :amount, :currency, :now)")
_FIND = text("SELECT * FROM credit_call WHERE key = :key")


class CreditGateway:
    """A `Gateway` over credit accounts. A method token is an account's id, a reference a hold's.

    Parallel authorisations of one balance queue on its row and never exceed it. Holds do not lapse:
    the sale that made one captures or voids it, whoever resumes that sale.
    """

    name = CREDIT

    def __init__(
        self,
        db: async_sessionmaker[AsyncSession],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._db = db
        self._clock = clock

    async def authorize(
        self, key: str, amount: Money, method_token: str, *, return_url: str | None = None
    ) -> Outcome:
        account = _uuid(method_token)
        return await self._call(_AUTHORIZE, key, amount, hold=new_id(), account=account)

    async def capture(
        self, key: str, reference: str, amount: Money, *, is_final: bool = True
    ) -> Outcome:
        return await self._call(_CAPTURE, key, amount, hold=_uuid(reference), is_final=is_final)

    async def void(self, key: str, reference: str) -> Outcome:
        return await self._call(_VOID, key, None, hold=_uuid(reference))

    async def refund(self, key: str, reference: str, amount: Money) -> Outcome:
        return await self._call(_REFUND, key, amount, hold=_uuid(reference))

    async def find(self, key: str, reference: str | None = None) -> Outcome | None:
        row = await self._run(_FIND, {"key": key})
        return None if row is None else _outcome(row)

    async def _call(self, call: Any, key: str, amount: Money | None, **values: Any) -> Outcome:
        values |= {"key": key, "now": self._clock()}
        if amount is not None:
            values |= {"amount": amount.amount, "currency": amount.currency}
        row = await self._run(call, values)
        assert row is not None
        return _outcome(row)

    async def _run(self, call: Any, values: dict[str, Any]) -> Row[Any] | None:
        external()
        try:
            async with self._db.begin() as session:
                return (await session.execute(call, values)).first()
        except (DatabaseUnavailable, PoolTimeout) as error:
            # The connection may have broken before or after the commit: as unknown as a provider's.
            raise GatewayTimeout(str(values["key"])) from error


def _uuid(token: str) -> UUID | None:
    """Return None for what cannot be an id of ours; the call then declines."""
    try:
        return UUID(token)
    except ValueError:
        return None


def _outcome(row: Row[Any]) -> Outcome:
    declined = row.decline_code is not None
    return Outcome(
        OutcomeStatus.DECLINED if declined else OutcomeStatus.APPROVED,
        str(row.hold_id or ""),
        0 if declined else row.amount,
        row.currency,
        decline_code=row.decline_code,
    )
