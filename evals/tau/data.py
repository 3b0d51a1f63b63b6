"""Reading the benchmark's files: the shop, and tasks with the calls and the state they lead to."""

import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

Json = dict[str, Any]
TASKS = "*_with_gold_state.json*"
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


class DataMissing(Exception):
    """A file that the run needs is not there, or is not what it should be."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool, and what the benchmark's own tool made of it.

    `is_ok` is None where the file does not say.
    """

    name: str
    arguments: Json
    is_ok: bool | None = None
    error: str | None = None
    result: Any = None


@dataclass(frozen=True, slots=True)
class Task:
    """Calls in order, and whole orders and users as they are afterwards where they changed."""

    id: str
    user_id: str | None
    calls: Sequence[Call]
    orders: Mapping[str, Json]
    users: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Shop:
    products: Mapping[str, Json]
    users: Mapping[str, Json]
    orders: Mapping[str, Json]


def shop(folder: Path) -> Shop:
    """Read the shop: one file with products, users and orders, or one file for each.

    Raises:
        DataMissing: There is no such file, or it is no such shop.
    """
    for path in _files(folder):
        if "db" in path.name.lower():
            found = _content(path)
            if isinstance(found, dict) and {"products", "users", "orders"} <= found.keys():
                return Shop(found["products"], found["users"], found["orders"])
    parts = {path.name.partition(".")[0]: path for path in _files(folder)}
    if not {"products", "users", "orders"} <= parts.keys():
        raise DataMissing(f"There is no shop in {folder}: no *db*.json(.gz) with its three tables.")
    return Shop(*(_content(parts[name]) for name in ("products", "users", "orders")))


def task_files(place: Path) -> list[Path]:
    """Return a file of tasks, or all there are in a folder.

    Raises:
        DataMissing: There is none.
    """
    if not place.is_dir():
        return [place]
    found = sorted(path for path in place.glob(TASKS) if path.name.endswith(SUFFIXES))
    if not found:
        raise DataMissing(f"There are no tasks in {place}: nothing matches {TASKS}.")
    return found


def tasks(path: Path) -> list[Task]:
    """Read tasks from JSON lines, or from a JSON list or an object with `tasks`; gzip or plain.

    A line may also be a single call with the state after it.

    Raises:
        DataMissing: The file is absent or holds no tasks.
    """
    if not path.exists():
        raise DataMissing(f"There is no {path}.")
    found = [_task(row, at) for at, row in enumerate(_rows(path))]
    if not found:
        raise DataMissing(f"{path} holds no tasks.")
    return found


def _task(row: Json, at: int) -> Task:
    if "actions" not in row and "evaluation_criteria" in row:
        row = {**row, **row["evaluation_criteria"]}
    calls = row.get("actions")
    if calls is None:
        if "name" not in row:
            raise DataMissing(f"Task {at} has neither actions nor a call.")
        calls = [row]
    state = row.get("final_state_diff") or row.get("state_diff") or {}
    return Task(
        id=str(row.get("id", row.get("task_id", at))),
        user_id=row.get("user_id"),
        calls=[_call(call) for call in calls or []],
        orders=state.get("orders") or {},
        users=state.get("users") or {},
    )


def _call(row: Json) -> Call:
    arguments = row.get("arguments", row.get("kwargs")) or {}
    if isinstance(arguments, str):
        arguments = orjson.loads(arguments)
    is_ok, error, result = row.get("ok"), row.get("error"), row.get("result")
    if error is None and isinstance(result, str) and result.startswith("Error"):
        error, result = result, None
    if is_ok is None and error:
        is_ok = False
    return Call(row["name"], arguments, is_ok, error, result)


def _rows(path: Path) -> Iterator[Json]:
    content = _bytes(path)
    try:
        whole = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            yield from (orjson.loads(line) for line in content.splitlines() if line.strip())
        except orjson.JSONDecodeError as error:
            raise DataMissing(f"{path} is neither JSON nor JSON lines: {error}.") from error
        return
    if isinstance(whole, dict):
        whole = whole.get("tasks", [whole])
    yield from whole


def _content(path: Path) -> Any:
    return orjson.loads(_bytes(path))


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataMissing(f"There is no folder {folder}.")
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
