"""Choose the model: a remote chain when one is configured, otherwise the offline planner."""

import functools

from pydantic_ai.models import Model
from pydantic_ai.models.fallback import FallbackModel

from agents.planner import Planner
from deps.core import Actor
from deps.settings import Settings
from tools.registry import OPERATIONS

MODEL_TIMEOUT_S = 20.0


def choose_model(settings: Settings, actor: Actor) -> Model:
    """Return the model that answers `actor`.

    With `OPENAI_API_KEY` or `OPENAI_BASE_URL`, the models named in `SHOPKEEPER_MODELS` are tried in
    turn: an error or a timeout of one passes to the next.
    """
    if settings.openai_api_key is None and settings.openai_base_url is None:
        allowed = {key for key, operation in OPERATIONS.items() if actor.may(operation.scope)}
        return Planner(allowed, settings.currency)
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "unused"
    return remote_model(settings.models, key, settings.openai_base_url, MODEL_TIMEOUT_S)


def model_for(settings: Settings, agent: str, chosen: Model) -> Model:
    """Return the model of one agent: the chain that `SHOPKEEPER_AGENT_MODELS` names for it, or the
    one chosen for all. The offline planner serves every agent."""
    names = settings.agent_models.get(agent)
    if names is None or (settings.openai_api_key is None and settings.openai_base_url is None):
        return chosen
    key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "unused"
    return remote_model(names, key, settings.openai_base_url, MODEL_TIMEOUT_S)


@functools.lru_cache(maxsize=16)
def remote_model(names: str, key: str, base_url: str | None, timeout_s: float) -> Model:
    """Build the chain once per configuration: its HTTP client keeps connections open."""
    # A second of every start, for those who have a key.
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(
        api_key=key,
        base_url=base_url,
        timeout=timeout_s,
        max_retries=0,  # The chain is the retry; two layers of them would multiply the wait.
    )
    provider = OpenAIProvider(openai_client=client)
    chain = [OpenAIChatModel(n.strip(), provider=provider) for n in names.split(",") if n.strip()]
    assert chain, "SHOPKEEPER_MODELS names no model"
    return chain[0] if len(chain) == 1 else FallbackModel(chain[0], *chain[1:])
