"""What one message and one conversation may use, and what a model's answers cost."""

from collections.abc import Sequence
from decimal import Decimal

from pydantic_ai import UsageLimits
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.usage import RunUsage

from tools.errors import TooManyRequests

TURN_REQUESTS_MAX = 16
TURN_TOOL_CALLS_MAX = 20
TURN_TOKENS_MAX = 200_000
TURN_COST_MICROS_MAX = 500_000
CONVERSATION_REQUESTS_MAX = 600
CONVERSATION_TOKENS_MAX = 2_000_000
CONVERSATION_COST_MICROS_MAX = 5_000_000
# A model without a known price is counted as a dear one: a cap must hold for it, too.
UNKNOWN_MICROS_PER_TOKEN = 15
OFFLINE = "offline-planner"
COST = "cost_micros"


def limits(used: RunUsage) -> UsageLimits:
    """Bound a turn, and the whole conversation: a new turn does not reset the budget.

    Raises:
        TooManyRequests: The conversation has used up its budget.
    """
    tokens = used.total_tokens or 0
    if (
        used.requests >= CONVERSATION_REQUESTS_MAX
        or tokens >= CONVERSATION_TOKENS_MAX
        or used.details.get(COST, 0) >= CONVERSATION_COST_MICROS_MAX
    ):
        raise TooManyRequests("This conversation has become too long; please start a new one.")
    return UsageLimits(
        request_limit=min(used.requests + TURN_REQUESTS_MAX, CONVERSATION_REQUESTS_MAX),
        tool_calls_limit=used.tool_calls + TURN_TOOL_CALLS_MAX,
        total_tokens_limit=min(tokens + TURN_TOKENS_MAX, CONVERSATION_TOKENS_MAX),
    )


def check_cost(turn: RunUsage) -> None:
    """Stop a turn whose answers so far cost too much.

    Raises:
        TooManyRequests: It has passed what one message may cost.
    """
    if turn.details.get(COST, 0) > TURN_COST_MICROS_MAX:
        raise TooManyRequests("That took too much work; please ask for less at once.")


def cost_micros(messages: Sequence[ModelMessage]) -> int:
    """Return what the models' answers cost, in millionths of a US dollar."""
    return sum(_cost(message) for message in messages if isinstance(message, ModelResponse))


def _cost(response: ModelResponse) -> int:
    if response.model_name == OFFLINE:
        return 0
    try:
        return int(response.cost().total_price * Decimal(1_000_000))
    except (AssertionError, LookupError, ValueError):
        return response.usage.total_tokens * UNKNOWN_MICROS_PER_TOKEN


def spent(total: RunUsage, before: RunUsage, cost: int) -> RunUsage:
    """Return what was used since `before`, with its cost."""
    return RunUsage(
        requests=total.requests - before.requests,
        tool_calls=total.tool_calls - before.tool_calls,
        input_tokens=total.input_tokens - before.input_tokens,
        output_tokens=total.output_tokens - before.output_tokens,
        details={COST: cost} if cost else {},
    )
