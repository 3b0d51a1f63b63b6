"""Read a message without regard to the conversation: what it says, and which operations it is like.

The whole is compared, what it is about, and each of its clauses; the best of them counts.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from agents.planner_frame import Mode, frame_of
from agents.planner_score import Score, index
from agents.planner_slots import address_in
from agents.planner_text import normalize, words
from agents.planner_tokens import ADDRESS, marked, plain
from tools.registry import Operation

# As like as this, a message asks for an operation clearly; it is done; it is the phrase itself.
SPLIT_MIN = 0.7
ACT_MIN = 0.78
SAME_MIN = 0.97
# Comparing costs time; what is longer than this tells a story, and the story is cut.
COMPARED_CHARS_MAX = 400

_CLAUSES = re.compile(r"\s*[,.;:?!]\s+|\s+because\s+|\s+-\s+|(?<=\w)\s+(?=where (?:is|are) my\b)")
CLAUSES_MAX = 5
# A clause further back is never enough for a write without asking.
FIRST_CLAUSE, LATER_CLAUSE = 0.93, 0.77
_POINTING = re.compile(
    r"(?:\bof )?\b(?:the )?(?:first|second|third|fourth|fifth|sixth|last)(?: one| product| item)?\b"
)
# What is written on a thing is part of its name, whatever it says.
_INSCRIBED = re.compile(
    r"\s(?:(?:that|which) (?:says?|reads?)|saying|reading|(?:called|named|titled|labelled)|"
    r"with (?:the |a )?(?:words?|text|slogan|inscription|message|caption|print)(?: on it)?)\s.+$"
)
CLAUSE_OF_NONE = 0.6
# With its wrapping on, a wish is hardly less like itself: this settles who is first, no more.
WRAPPED = 0.999


@dataclass(slots=True)
class Intent:
    """What was asked. Without an operation, `reason` says why none fits."""

    operation: Operation | None
    reason: str = "ok"
    mode: Mode = Mode.REQUEST
    is_sure: bool = True
    """Whether a write may be done without asking back."""
    answers_question: bool = False
    slots: dict[str, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    """What was said before and holds where the message says nothing else."""
    about: str = ""
    """The words that name the product, where the message is about more than that."""
    adds: str = ""
    """What they say beside an answer, or instead of it: more of what it is to be done with."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it is compared, and how like each operation it is."""

    said: str
    written: str
    """The same with its slips."""
    mode: Mode
    core: str
    refuses: str | None
    scores: tuple[Score, ...]


@lru_cache(maxsize=1024)
def hear(text: str, named: frozenset[str] = frozenset()) -> Heard:
    """Read a message without regard to the conversation, but for what that has `named`."""
    of = index()
    shown = text if len(text) <= COMPARED_CHARS_MAX else text[:COMPARED_CHARS_MAX]
    written = plain(normalize(marked(shown)))
    said = of.speller.mend(written)
    frame = frame_of(said)
    best: dict[str, Score] = {}
    for reading, worth in _readings(text, written, said, frame.core):
        for score in of.rank(reading, named):
            # What a clause says of something else does not outweigh what another asks for.
            value = score.value * (
                worth if worth >= WRAPPED or not score.is_none else CLAUSE_OF_NONE
            )
            if score.key not in best or value > best[score.key].value:
                best[score.key] = replace(score, value=value)
    scores = of.judge(frame.core, named, best.values())
    return Heard(said, written, frame.mode, frame.core, frame.refuses, tuple(scores[:12]))


def _readings(text: str, written: str, said: str, core: str) -> list[tuple[str, float]]:
    """Return what to compare, each with its worth: the whole, what it is about, and its clauses."""
    if is_address(text):
        lead = re.match(r".{0,40}?\b(?:to|is|at)\b", said)
        head = lead.group() if lead else " ".join(words(said)[:3])
        return [(f"{head} {ADDRESS}", 1.0)]
    readings = [(said, 1.0 if core == said else WRAPPED), (core, 1.0)]
    named = _INSCRIBED.sub("", core)
    if named != core and len(words(named)) > 2:
        readings.append((named, 1.0))
    pointed = _POINTING.sub(" ", core)
    if pointed != core:  # What `the first one` stands for is settled by the conversation.
        readings.append((pointed, 1.0))
    if written != said:  # What looked like a slip may be the name of a thing.
        readings.append((frame_of(written).core, 1.0))
    clauses = [clause for clause in _CLAUSES.split(said) if clause.strip()]
    if len(clauses) > 1:
        for place, clause in enumerate(clauses[:CLAUSES_MAX]):
            worth = FIRST_CLAUSE if place == 0 else LATER_CLAUSE
            if len(clause.split()) < 2:
                continue
            readings.append((frame_of(clause.strip(" ,.;?!:")).core, worth))
    return list(dict(readings).items())


def is_address(text: str) -> bool:
    found = address_in(text).keys() if "," in text else set()
    return {"line1", "name"} <= found and bool({"postal_code", "country_code"} & found)


def fresh(heard: Heard, allowed: Collection[str]) -> str | None:
    """Return the operation a message asks for by itself, if it does so clearly."""
    best = next((s for s in heard.scores if not s.is_none and s.key in allowed), None)
    return best.key if best and best.value >= SPLIT_MIN and best == heard.scores[0] else None
