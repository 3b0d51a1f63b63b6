# ruff: noqa: E501  A pattern stays on one line: broken up, nobody could read it.
"""Fold a message to the tokens that are compared: stems, entities by kind, typos mended."""

import re
from collections.abc import Mapping
from functools import lru_cache

from rapidfuzz.distance import OSA

from agents.planner_numbers import in_figures
from agents.planner_text import NUMBER_WORDS, listed

ADDRESS, DATE, EMAIL, NUMBER = "#address", "#date", "#email", "#number"
MONEY, SKU, COUNT, ID = "#money", "#sku", "#count", "#id"
_ENTITIES = (
    (ID, re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?:pm|tok|card|src|ba)_\w{4,}\b", re.I)),
    (DATE, re.compile(r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}(?:st|nd|rd|th)? (?:of )?(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b(?: \d{4})?|\b(?:january|february|march|april|june|july|august|september|october|november|december) \d{1,2}(?:st|nd|rd|th)?\b(?:,? \d{4})?", re.I)),
    (EMAIL, re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")),
    (MONEY, re.compile(r"(?:\b(?:eur|usd|gbp)|[€$£])\s?\d[\d.,]*|\b\d[\d.,]*\s?(?:eur\b|usd\b|gbp\b|€|\$|£|euros?\b|dollars?\b|pounds?\b|bucks?\b)", re.I)),
    (NUMBER, re.compile(r"(?:\b(?:number|no\.?|nr\.?)\s*)?(?:#\s?\d+\b|\b\d{4,}\b)|(?<=order )\d+\b|(?<=order number )\d+\b", re.I)),
    (SKU, re.compile(r"(?:\b[Ss][Kk][Uu]:?\s+)?\b(?=[A-Z0-9]*[A-Z])[A-Z0-9]+(?:[-_/.][A-Z0-9]+)+\b")),
    # A code: capitals and then figures, or whatever looks like one behind the word for it.
    (SKU, re.compile(r"\b[A-Z]{3,}\d{1,4}\b|(?:(?<=[Cc]ode )|(?<=[Cc]ode: )|(?<=[Cc]ode is )|(?<=[Cc]oupon )|(?<=[Pp]romo )|(?<=[Vv]oucher ))(?:[A-Z]{4,}|[A-Za-z]{2,}\d{1,4})\b")),
    (COUNT, re.compile(r"\b\d{1,3}(?:[.,:]\d+)?\b")),
)  # fmt: skip
_ENTITY = re.compile(r"#(?:address|date|email|number|money|sku|count|id)\b")

# Words that tell nothing about what is wanted.
_DROPPED = listed(
    """a an the our his her its their this that these those it them i you we he she they me us
    please some any of s am is are was be were been being will would shall should could can may
    might do does did have has had get gets got so just also too very really now then here there
    and or but to for with at in on by from as into about upon per kindly hi hello hey ok okay
    well thank thanks want need like wish help assistance assist"""
)
# One token for words that mean the same here. The first of each line is what the others become.
_SAME = """
cart basket trolley
order purchase
parcel package shipment consignment
arrive arrival
product item article goods merchandise
invoice bill
refund reimburse reimbursement restitution rebate compensation moneyback
person assistant human agent representative operator employee rep
someone somebody anyone anybody
contact speak talk chat reach communicate
call phone ring telephone
support service helpdesk
change modify edit update alter amend
correct correction
delete erase remove removal
close terminate termination deactivate deactivation shut
cancel cancellation abort void
buy shop
ship shipping deliver delivery dispatch
exchange swap
company business firm organization organisation
complaint complain grievance reclamation claim
method option modality way
account profile
register registration signup enroll enrol join
login signin
password passcode pin pwd pass key pincode
recover retrieve restore reset forget forgot forgotten
problem issue error trouble difficulty fail failure failed
fee cost penalty
policy rule condition term
information info data detail
available availability
inventory stock
revenue turnover
customer client
mail email message
status state progress
find locate search
show see view display list check look
tell inform notify
send submit
feedback review opinion comment suggestion rating
"""


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ation", "ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and _has_vowel(word, ending):
            word = word[: -len(ending)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sz":
                word = word[:-1]
            break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _has_vowel(word: str, ending: str) -> bool:
    return any(letter in "aeiouy" for letter in word[: -len(ending)])


def _canonical() -> Mapping[str, str]:
    return {
        _stem(word): _stem(line.split()[0]) for line in _SAME.strip().splitlines()
        for word in line.split()
    }  # fmt: skip


_CANONICAL = _canonical()


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """Return the token a word is compared as."""
    folded = _stem(word)
    return _CANONICAL.get(folded, folded)


def marked(text: str) -> str:
    """Replace what has a form of its own, such as an email address, by a mark of its kind."""
    text = in_figures(text)
    for mark, pattern in _ENTITIES:
        text = pattern.sub(f" {mark} ", text)
    return text


def split(text: str) -> list[str]:
    """Return the words and marks of a text that was `marked` and normalised."""
    found = re.findall(
        r"#(?:address|date|email|number|money|sku|count|id)\b|[^\W_]+(?:[-'][^\W_]+)*", joined(text)
    )
    return [COUNT if word in NUMBER_WORDS and word != "one" else word for word in found]


def tokens(said: list[str]) -> list[str]:
    """Return stems in order, without the words that tell nothing."""
    return [
        word if _ENTITY.match(word) else stem(word)
        for word in said
        if word not in _DROPPED and len(word) > 1
    ]


_SLANG = {
    "u": "you", "ya": "you", "ye": "you", "ur": "your", "urs": "yours", "r": "are", "y": "why",
    "pls": "please", "plz": "please", "plse": "please", "thx": "thanks", "wanna": "want to",
    "gonna": "going to", "gotta": "have to", "gimme": "give me", "lemme": "let me",
    "dont": "do not", "doesnt": "does not", "didnt": "did not", "cant": "can not",
    "cannot": "can not", "couldnt": "could not", "wont": "will not", "isnt": "is not",
    "havent": "have not", "hasnt": "has not", "im": "i am", "ive": "i have",
    "ill": "i will", "whats": "what is", "wheres": "where is", "hows": "how is", "whos": "who is",
    "theres": "there is", "lets": "let us", "abt": "about", "wat": "what", "wats": "what is", "wot": "what", "wots": "what is", "sth": "something",
    "wher": "where", "adress": "address", "moms": "mother", "mum": "mother", "mums": "mother",
    "wen": "when", "hav": "have", "kno": "know", "mo": "more", "asap": "", "signup": "sign up",
}  # fmt: skip
_SWEARING = re.compile(
    r"\b(?:the (?=hell\b|fuck\b|heck\b))?(?:fuck(?:ing|in|ed)?|f\*+\w*|damn(?:ed)?|goddamn(?:ed)?|bloody|shit(?:ty)?|freaking|"
    r"frigging|bleeding|crappy|stupid|hell|heck)\b"
)
# `i'd`, unless it is what a thing is known by.
_I_WOULD = re.compile(r"\bid(?= (?:like|love|rather|prefer|want|need|be|appreciate)\b)")
_GLUED = ("to", "u", "i", "the", "my", "a", "can", "how", "do", "me", "you", "with", "your", "for")


def plain(said: str) -> str:
    """Spell out slang and leave out swearing: neither changes what is wanted."""
    spelled = " ".join(_SLANG.get(word, word) for word in _SWEARING.sub(" ", said).split())
    spelled = _I_WOULD.sub("i would", spelled)
    return re.sub(r"\s+", " ", spelled).strip()


# Pairs of words that tell more together than what is left of them alone.
_JOINED = (
    (re.compile(r"\bcheck out\b"), "checkout"),
    (re.compile(r"\b(?:do not|does not|no longer) (?:really |even )?(?:want|need)\b"), "unwanted"),
    (re.compile(r"\b(?:do not|does not) (?:yet |even )?have\b|\bhave no\b|\bhave not got\b"), "lacking"),
    (re.compile(r"\b(?:do|does) (?:you|your (?:shop|store|company))\b"), "doyou"),
    (re.compile(r"\b(?:doyou (?:also |still )?(?:have|sell|carry|stock|offer)|have you got|you got (?:any|some)|got any)\b"), "doyousell"),
    (re.compile(r"\bwho am i\b"), "whoami"),
    (re.compile(r"\bcall me\b"), "callme"),
    (re.compile(r"\border(?:ing)? from\b"), "orderfrom"),
    (re.compile(r"\bare you\b"), "areyou"),
    (re.compile(r"\b(?:chang|switch|mov|upgrad|downgrad)(?:e|es|ing|ed)?(?: over)? to\b"), "switchto"),
)  # fmt: skip


def joined(said: str) -> str:
    for pattern, word in _JOINED:
        said = pattern.sub(word, said)
    return said


def _trigrams(word: str) -> set[str]:
    padded = f"^{word}$"
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def synonyms() -> list[str]:
    return _SAME.split()


class Speller:
    """Mends words close to known ones; a word that is near nothing stays as it is."""

    def __init__(self, known: Mapping[str, int]) -> None:
        """Args: known: Words and how often they are said; of two as near, the commoner is meant."""
        self._known = known
        self._stems = frozenset(_stem(word) for word in known)
        self._grams: dict[str, list[str]] = {}
        self._letters: dict[str, list[str]] = {}
        for word in sorted(self._known):
            if len(word) >= 4:
                self._letters.setdefault("".join(sorted(word)), []).append(word)
                for gram in _trigrams(word):
                    self._grams.setdefault(gram, []).append(word)
        self._mend = lru_cache(maxsize=4096)(self._mended)

    def mend(self, said: str) -> str:
        """Return the text with its words mended; marks and punctuation stay."""
        return re.sub(r"(?<![#\w])[^\W\d_]{4,}(?!\w)", lambda m: " ".join(self._mend(m[0])), said)

    def _mended(self, word: str) -> tuple[str, ...]:
        if word in self._known or not word.isalpha() or _stem(word) in self._stems:
            return (word,)
        near = self._nearest(word) or self._inflected(word)
        if near:
            return (near,)
        for cut in range(4, len(word) - 3):
            if word[:cut] in self._known and word[cut:] in self._known:
                return (word[:cut], word[cut:])
        for glue in _GLUED:
            rest = word[len(glue) :]
            if word.startswith(glue) and len(rest) >= 4:
                fixed = rest if rest in self._known else None
                if fixed:
                    return (glue, fixed)
        for glue in _GLUED:
            rest = word[: -len(glue)]
            if word.endswith(glue) and len(glue) > 1 and len(rest) >= 4 and rest in self._known:
                return (rest, glue)
        return (word,)

    def _inflected(self, word: str) -> str | None:
        """Mend `corrcting` by way of `correct`: not every form of a word is known."""
        for ending in ("ing", "ed", "s"):
            base = word.removesuffix(ending)
            if base != word and len(base) >= 5 and not word.endswith("ss"):
                near = self._nearest(base) or self._nearest(f"{base}e")
                if near:
                    return near
        return None

    def _nearest(self, word: str) -> str | None:
        near: set[str] = set()
        for gram in _trigrams(word):
            near.update(self._grams.get(gram, ()))
        # Two letters of a short word in the wrong order leave it no three in the right one.
        near.update(self._letters.get("".join(sorted(word)), ()))
        slips = 1 if len(word) < 9 else 2
        best: tuple[int, int, str] | None = None
        for known in near:
            if abs(len(known) - len(word)) > slips:
                continue
            distance = OSA.distance(word, known, score_cutoff=slips)
            if distance > slips:
                continue
            is_swapped = sorted(known) == sorted(word)
            if len(word) < 7 and known[0] != word[0] and not is_swapped:
                continue
            if len(word) < 5 and not is_swapped and len(known) == len(word):
                continue  # Four letters with one replaced are another word as often as a slip.
            rank = (distance, -self._known[known], known)
            if best is None or rank < best:
                best = rank
        return best[2] if best else None
