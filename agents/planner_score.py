"""How like a message is to what is said for each operation.

Every phrase is a bag of stems and pairs of stems, weighed by how few operations use them. A message
is as like a phrase as the weight they share, against what either has alone. What a phrase leaves
open, such as the name of a product, may be filled by any words at little cost.

Beside the one phrase it is most like, all that is said for an operation, its description included,
speaks for it as a whole: that is what a message in quite other words is told by.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import pairwise
from math import log, sqrt

from agents import phrases
from agents.planner_text import FILLER, normalize
from agents.planner_tokens import (
    ADDRESS,
    COUNT,
    DATE,
    EMAIL,
    ID,
    MONEY,
    NUMBER,
    SKU,
    Speller,
    plain,
    split,
    synonyms,
    tokens,
)  # fmt: skip
from tools.registry import OPERATIONS

_MARKS = {
    "address": ADDRESS,
    "number": NUMBER,
    "email": EMAIL,
    "quantity": COUNT,
    "days": COUNT,
    "delta": COUNT,
    "case": COUNT,
}
_MARK_WEIGHTS = {NUMBER: 0.8, MONEY: 0.8, EMAIL: 1.0, SKU: 0.3, COUNT: 0.3, ID: 0.8,
                 ADDRESS: 4.0, DATE: 2.5}  # fmt: skip
_PAIR = 0.6
# What words beyond a phrase with an open slot cost, against words that have no place at all.
_OPEN, _OPEN_KNOWN = 0.1, 0.7
# The more a phrase says around its slot, the less it matters what fills it.
_OPEN_SAYS_MUCH, _OPEN_KNOWN_MUCH = 14.0, 0.5
_TELLING = 2.0
# A phrase with little said around its open slot, such as `find {query}`, proves little.
_OPEN_DOUBT = 1.0
# One that says less than this, such as `show me {query}`, is no phrase at all.
_OPEN_MIN = 2.5
# What the odds weigh beside the likeness to one phrase: the less, the more exact that is.
_ODDS_WORTH, _VALUE_MIN, _EXACT = 0.08, 0.25, 1.05
# More odds than this tell no more: what is hardly like any phrase never outranks what is like one.
_ODDS_MAX = 10.0
# A message this like a phrase says the same, and odds settle no more than a tie.
_SAID, _TIE = 0.95, 0.00005
# What it takes from the odds that a phrase is about a number, an id or the like that is not given.
_MISSING = 2.0
# How much of what is said for an operation could as well be said for any other.
_ELSEWHERE = 0.5
# What it costs a phrase that it names an order or a thing by its id and the message names none:
# `remove the lost card {method_id}` is not what `report my lost card` says.
_NEEDED, _UNNAMED = frozenset((ID, NUMBER)), 8.0
_DAYS = ("at", "on", "date", "day", "since", "until")
_PLACE = ("line1", "postal_code", "city", "country_code")
_SKUS = re.compile(r"\{(?:sku|new_sku|handle_or_sku)\}")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Phrase:
    key: str
    features: frozenset[str]
    is_open: bool
    marks: frozenset[str]
    """What its slots stand for: an id, an amount of money."""
    needs: frozenset[str]
    """Those of them without which it says something else."""


@dataclass(frozen=True, slots=True)
class Score:
    key: str
    value: float
    words: int = 0
    """How many telling words the message shares with the phrase it is most like."""
    phrase: int = -1
    """That phrase, by its place in the index."""
    odds: float = 0.0
    """How much likelier its words are said for this than for anything, as a logarithm."""
    proof: float = 0.0
    """The same without what is said around an id, where the message names none."""
    is_unnamed: bool = False
    """Whether that phrase names an order or a thing by its id, and the message does not."""

    @property
    def rank(self) -> float:
        """What comes first: a phrase as good as said, then the likelier of the rest."""
        return self._ranked(self.odds)

    @property
    def proven(self) -> float:
        """The rank by what is proof: what counts against something that is not ours."""
        return self._ranked(self.proof)

    def _ranked(self, odds: float) -> float:
        if self.value >= _SAID:
            return 1.0 + self.value + _TIE * odds
        likeness = max(self.value, _VALUE_MIN)
        return likeness + _ODDS_WORTH * min(odds, _ODDS_MAX) * (_EXACT - likeness)

    @property
    def is_none(self) -> bool:
        return self.key.startswith(phrases.NONE + ".")


@dataclass(slots=True)
class Index:
    phrases: list[Phrase]
    weights: Mapping[str, float]
    unknown: float
    speller: Speller
    postings: dict[str, list[int]] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    told: dict[str, dict[str, float]] = field(default_factory=dict)
    """By feature and key: what it adds to the odds, above what its absence takes."""
    told_unnamed: dict[str, dict[str, float]] = field(default_factory=dict)
    """The same of what is said without an id: `use my card` is said around one, and elsewhere."""
    ours: set[str] = field(default_factory=set)
    """Features that are said for operations, beside those of what no shop can serve."""

    def features(self, said: str) -> frozenset[str]:
        """Return the features of a message that is already in plain words."""
        return frozenset(_features(tokens(split(said))))

    def rank(self, said: str, named: frozenset[str]) -> list[Score]:
        """Return the operations a message is like, most like first; ties go by name.

        Args:
            said: The message in plain words.
            named: Marks of what the conversation has named: `it` may be any of that.
        """
        return list(_cached(self.features(said), named))

    def judge(self, said: str, named: frozenset[str], scores: Iterable[Score]) -> list[Score]:
        """Add the odds, for a message in plain words, and order the scores by both."""
        features = self.features(said)
        told = [self.told[feature] for feature in sorted(features) if feature in self.told]
        unnamed = _NEEDED - features - named
        proving = told
        if unnamed == _NEEDED:
            proving = [self.told_unnamed[f] for f in sorted(features) if f in self.told_unnamed]
        judged = []
        for score in scores:
            phrase = self.phrases[score.phrase]
            missing = _MISSING * len(phrase.marks - features)
            odds = _odds(told, score.key) - missing
            proof = odds if proving is told else _odds(proving, score.key) - missing
            is_unnamed = bool(phrase.needs & unnamed)
            judged.append(
                Score(score.key, score.value, score.words, score.phrase, odds, proof, is_unnamed)
            )
        return sorted(judged, key=lambda score: (-score.rank, score.key))


def _odds(told: list[dict[str, float]], key: str) -> float:
    return log(_ELSEWHERE) * len(told) + sum([added.get(key, 0.0) for added in told])


@lru_cache(maxsize=4096)
def _cached(features: frozenset[str], named: frozenset[str]) -> tuple[Score, ...]:
    return tuple(_ranked(index(), features, named))


def _ranked(of: Index, features: frozenset[str], named: frozenset[str]) -> list[Score]:
    squared = {feature: _weight(of, feature) ** 2 for feature in sorted(features)}
    total = sum(squared.values())
    unheard = sum(
        value for f, value in squared.items() if f not in of.weights and not f.startswith("#")
    )
    # In an order there may be a kettle, whatever else is said of kettles elsewhere.
    unheard_of_ours = sum(
        value for f, value in squared.items() if f not in of.ours and not f.startswith("#")
    )
    # Words that most operations share settle nothing by themselves, and are in most phrases.
    telling = [f for f, value in squared.items() if value >= _TELLING] or list(squared)
    others = features.difference(telling)
    unnamed = _NEEDED - features - named
    shared: dict[int, float] = defaultdict(float)
    for feature in telling:
        for number in of.postings.get(feature, ()):
            shared[number] += squared[feature]
    extra = sum(squared[feature] for feature in others)
    best: dict[str, tuple[float, int]] = {}
    for number, dot in shared.items():
        phrase, norm = of.phrases[number], of.norms[number]
        beaten = best.get(phrase.key, (0.0, 0))[0]
        most, least = dot + extra, beaten * beaten * norm
        if most < least or (not phrase.is_open and most * most < least * total):
            continue  # Whatever else they share, another phrase for the same is more like it.
        if others:
            for feature in others & phrase.features:
                dot += squared[feature]
        rest = total - dot
        if unnamed and phrase.needs:
            norm += _UNNAMED * len(unnamed & phrase.needs)
        if phrase.is_open:
            kept = _OPEN_KNOWN if norm < _OPEN_SAYS_MUCH else _OPEN_KNOWN_MUCH
            new = unheard_of_ours if phrase.needs else unheard
            rest = new * _OPEN + (rest - new) * kept
            norm += _OPEN_DOUBT
        value = dot / sqrt(norm * (dot + abs(rest)))
        if value > beaten:
            best[phrase.key] = (value, number)
    words = {f for f in features if "_" not in f and not f.startswith("#")}
    scores = [Score(k, v, len(words & of.phrases[n].features), n) for k, (v, n) in best.items()]
    return sorted(scores, key=lambda score: (-score.value, score.key))


def _weight(of: Index, feature: str) -> float:
    if feature.startswith("#"):
        return _MARK_WEIGHTS.get(feature, 0.3)
    if feature in of.weights:
        return of.weights[feature]
    return _PAIR if "_" in feature else of.unknown


def _features(said: list[str]) -> Iterable[str]:
    yield from said
    for left, right in pairwise(said):
        if not left.startswith("#") and not right.startswith("#"):
            yield f"{left}_{right}"


def reading(phrase: str) -> tuple[str, bool]:
    """Return a phrase in plain words with marks for its slots, and whether it leaves words open."""
    is_open = False

    def mark(match: re.Match[str]) -> str:
        nonlocal is_open
        name = match[1]
        if name == "postal_code" and "{line1}" not in phrase:
            return f" {NUMBER} "
        if name in _PLACE or (name == "name" and "{line1}" in phrase):
            return f" {ADDRESS} "
        if name in _MARKS:
            return f" {_MARKS[name]} "
        if name.endswith("_id") or name == "token":
            return f" {ID} "
        if name in _DAYS or name.endswith(("_at", "_on", "_date")):
            return f" {DATE} "
        if name.endswith("_amount") or name == "amount":
            return f" {MONEY} "
        is_open = True
        return " … "  # Words on both sides of it are not neighbours.

    return plain(normalize(_SLOT.sub(mark, phrase))), is_open


def _phrase(key: str, said: list[str], is_open: bool) -> Phrase:
    features = frozenset(_features(said))
    marks = frozenset(feature for feature in features if feature.startswith("#"))
    return Phrase(key, features, is_open, marks, marks & _NEEDED)


@cache
def index() -> Index:
    """Build the index of all phrases, once per process."""
    readings: dict[str, list[tuple[list[str], bool]]] = defaultdict(list)
    known: Counter[str] = Counter([*FILLER, *synonyms()])
    keys = sorted({*OPERATIONS, *phrases.table()})
    for key in keys:
        if key not in OPERATIONS and not key.startswith(phrases.NONE + "."):
            continue
        for phrase in phrases.phrases_for(key):
            known.update(re.findall(r"[a-z]+", _SLOT.sub(" ", phrase.lower())))
            for expanded in phrases.expand(phrase):
                # A product may be named by its SKU, which is told from words, or in words.
                for spelled in dict.fromkeys((expanded, _SKUS.sub(f" {SKU} ", expanded))):
                    said, is_open = reading(spelled)
                    parts = split(said)
                    known.update(parts)
                    readings[key].append((tokens(parts), is_open))
    unique = {
        _phrase(key, said, is_open)
        for key, found in readings.items()
        for said, is_open in found
        if any(not word.startswith("#") for word in said)
    }
    listed = sorted(unique, key=lambda p: (p.key, sorted(p.features), p.is_open))
    features: dict[str, set[str]] = defaultdict(set)
    for entry in listed:
        features[entry.key] |= entry.features
    seen = Counter(feature for key in readings for feature in features[key])
    weights = {
        feature: log(1 + len(readings) / count) * (_PAIR if "_" in feature else 1.0)
        for feature, count in seen.items()
    }
    built = Index([], weights, log(1 + len(readings)), Speller(known))
    for entry in listed:
        norm = sum(_weight(built, f) ** 2 for f in entry.features)
        if entry.is_open and norm < _OPEN_MIN:
            continue
        for feature in entry.features:
            built.postings.setdefault(feature, []).append(len(built.phrases))
        built.phrases.append(entry)
        if entry.key in OPERATIONS:
            built.ours.update(entry.features)
        built.norms.append(norm)
    built.told = _told(built, built.phrases)
    built.told_unnamed = _told(built, [phrase for phrase in built.phrases if not phrase.needs])
    return built


def _told(of: Index, said: Iterable[Phrase]) -> dict[str, dict[str, float]]:
    """Weigh every feature for every key: naive Bayes over all that is said for each.

    A feature counts with the logarithm of how often it is said, since alternatives in a phrase
    multiply what is written once; half of its share is that of the language here as a whole.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for phrase in said:
        counts[phrase.key].update(phrase.features)
    shares: dict[str, dict[str, float]] = {}
    for key, seen in counts.items():
        amounts = {feature: 1 + log(seen[feature]) for feature in sorted(seen)}
        for feature in sorted(of.features(_described(key))):
            amounts[feature] = amounts.get(feature, 0.0) + 1
        total = sum(amounts.values())
        shares[key] = {feature: amount / total for feature, amount in amounts.items()}
    overall: Counter[str] = Counter()
    for key in sorted(shares):
        overall.update({feature: part / len(shares) for feature, part in shares[key].items()})
    told: dict[str, dict[str, float]] = defaultdict(dict)
    for key in sorted(shares):
        for feature, part in shares[key].items():
            odds = (1 - _ELSEWHERE) * part / overall[feature] + _ELSEWHERE
            told[feature][key] = log(odds) - log(_ELSEWHERE)
    return dict(told)


def _described(key: str) -> str:
    """Return what an operation's description says it does; the rest of it is detail."""
    operation = OPERATIONS.get(key)
    documented = (operation.run.__doc__ or "") if operation else ""
    return plain(normalize(documented.partition("\n\n")[0]))
