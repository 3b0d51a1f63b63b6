"""The double-entry ledger as a whole: its days are closed, and a balance adds up what came since.

`tools.payment.post` books. A closing has what each account held at the end of a day (UTC).
"""

import logging
from datetime import UTC, timedelta
from typing import Any, Final

from asyncpg import LockNotAvailableError

from deps.core import Deps, UnitOfWork

log = logging.getLogger(__name__)

# No transaction lasts as long: statements and pauses are limited to seconds. What comes later all
# the same is added to its closed day by a trigger, which costs more than waiting here.
SETTLES: Final = timedelta(hours=1)
# Bookings queue behind the one that closes a day, so it does not queue for long itself.
LOCK_TIMEOUT: Final = "200ms"
DAYS_MAX: Final = 1_000

# One snapshot sees a late entry and the closing that it went into, or neither.
_BALANCES = """
    SELECT account, currency, sum(amount)::bigint AS balance_amount
    FROM (SELECT account, currency, amount FROM ledger_closing WHERE day = $1::date
          UNION ALL
          SELECT account, currency, amount FROM ledger_entry
          WHERE occurred_at >= coalesce(($1::date + 1)::timestamp AT TIME ZONE 'UTC', '-infinity')
         ) AS booked
    GROUP BY account, currency ORDER BY currency, account
"""


async def balances(uow: UnitOfWork) -> list[Any]:
    """Return `account`, `currency` and `balance_amount` of every account ever booked on."""
    last = await uow.fetchval("SELECT max(day) FROM ledger_day")
    return await uow.fetch(_BALANCES, last)


async def close_days(deps: Deps) -> int:
    """Close every day that is over, the oldest first, a transaction each; return how many.

    Any number of workers may: a day is closed once. Where the ledger is busy, the rest is left to
    the next time.
    """
    closed = 0
    while closed < DAYS_MAX:
        try:
            async with deps.begin() as uow:
                before = (uow.now - SETTLES).astimezone(UTC).date()
                await uow.fetch(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                day = await uow.fetchval("SELECT ledger_close_next($1, $2)", before, uow.now)
        except LockNotAvailableError:
            log.info("the ledger is busy; its days are closed later")
            break
        if day is None:
            break
        closed += 1
    return closed
