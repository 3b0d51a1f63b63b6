"""What agents cost, counted in rows: caps by person and by shop that hold across processes.

A turn is counted before it starts, in one statement that refuses it when a cap is reached, and its
tokens and cost when it ends. So the number of turns can not pass its cap, and tokens and cost pass
theirs by no more than the turns under way. Neither waits for the disk: a crash of the server may
forget the turns of its last half second.
"""

from dataclasses import dataclass
from datetime import date

from deps.core import Deps
from deps.hot import WITHOUT_WAITING
from tools.errors import TooManyRequests

SHOP = "shop"

# A cap of no turns at all holds for the first of a day, too: then there is no row to refuse.
_TAKE = f"""
    WITH person AS (
        INSERT INTO agent_spend AS s (spender, day, requests, tokens, cost_micros)
        SELECT $1, $2, 1, 0, 0 WHERE $3::bigint > 0
        ON CONFLICT (spender, day) DO UPDATE SET requests = s.requests + 1
        WHERE s.requests < $3 AND s.tokens < $4 AND s.cost_micros < $5
        RETURNING {WITHOUT_WAITING}
    ), shop AS (
        INSERT INTO agent_spend AS s (spender, day, requests, tokens, cost_micros)
        SELECT $6, $2, 1, 0, 0 FROM person WHERE $7::bigint > 0
        ON CONFLICT (spender, day) DO UPDATE SET requests = s.requests + 1
        WHERE s.requests < $7 AND s.tokens < $8 AND s.cost_micros < $9
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM person) AS person, (SELECT count(*) FROM shop) AS shop
"""
_ADD = f"""
    INSERT INTO agent_spend AS s (spender, day, requests, tokens, cost_micros)
    SELECT spender, $2, $3, $4, $5 FROM unnest($1::text[]) AS spender ORDER BY spender
    ON CONFLICT (spender, day) DO UPDATE SET
        requests = s.requests + EXCLUDED.requests,
        tokens = s.tokens + EXCLUDED.tokens,
        cost_micros = s.cost_micros + EXCLUDED.cost_micros
    RETURNING {WITHOUT_WAITING}
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """`cost_micros` are millionths of a US dollar, as the providers bill."""

    requests: int = 0
    tokens: int = 0
    cost_micros: int = 0


def _spender(deps: Deps) -> str:
    return str(deps.actor.key or "anonymous")


def _today(deps: Deps) -> date:
    return deps.clock().date()


async def take(deps: Deps) -> None:
    """Count a turn of the actor against today's caps, before it starts.

    Raises:
        TooManyRequests: The person, or the shop, has used up today's budget.
    """
    settings, day = deps.settings, _today(deps)
    person = (
        settings.person_daily_turns_max,
        settings.person_daily_tokens_max,
        settings.person_daily_cost_micros_max,
    )
    shop = (
        settings.shop_daily_turns_max,
        settings.shop_daily_tokens_max,
        settings.shop_daily_cost_micros_max,
    )
    ((own, shops),) = await deps.hot.fetch(_TAKE, _spender(deps), day, *person, SHOP, *shop)
    if not own:
        raise TooManyRequests("You have used up today's budget of the assistant; try tomorrow.")
    if not shops:
        raise TooManyRequests("The assistant has used up today's budget of the shop.")


async def add(deps: Deps, spent: Spent) -> None:
    """Add what a turn used, for the person and for the shop. Counted turns are not repeated."""
    if spent == Spent():
        return
    spenders = [_spender(deps), SHOP]
    figures = (spent.requests, spent.tokens, spent.cost_micros)
    await deps.hot.fetch(_ADD, spenders, _today(deps), *figures)
