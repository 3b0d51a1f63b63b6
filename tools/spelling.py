"""What a misspelt word may have meant: the words of listed titles and brands most like it.

They are looked up by what they share with it, three letters at a time, among the shop's words,
which are few whatever the number of its products; and told apart by the letters that mend it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rapidfuzz.distance import OSA

from deps.core import Work

WORDS_MAX: Final = 8  # Of a query, to be mended.
GUESSES_MAX: Final = 5
LIKENESS_MIN: Final = 0.45
# What is nearly as like as the best is a guess, too.
WITHIN: Final = 0.1
_WORD: Final = re.compile(r"[^\W_]+")

# The shop's words as they are in `search_word`; those of a swap share too few letters in a row.
_NEAR: Final = """
    SELECT asked.word AS asked, near.*, ts_lexize('english_stem', near.word) = '{}' AS is_stop
      FROM unnest($1::text[]) AS asked (word)
     CROSS JOIN LATERAL (
           SELECT w.word, w.products, word_similarity(asked.word, w.word) AS share
             FROM search_word w
            WHERE (w.word % asked.word OR asked.word <% w.word) AND w.products > 0
            ORDER BY similarity(asked.word, w.word) DESC, w.products DESC, w.word LIMIT 40) near
     UNION ALL
    SELECT swap.asked, w.word, w.products, 0, ts_lexize('english_stem', w.word) = '{}'
      FROM unnest($2::text[], $3::text[]) AS swap (asked, word)
      JOIN search_word w ON w.word = swap.word AND w.products > 0
"""


def words_of(query: str) -> list[str]:
    """Return the words of a query as they are looked up, each once."""
    return list(dict.fromkeys(_WORD.findall(query.lower())))


@dataclass(frozen=True, slots=True)
class Spelling:
    """What the words of a query mean.

    `meant`: for each misspelt word what it may have been, the likeliest first; words that the shop
    knows, numbers, and what resembles nothing are left out. `stops`: which of all these words the
    full-text index leaves out, as it does with "down".
    """

    meant: Mapping[str, Sequence[str]]
    stops: Sequence[str]


async def spell(work: Work, words: Sequence[str]) -> Spelling:
    """Look up words among those of the shop."""
    asked = [word for word in words if 3 <= len(word) <= 40 and not word.isdecimal()][:WORDS_MAX]
    swaps = [(word, swap) for word in asked for swap in _swaps(word)]
    rows = await work.fetch(_NEAR, asked, [a for a, _ in swaps], [s for _, s in swaps])
    meant: dict[str, list[str]] = {}
    stops = {row["word"] for row in rows if row["is_stop"]}
    known = {row["word"] for row in rows} & set(asked)
    for word in asked:
        best = _best(word, [row for row in rows if row["asked"] == word])
        if best and word not in known:
            meant[word] = best
    said = {*known, *(guess for best in meant.values() for guess in best)}
    return Spelling(meant, sorted(said & stops))


def _swaps(word: str) -> list[str]:
    return [
        f"{word[:at]}{word[at + 1]}{word[at]}{word[at + 2 :]}"
        for at in range(len(word) - 1)
        if word[at] != word[at + 1]
    ]


def _best(word: str, near: Sequence[Any]) -> list[str]:
    likeness = {
        row["word"]: max(OSA.normalized_similarity(word, row["word"]), row["share"]) for row in near
    }
    products = {row["word"]: row["products"] for row in near}
    least = max(LIKENESS_MIN, max(likeness.values(), default=0.0) - WITHIN)
    kept = [found for found, like in likeness.items() if like >= least]
    kept.sort(key=lambda found: (-likeness[found], -products[found], found))
    return kept[:GUESSES_MAX]
