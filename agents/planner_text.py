"""Words the offline planner knows: how people say things, folded to how the examples say them."""

import re

_SYNONYMS = [
    (re.compile(pattern), word)
    for pattern, word in {
        r"\b(?:basket|trolley|shopping (?:bag|cart|basket)|(?<=my )bag)\b": "cart",
        r"\bcheck[- ]?out\b": "check out",
        r"\bpurchase\b": "order",
        r"\b(?:purchases|parcels|packages|bestellungen)\b": "orders",
        r"\b(?:parcel|package|delivery|shipment)\b(?= (?:number|no|#|\d)| yet|\?|$)": "order",
        r"\binventory\b": "stock",
        r"\b(?:turnover|takings|earnings)\b": "revenue",
        r"\bwanna\b": "want to",
        r"\b(?:colors)\b": "colours",
        r"\bitems?\b": "product",
        r"\bwhats\b": "what is",
        r"\bwheres\b": "where is",
        r"\bdont\b": "do not",
    }.items()
]
_CONTRACTIONS = {
    "can't": "can not",
    "won't": "will not",
    "n't": " not",
    "'re": " are",
    "'ve": " have",
    "'ll": " will",
    "'d": " would",
    "i'm": "i am",
    "what's": "what is",
    "where's": "where is",
    "how's": "how is",
    "let's": "let us",
    "who's": "who is",
    "it's": "it is",
}

_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"


def _listed_in_order(text: str) -> list[str]:
    return text.split()


NUMBER_WORDS = {word: value for value, word in enumerate(_listed_in_order(_NUMBERS))} | {
    "dozen": 12,
    "couple": 2,
    "pair": 2,
    "fifteen": 15,
    "twenty": 20,
    "fifty": 50,
    "hundred": 100,
}
ORDINAL_WORDS = {
    word: position
    for position, word in enumerate(
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
    )
} | {"last": -1}


def listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that never name a product.
FILLER = listed(
    """a an the some any this that these those it them one ones of to in into from for with at on by
    please pls can could would will shall may you i me my mine we us our your is are was be there do
    does did have has had got get gets like want need take put add place throw toss drop remove
    delete out show see view find search look looking give tell more about details detail describe
    description product products cart stock level levels available availability still left many much
    how what which where who price cost costs sell sells carry offer buy order and or also too
    just now then so hi hello hey quantity change set make update unit units piece pieces pcs x
    not no any more anymore sku number up off under below over above than less cheaper between
    max maximum minimum most least euros euro eur dollars usd instead another other few several
    movements movement history stored happened why because something anything stuff
    colours colour sizes size come comes variants variant options kind kinds types type interested
    recommend suggest us every all let know if help check again back ok okay yes well
    pair couple dozen good nice actually cheaper cheapest expensive newest latest nicer better
    similar"""
) | frozenset(NUMBER_WORDS)


def normalize(text: str) -> str:
    """Lower-case, expand contractions and fold synonyms; letters, digits and `#.,-@€$` stay."""
    folded = text.lower().replace("’", "'").strip()
    if "'" in folded:
        for short, long in _CONTRACTIONS.items():
            folded = folded.replace(short, long)
    folded = re.sub(r"[^\w\s#.,@€$£/:?-]", " ", folded.replace("%", " percent "))
    for pattern, word in _SYNONYMS:
        folded = pattern.sub(word, folded)
    return re.sub(r"\s+", " ", folded).strip(" .!")


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", text.lower())


def singular(word: str) -> str:
    """Fold a plural roughly; only ever compared with another folded word."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
