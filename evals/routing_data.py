"""Read labelled utterances in the layouts people keep them in, and say what each label asks of us.

Read are our own table (`operation: [utterances]`), lists and lines of objects, CSV and TSV with
named columns, and a JSON object of splits that hold `[utterance, label]` pairs; all also gzipped.
`routing_maps/*.yaml` names the operations that other people's labels ask for.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.errors import InvalidInput
from tools.registry import OPERATIONS

NONE = "none"
MAPS = Path(__file__).parent / "routing_maps"
_TEXT = ("utterance", "text", "instruction", "query", "message", "question", "sentence", "input")
# The finest label first: a file may name a group beside it.
_LABEL = ("operation", "intent", "fine", "label", "category", "route", "domain", "expected", "want")


@dataclass(frozen=True, slots=True)
class Labelled:
    text: str
    label: str
    wanted: frozenset[str]
    """Keys of the operations that serve it; empty when it is out of scope."""


def read(path: Path) -> list[Labelled]:
    """Read a file of labelled utterances.

    Raises:
        InvalidInput: No utterances and labels can be made out in it.
    """
    raw = path.read_bytes()
    name = path.name.lower()
    if raw[:2] == b"\x1f\x8b":
        raw, name = gzip.decompress(raw), name.removesuffix(".gz")
    rows = [(" ".join(t.split()), label) for t, label in _rows(raw.decode("utf-8-sig"), name)]
    rows = [(text, label) for text, label in rows if text]
    if not rows:
        raise InvalidInput(f"{path.name} holds no labelled utterances.", field="data")
    return [Labelled(text, label, operations_for(label)) for text, label in rows]


def _rows(text: str, name: str) -> Iterator[tuple[str, str]]:
    if name.endswith((".csv", ".tsv", ".txt")):
        return _columns(text)
    if name.endswith((".yaml", ".yml")):
        return _pairs(yaml.safe_load(text))
    try:
        return _pairs(json.loads(text))
    except json.JSONDecodeError:
        lines = [line for line in text.splitlines() if line.strip()]
        if lines and lines[0].lstrip().startswith(("{", "[")):
            return _pairs([json.loads(line) for line in lines])
    return _columns(text)


def _columns(text: str) -> Iterator[tuple[str, str]]:
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if len(row) > 1]
    if not rows:
        return
    head = [cell.strip().lower() for cell in rows[0]]
    if any(cell in _TEXT for cell in head) and any(cell in _LABEL for cell in head):
        yield from _pairs([dict(zip(head, row, strict=False)) for row in rows[1:]])
    else:
        yield from ((row[0], row[1]) for row in rows)


def _pairs(data: Any) -> Iterator[tuple[str, str]]:
    if isinstance(data, Mapping):
        for key, values in data.items():
            items = values if isinstance(values, list) else [values]
            for item in items:
                if isinstance(item, str):
                    yield item, str(key)
                else:
                    yield from _pairs([item])
    elif isinstance(data, list):
        for item in data:
            if isinstance(item, Mapping):
                yield from _fields({str(k).lower(): v for k, v in item.items()})
            elif isinstance(item, list) and len(item) >= 2:
                yield str(item[0]), str(item[1])


def _fields(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    text = next((row[name] for name in _TEXT if row.get(name)), None)
    labels = [str(row[name]) for name in _LABEL if row.get(name) not in (None, "")]
    if text is None or not labels:
        return
    yield str(text), next((label for label in labels if is_known(label)), labels[0])


def _folded(label: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "_", label.lower()).strip("_.")


@cache
def mapping() -> Mapping[str, tuple[str, ...]]:
    """Return the patterns of operations each label of other people asks for.

    Two sets may use one name, as long as they mean the same by it.
    """
    table: dict[str, tuple[str, ...]] = {}
    for path in sorted(MAPS.glob("*.yaml")):
        for label, patterns in yaml.safe_load(path.read_text()).items():
            given = tuple(patterns or ())
            assert table.setdefault(_folded(label), given) == given, f"{path.name}: {label} differs"
    return table


def is_known(label: str) -> bool:
    return label in OPERATIONS or label == NONE or _folded(label) in mapping()


@cache
def operations_for(label: str) -> frozenset[str]:
    """Return the operations a label asks for. One that nothing of ours serves is out of scope."""
    if label in OPERATIONS:
        return frozenset((label,))
    return frozenset(_matching(mapping().get(_folded(label), ())))


def _matching(patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        yield from (key for key in OPERATIONS if fnmatchcase(key, pattern))
