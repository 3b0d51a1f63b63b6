"""Text that others wrote: made visible on the way in, and kept in bounds on the way out.

The one list of characters nobody can see, the one list of secrets that no reply, log or trace may
hold, and the rule for links. None of it decides what is allowed: rights and approvals do, whatever
a text says. It keeps people and models from being shown something else than what is there.
"""

import base64
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, model_validator

from deps.given import Given

# Characters a reader cannot see but a model or a search index can: tag characters and variation
# selectors (which smuggle whole sentences), zero-width and joining marks, and the bidirectional
# controls that make text read differently from what it says (https://trojansource.codes).
# U+FE0F stays: it makes an emoji an emoji.
HIDDEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_LINE_BREAKS = re.compile("\r\n|[\r\u2028\u2029]")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_ENCODED = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")

# What a text says when it plays the system, the developer or a tool.
_ROLE_PLAY = re.compile(
    r"(?i)<\s*/?\s*(system|assistant|developer|tool_result|tool_call|instructions?)\b[^>]*>"
    r"|\[\s*/?\s*(system|inst|developer|assistant)\s*\]|<\|[a-z_]+\|>|^\s*(system|developer)\s*:",
    re.MULTILINE,
)
_INSTRUCTION = re.compile(
    r"(?i)\b(ignore|disregard|forget)\b.{0,40}\b(instructions?|rules?|polic(y|ies)|above|previous)\b"
    r"|\byou are now\b|\bnew instructions?\b|\bcall (the )?(tool|function)\b"
)

# Values that identify or authorise a person, wherever they are in a message.
_EMAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_CREDENTIALS: Final = (
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "[token]"),
    (
        re.compile(
            r"(?i)\b(bearer|token|password|secret|api[_-]?key)(['\"]?\s*[=: ]\s*['\"]?)"
            r"[^\s,;&'\"}]{8,}"
        ),
        r"\1\2[redacted]",
    ),
    (re.compile(r"\bsk-[\w-]{8,}"), "[key]"),
)
# What people let slip in prose, where a word after `password` need not be one.
_SAID: Final = (
    (
        re.compile(
            r"(?i)\b(password|passcode|pass ?phrase|secret|token|pin)"
            r"((?:\s+code)?\s*(?:[:=]|\bis\b|\bwas\b)\s*)"
            r"(?=\S*[\d\W])[^\s,;&'\"}]{4,}"
        ),
        r"\1\2[redacted]",
    ),
    (
        re.compile(r"(?i)\b(cvv2?|cvc2?|security code)(\W+(?:(?:is|code|number)\W+)*)\d{3,4}\b"),
        r"\1\2[redacted]",
    ),
    # A gift card's code is worth its balance to whoever reads it.
    (
        re.compile(
            r"(?i)(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Z])"
            r"[0-9A-HJKMNP-TV-Z]{4}(?:[ -]?[0-9A-HJKMNP-TV-Z]{4}){4}(?![\w-])"
        ),
        "[code]",
    ),
)
_LONG_NUMBER: Final = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
# Every secret contains one of these; most strings contain none, and one search says so.
_SUSPICIOUS: Final = re.compile(
    r"@|eyJ|sk-|\d(?:[ -]?\d){12}|bearer|token|password|secret|api[_-]?key", re.IGNORECASE
)

_MARKDOWN_LINK = re.compile(r"!?\[([^\]\n]*)\]\(\s*<?([^)\s>]*)>?(?:\s+[^)\n]*)?\)")
_REFERENCE = re.compile(r"^\s{0,3}\[[^\]\n]+\]:\s*(\S+).*$", re.MULTILINE)
_HTML = re.compile(r"</?[a-zA-Z][^<>]*>")
_ADDRESS = re.compile(
    r"(?i)(?:\b[a-z][a-z0-9+.-]*:)?//[^\s<>\"')\]]+|\b(?:javascript|data|vbscript|mailto|tel):\S+"
    r"|\bwww\.[^\s<>\"')\]]+"
)
DEPTH_MAX: Final = 100
LINK_REMOVED: Final = "[link removed]"


def visible(text: str) -> str:
    """Return `text` as a reader sees it: nothing hidden, one kind of line break, NFC."""
    text = HIDDEN.sub("", unicodedata.normalize("NFC", text))
    text = _LINE_BREAKS.sub("\n", text)
    # Cc also holds NUL, which PostgreSQL refuses in text; Cs are halves of broken escapes.
    used = set(text).difference("\n\t")
    unseen = [c for c in used if unicodedata.category(c) in ("Cc", "Cs", "Cn")]
    return text.translate(dict.fromkeys(map(ord, unseen))) if unseen else text


def smuggled(text: str) -> str:
    """Return what tag characters spell in `text`, for whoever looks into it; usually nothing."""
    return "".join(chr(ord(c) - 0xE0000) for run in _TAGS.findall(text) for c in run)


def flags(text: str) -> list[str]:
    """Say what a text has besides what it shows, before it is made visible; usually nothing."""
    found = []
    if HIDDEN.search(text):
        found.append("hidden characters")
    if _TAGS.search(text):
        found.append("a message in tag characters")
    if _BIDI.search(text):
        found.append("a reversed reading order")
    seen = HIDDEN.sub("", text)
    if any(_is_encoded(run) for run in _ENCODED.findall(seen)):
        found.append("an encoded message")
    if _ROLE_PLAY.search(seen):
        found.append("the marks of another role")
    if _INSTRUCTION.search(seen):
        found.append("instructions")
    return found


def _is_encoded(run: str) -> bool:
    """Whether base64 spells words: an id or a digest decodes to noise."""
    try:
        spelled = base64.b64decode(run + "=" * (-len(run) % 4), validate=True).decode("ascii")
    except ValueError:
        return False
    return spelled.isprintable() and " " in spelled


def flags_in(value: Any) -> list[str]:
    """Collect `flags` from all texts in a JSON value, each once."""
    return list(dict.fromkeys(flag for text in texts_in(value) for flag in flags(text)))


def texts_in(value: Any) -> Iterable[str]:
    """Yield every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts_in(key)
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def as_data(value: Any) -> Any:
    """Return a JSON value with every text visible, and without the marks by which a model tells
    roles apart: `<system>` in a product's description becomes `‹system›`."""
    if isinstance(value, str):
        return _ROLE_PLAY.sub(_defused, visible(value)) if value else value
    if isinstance(value, list | tuple):
        return [as_data(item) for item in value]
    if isinstance(value, dict):
        return {key: as_data(item) for key, item in value.items()}
    return value


def _defused(match: re.Match[str]) -> str:
    return match[0].translate({0x3C: "‹", 0x3E: "›", 0x5B: "⟦", 0x5D: "⟧", 0x3A: "\ua789"})


def visible_in(value: Any, depth: int = 0) -> Any:
    """Return a JSON value with every text visible and trimmed, in forms and names of fields, too; a
    member of an enum stays one.

    Raises:
        ValueError: It is nested deeper than `DEPTH_MAX`.
    """
    if depth > DEPTH_MAX:
        raise ValueError(f"must not be nested deeper than {DEPTH_MAX}")
    if isinstance(value, str) and not isinstance(value, Enum):
        return visible(value).strip()
    if isinstance(value, list):
        return [visible_in(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {visible_in(key): visible_in(item, depth + 1) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: visible_in(item, depth + 1) for name, item in value})
    return value


class Written(Given):
    """A form that people fill in: its texts are made visible before their lengths are checked."""

    @model_validator(mode="before")
    @classmethod
    def _texts_are_visible(cls, data: Any) -> Any:
        return visible_in(data)


def redact(message: str, *, keep: Collection[str] = ()) -> str:
    """Take out what identifies or authorises a person: for logs and traces, all of it.

    Args:
        keep: Values that may stay, as the addresses a reply is about.
    """
    if _SUSPICIOUS.search(message) is None:
        return message
    message = _EMAIL.sub(lambda m: m[0] if m[0].lower() in keep else "[email]", message)
    for pattern, replacement in _CREDENTIALS:
        message = pattern.sub(replacement, message)
    return _LONG_NUMBER.sub("[number]", message)


def redact_reply(message: str, *, keep: Collection[str] = ()) -> str:
    """Take out of a reply what nobody should read in one: credentials, card numbers, and addresses
    that are not among `keep`. Tracking numbers stay: only what passes the card checksum goes."""
    if _SUSPICIOUS.search(message) is None:
        return message
    message = _EMAIL.sub(lambda m: m[0] if m[0].lower() in keep else "[email]", message)
    for pattern, replacement in _CREDENTIALS[:1] + _CREDENTIALS[2:]:
        message = pattern.sub(replacement, message)
    return _LONG_NUMBER.sub(lambda m: "[number]" if _is_card(m[0]) else m[0], message)


def redact_record(value: Any, *, keep: Collection[str] = ()) -> Any:
    """Take secrets out of a JSON value that people keep, such as what was said in a case.

    Unlike a reply it holds what people wrote: passwords, security codes and codes of gift cards
    go too.

    Args:
        value: Texts, at any depth; what else it holds stays.
        keep: Addresses that may stay, lower-case.
    """
    if isinstance(value, str):
        for pattern, replacement in (*_SAID, _CREDENTIALS[1]):
            value = pattern.sub(replacement, value)
        return redact_reply(value, keep=keep)
    if isinstance(value, Mapping):
        return {key: redact_record(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_record(item, keep=keep) for item in value]
    return value


def _is_card(text: str) -> bool:
    """Check by ISO/IEC 7812-1, annex B."""
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def emails_in(value: Any) -> set[str]:
    """Return the addresses in a JSON value, lower-case."""
    return {m.lower() for text in texts_in(value) for m in _EMAIL.findall(text)}


def safe_links(reply: str, hosts: Collection[str]) -> str:
    """Leave only links to `hosts` or to paths of our own; markup that loads or hides goes.

    An image is loaded by showing it, which tells its address to whoever chose it: none stays.

    Args:
        hosts: Lower-case names that replies may link to.
    """
    if not re.search(r"[(<:/]|www\.", reply):
        return reply
    reply = _REFERENCE.sub("", reply)
    reply = _MARKDOWN_LINK.sub(lambda m: _link(m, hosts), reply)
    reply = _HTML.sub("", reply)
    return _ADDRESS.sub(lambda m: m[0] if _is_allowed(m[0], hosts) else LINK_REMOVED, reply)


def _link(match: re.Match[str], hosts: Collection[str]) -> str:
    words, address = match[1], match[2]
    if match[0].startswith("!") or not _is_allowed(address, hosts):
        return words or LINK_REMOVED
    return match[0]


def _is_allowed(address: str, hosts: Collection[str]) -> bool:
    """Whether an address is a path of ours or at an allowed host, by https, without credentials."""
    if re.fullmatch(r"/(?![/\\])[^\s\\]*", address):
        return True
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host = (parts.hostname or "").lower()
    except ValueError:
        return False
    plain = parts.scheme == "https" or (parts.scheme in ("", "http") and host in _LOCAL)
    return plain and parts.username is None and host in hosts


_LOCAL: Final = ("localhost", "127.0.0.1")
