"""Say plainly what a shop could do and this one has no operation for, and what comes near it.

The phrases of these wishes are in `phrases/none.yaml`, by the topics below.
"""

from collections.abc import Collection, Mapping
from typing import Final

from agents.phrases import NONE
from agents.planner_deed import by_form
from agents.planner_hear import hear
from tools.registry import OPERATIONS

# How like what is said of a topic a message has to be.
TOPIC_MIN: Final = 0.6
# What can not be done, and by scope what can: the first one permitted is named.
TOPICS: Final[Mapping[str, tuple[str, tuple[tuple[str, str], ...]]]] = {
    "price": (
        "I can not change prices.",
        (
            ("promotion:write", "I can make a discount code or issue a gift card instead."),
            ("catalog:read", "I can tell what something costs now."),
        ),
    ),
    "buyers": (
        "I can not tell which customers buy most.",
        (
            ("analytics:read", "I can report sales and best sellers instead."),
            ("catalog:read", "I can find products and tell what is in stock."),
        ),
    ),
    "message": (
        "I can not write messages to people.",
        (
            ("notification:read_all", "I can show which messages customers were sent."),
            ("catalog:read", "I can pass your question on to a person here."),
        ),
    ),
    "assortment": (
        "I can not add, change or remove products.",
        (
            ("stock:write", "I can correct and restock what is there."),
            ("catalog:read", "I can find products and tell what is in stock."),
        ),
    ),
}


def told(text: str, scopes: Collection[str]) -> str | None:
    """Return the answer to a wish that no operation serves, if the message is one.

    Args:
        text: What the person wrote.
        scopes: What they are permitted: only that is named as near.
    """
    heard = hear(text)
    scores = by_form(heard.core, list(heard.scores), OPERATIONS)
    best = max(scores, key=lambda score: score.value, default=None)
    if best is None or best.value < TOPIC_MIN or not best.is_none:
        return None
    topic = TOPICS.get(best.key.removeprefix(f"{NONE}."))
    if topic is None:
        return None
    refusal, near = topic
    return " ".join([refusal, *(can for scope, can in near if scope in scopes)][:2])
