"""Mutants of one SQL text, as PostgreSQL shows it: each is the text with one decision changed.

Changed are comparisons, conditions, arithmetic, numbers, flags, words, `coalesce`, locks and the
columns an UPDATE sets; left out are single conditions and single statements. Nothing is parsed:
what is no SQL any more is refused by PostgreSQL when it is put in, and does not count. Not changed
are declarations, messages, assertions and `updated_at`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

TOKEN = re.compile(
    r"""
    (?P<blank>\s+|--[^\n]*)
  | (?P<text>'(?:[^']|'')*')
  | (?P<other>\$\w*\$|\$\d+|"[^"]*"|::|:=|=>|\|\||->>?|@@)
  | (?P<number>\d+(?:\.\d+)?(?:e\d+)?)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<sign><>|<=|>=|[-+*/<>=])
  | (?P<rest>.)
""",
    re.VERBOSE,
)
SIGNS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "=": "<>",
    "<>": "=",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
}
WORDS = {
    "AND": "OR",
    "OR": "AND",
    "LEAST": "greatest",
    "GREATEST": "least",
    "MIN": "max",
    "MAX": "min",
    "TRUE": "false",
    "FALSE": "true",
    "DESC": "",
    "IN": "NOT IN",
}
CONDITIONS = {"WHERE", "ON", "HAVING", "IF", "ELSIF", "WHEN"}
AFTER_CONDITION = re.compile(
    "ORDER|GROUP|LIMIT|FOR|RETURNING|UNION|ON|THEN|LOOP|HAVING|JOIN|LEFT|WHERE|SET|DO|INTO|EXECUTE"
)
STATEMENT = re.compile("INSERT|UPDATE|DELETE|PERFORM|WITH|LOCK|RAISE|SELECT|EXIT|CONTINUE|RETURN")
BEFORE_STATEMENT = {"BEGIN", "THEN", "ELSE", "LOOP", ";"}
OPENING, CLOSING = {"(", "CASE", "["}, {")", "END", "]"}
SHOWN_MAX = 60


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    begin: int
    end: int
    depth: int  # How many parentheses and CASEs are open around it.

    @property
    def word(self) -> str:
        return self.text.upper()


@dataclass(frozen=True, slots=True)
class SqlMutant:
    """A whole changed text, and what to show of the change."""

    text: str
    before: str
    after: str
    line: int


def mutants_of(text: str, begin: int = 0) -> Iterator[SqlMutant]:
    """Change `text` behind `begin`; never twice to the same."""
    tokens = _tokens(text, begin)
    seen = {text}
    for first, last, new in [
        *_signs(tokens),
        *_locks(tokens),
        *_calls(tokens),
        *_conditions(text, tokens),
        *_columns(tokens),
        *_statements(tokens),
    ]:
        changed = f"{text[:first]}{new}{text[last:]}"
        if changed not in seen:
            seen.add(changed)
            before, after = text[first:last], new
            if len(before) < SHOWN_MAX:
                around = slice(max(begin, first - 20), min(len(text), last + 20))
                before = text[around]
                after = f"{text[around.start : first]}{new}{text[last : around.stop]}"
            yield SqlMutant(changed, _shown(before), _shown(after), text.count("\n", 0, first))


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 2 * SHOWN_MAX else f"{text[: 2 * SHOWN_MAX]} …"


def _tokens(text: str, begin: int) -> list[Token]:
    tokens: list[Token] = []
    opened: list[str] = []
    for match in TOKEN.finditer(text, begin):
        kind, part = str(match.lastgroup), match.group()
        if kind == "blank":
            continue
        word = part.upper()
        is_end = word != "END" or (opened and opened[-1] == "CASE")
        if word in CLOSING and is_end and opened:
            opened.pop()
        tokens.append(Token(kind, part, match.start(), match.end(), len(opened)))
        if word in OPENING:
            opened.append(word)
    return tokens


Edits = Iterator[tuple[int, int, str]]


def _signs(tokens: list[Token]) -> Edits:
    """Exchange signs, numbers and words."""
    is_between = False
    for before, token in pairwise(tokens):
        word = token.word
        is_between |= word == "BETWEEN"
        if token.kind == "sign":
            if token.text != "*" or before.word not in ("(", ".", ",", "SELECT"):
                yield token.begin, token.end, SIGNS[token.text]
        elif token.kind == "number" and before.word not in ("SELECT", "PERFORM", "BY"):
            yield token.begin, token.end, str(int(float(token.text)) + 1)
        elif token.kind == "text" and re.fullmatch(r"'[A-Za-z_]+'", token.text):
            yield token.begin, token.end, "'mutated'"
        elif word == "AND" and is_between:
            is_between = False
        elif token.kind == "word" and word in WORDS and before.word not in ("NOT", "FOR", "CREATE"):
            yield token.begin, token.end, WORDS[word]
        elif word in ("NULL", "DISTINCT") and before.word == "IS":
            yield token.begin, token.end, f"NOT {token.text}"
        elif word == "NOT" or (word == "EXISTS" and before.word not in ("NOT", "IF")):
            yield token.begin, token.end, "" if word == "NOT" else "NOT EXISTS"


def _locks(tokens: list[Token]) -> Edits:
    """Leave out FOR UPDATE and its kind, with what it says of tables and waiting."""
    text = " ".join(token.word for token in tokens)
    starts: dict[int, int] = {}
    at = 0
    for index, token in enumerate(tokens):
        starts[at] = index
        at += len(token.word) + 1
    lock = r"\bFOR (?:NO KEY )?(?:UPDATE|SHARE)(?: OF \w+)?(?: SKIP LOCKED| NOWAIT)?"
    for match in re.finditer(lock, text):
        first = starts[match.start()]
        last = first + match.group().count(" ")
        yield tokens[first].begin, tokens[last].end, ""


def _calls(tokens: list[Token]) -> Edits:
    """Exchange the first two arguments of `coalesce`, or leave one of them out."""
    for index, token in enumerate(tokens):
        if token.word != "COALESCE":
            continue
        depth = token.depth
        close = next(i for i in range(index, len(tokens)) if _is(tokens[i], ")", depth))
        commas = [i for i in range(index, close) if _is(tokens[i], ",", depth + 1)]
        first, last = tokens[index + 2], tokens[close - 1]
        yield first.begin, tokens[commas[-1] + 1].begin, ""
        yield tokens[commas[-1]].begin, last.end, ""


def _is(token: Token, text: str, depth: int) -> bool:
    return token.text == text and token.depth == depth


def _conditions(text: str, tokens: list[Token]) -> Edits:
    """Leave out one of the conditions joined by AND or OR; an IF is also never true."""
    for index, token in enumerate(tokens[:-1]):
        if token.word not in CONDITIONS or tokens[index + 1].word in ("CONFLICT", "EXCEPTION", ";"):
            continue
        if token.word == "IF" and tokens[index - 1].word == "END":
            continue
        parts, joints = _parts(tokens, index + 1)
        for number, (first, last) in enumerate(parts):
            around = joints[max(0, number - 1) : number + 1]
            yield tokens[first].begin, tokens[last].end, "false" if "OR" in around else "true"
        if token.word in ("IF", "ELSIF", "WHEN"):
            yield tokens[index + 1].begin, tokens[parts[-1][1]].end, "false"


def _parts(tokens: list[Token], first: int) -> tuple[list[tuple[int, int]], list[str]]:
    """Where each condition from `first` on begins and ends, and the words between them."""
    depth = tokens[first].depth
    parts: list[tuple[int, int]] = []
    joints: list[str] = []
    is_between = False
    at = first
    for at in range(first, len(tokens)):
        token = tokens[at]
        if token.depth < depth or (
            token.depth == depth
            and (token.text in (";", ",") or AFTER_CONDITION.fullmatch(token.word))
        ):
            break
        is_between |= token.depth == depth and token.word == "BETWEEN"
        if token.depth == depth and token.word in ("AND", "OR"):
            if not is_between:
                parts.append((first, at - 1))
                joints.append(token.word)
                first = at + 1
            is_between = False
    else:
        at += 1
    return [*parts, (first, max(first, at - 1))], joints


def _columns(tokens: list[Token]) -> Edits:
    """Leave out one of the columns that an UPDATE sets."""
    for index, token in enumerate(tokens):
        if token.word != "SET" or tokens[index - 1].word in ("OFF", "LOCAL"):
            continue
        ends = ("WHERE", "FROM", "RETURNING")
        stop = next(
            i
            for i in range(index, len(tokens))
            if tokens[i].depth < token.depth
            or (
                tokens[i].depth == token.depth and (tokens[i].word in ends or tokens[i].text == ";")
            )
        )
        commas = [i for i in range(index, stop) if _is(tokens[i], ",", token.depth)]
        for before, after in pairwise([index, *commas, stop]):
            if commas and tokens[before + 1].text != "updated_at":
                first, last = (before + 1, after) if before == index else (before, after - 1)
                yield tokens[first].begin, tokens[last].end, ""


def _statements(tokens: list[Token]) -> Edits:
    """Leave out one statement of a PL/pgSQL body; a RETURN only where more follows."""
    if not any(token.word == "BEGIN" for token in tokens):
        return
    for index, (before, token) in enumerate(pairwise(tokens), start=1):
        if token.depth or before.depth or before.word not in BEFORE_STATEMENT:
            continue
        if token.word == "RETURN" and before.word == "THEN":
            continue
        if STATEMENT.fullmatch(token.word) or tokens[index + 1].text == ":=":
            stop = next(i for i in range(index, len(tokens)) if _is(tokens[i], ";", 0))
            if token.word == "RETURN" and tokens[stop + 1].word == "END":
                continue
            yield token.begin, tokens[stop].begin, "NULL"
