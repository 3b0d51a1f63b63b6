"""Mutation testing of what the database itself decides: `.venv/bin/python .ci/mutate_sql.py`.

The functions, checks, unique constraints, unique indexes and triggers of the tables and functions
that `.ci/mutants.toml` names are read from a migrated template. Every mutant (`.ci/sql_mutants.py`;
and anything but a function is dropped once) is put into a copy of it, from which the tests take
their databases: those that called the function or touched the table, what noticed most first, then
the fastest, until one fails. What no test noticed is printed; docs/mutation.md says why it may be.

Names limit the run, `credit_*` or `stock_take`; so does the number of a mutant, `stock_take:17`,
and then more tests are tried.
"""

import asyncio
import gc
import hashlib
import inspect
import os
import pickle
import re
import select
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import pytest
from mutation import (
    PLAIN,
    ROOT,
    TEMPLATE,
    TIMEOUT_S,
    VERDICTS,
    KeptTemplate,
    end,
    fork,
    say,
    servers,
)
from sql_mutants import mutants_of

from deps import postgres
from deps.embedded_postgres import EmbeddedPostgres
from tests import databases
from tests.databases import Clones, connection_to

MUTANT = "template_mutant"
REMEMBERED = Path(tempfile.gettempdir()) / "shopkeeper-mutate-sql"
TESTS_MAX_S = 6.0  # How long the tests of one mutant may take without it,
ON_NUMBERS_MAX_S = 60.0  # and when mutants are named.
OBJECTS = """
    SELECT 'FUNCTION' AS kind, p.proname::text AS name, NULL AS of,
           pg_get_functiondef(p.oid) AS text
    FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.pronamespace = 'public'::regnamespace AND l.lanname IN ('sql', 'plpgsql')
    UNION ALL
    SELECT 'CONSTRAINT', c.conname, c.conrelid::regclass::text, pg_get_constraintdef(c.oid)
    FROM pg_constraint c WHERE c.contype IN ('c', 'u') AND c.connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'INDEX', i.indexrelid::regclass::text, i.indrelid::regclass::text,
           pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
    UNION ALL
    SELECT 'TRIGGER', tgname, tgrelid::regclass::text, pg_get_triggerdef(oid)
    FROM pg_trigger WHERE NOT tgisinternal
    ORDER BY 1 DESC, 3, 2
"""
DONE = """
    SELECT funcname AS name FROM pg_stat_user_functions WHERE calls > 0
    UNION ALL
    SELECT relname FROM pg_stat_user_tables
    WHERE seq_scan + idx_scan + n_tup_ins + n_tup_upd + n_tup_del > 0
"""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`statements` make it out of the template. `touches` is the table or the function, also of a
    trigger.

    A rule is what refuses: a constraint, an index, a trigger and a function of one that raises.
    `undo`, of a function, makes it the template again.
    """

    name: str
    touches: str
    is_rule: bool
    statements: tuple[str, ...]
    shown: str
    undo: str = ""


@dataclass
class Heard:
    """What the tests do without a mutant: what each costs, and what it calls and touches."""

    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    done: dict[str, set[str]] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    kills: dict[str, Counter[str]] = field(default_factory=dict)
    tests_max_s: float = TESTS_MAX_S
    of_rules: tuple[str, ...] = ()

    def add(self, other: "Heard") -> None:
        self.seconds |= other.seconds
        self.source |= other.source
        for name, tests in other.done.items():
            self.done.setdefault(name, set()).update(tests)

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Which tests may notice a mutant, the likeliest first."""
        named = mutant.name.partition(":")[0].rpartition(".")[2]
        kills = self.kills.setdefault(mutant.touches, Counter())
        found = {test for test, source in self.source.items() if named in source}
        found |= self.done.get(mutant.touches, set())
        first = {test for test in self.seconds if mutant.is_rule and test.startswith(self.of_rules)}
        found |= first
        chosen, left_s = [], self.tests_max_s
        for test in sorted(
            found & self.seconds.keys(),
            key=lambda test: (
                -kills[test],
                test not in first,
                named not in self.source[test],
                named.partition("_")[2] not in self.source[test],
                named.partition("_")[0] not in test.partition("::")[0],
                named not in _text_of(test.partition("::")[0]),
                self.seconds[test],
            ),
        ):
            left_s -= self.seconds[test]
            if left_s >= 0 or not chosen:
                chosen.append(test)
        return chosen


@cache
def _text_of(file: str) -> str:
    return (ROOT / file).read_text()


class Listener:
    """Note what the database did for each test, before its rows are deleted."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.test = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.test = item.nodeid
        self.heard.source[item.nodeid] = inspect.getsource(item.obj)  # type: ignore[attr-defined]
        began = time.monotonic()
        result = yield
        self.heard.seconds[item.nodeid] = time.monotonic() - began
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.heard.failed.append(report.nodeid)

    def listen(self, server: EmbeddedPostgres) -> None:
        restored = Clones._restored

        async def heard(clones: Clones, name: str) -> bool:
            async with connection_to(server.dsn(name)) as connection:
                await connection.execute(databases._OTHERS)  # They tell what they did as they end.
                for row in await connection.fetch(DONE):
                    self.heard.done.setdefault(row["name"], set()).add(self.test)
                await connection.execute("SELECT pg_stat_reset()")
            return await restored(clones, name)

        Clones._restored = heard  # type: ignore[method-assign]


def main(names: list[str]) -> int:
    config: dict[str, Any] = tomllib.loads((ROOT / ".ci/mutants.toml").read_text())["sql"]
    with servers() as (_, server):
        assert pytest.main([*PLAIN, "--collect-only", *config["tests"]]) == 0  # Import all, once.
        objects = asyncio.run(_migrated(server))
        heard = _listen(server, [*config["rules"], *config["tests"]])
        heard.of_rules = tuple(config["rules"])
        _add_inner(heard, objects)
        mutants = [
            mutant
            for each in objects
            if any(fnmatch(each["of"] or each["name"], part) for part in config["objects"])
            for mutant in _mutants_of(each)
            if not names or any(_is_named(mutant, name) for name in names)
        ]
        if any(":" in name for name in names):
            heard.tests_max_s = ON_NUMBERS_MAX_S
        gc.freeze()
        return _try_all(server, heard, mutants)


def _is_named(mutant: Mutant, name: str) -> bool:
    return fnmatch(mutant.name if ":" in name else mutant.name.partition(":")[0], name)


async def _migrated(server: EmbeddedPostgres) -> list[Any]:
    await postgres.ensure_database(server.dsn(TEMPLATE))
    await postgres.upgrade(server.dsn(TEMPLATE))
    async with connection_to(server.dsn("postgres")) as connection:
        await connection.execute("ALTER SYSTEM SET track_functions = 'all'")
        await connection.execute("SELECT pg_reload_conf()")
    async with connection_to(server.dsn(TEMPLATE)) as connection:
        return list(await connection.fetch(OBJECTS))


def _listen(server: EmbeddedPostgres, files: list[str]) -> Heard:
    """Run the tests without a mutant; a file that was not changed since is remembered."""
    heard = Heard()
    REMEMBERED.mkdir(exist_ok=True)
    for file in files:
        digest = hashlib.sha256((ROOT / file).read_bytes()).hexdigest()
        answer = REMEMBERED / digest
        if not answer.exists():
            child = fork()
            if child == 0:
                _listen_to(server, file, answer)
            end(child)
        heard.add(pickle.loads(answer.read_bytes()))
    return heard


def _listen_to(server: EmbeddedPostgres, file: str, answer: Path) -> NoReturn:
    try:
        heard = Heard()
        listener = Listener(heard)
        listener.listen(server)
        pytest.main([*PLAIN, file], plugins=[KeptTemplate(), listener])
        assert not heard.failed, f"without a mutant: {heard.failed}"
        answer.write_bytes(pickle.dumps(heard))
    finally:
        os._exit(0)


def _add_inner(heard: Heard, objects: list[Any]) -> None:
    """Whoever called a function called those in it; what was inlined does not say so itself."""
    functions = {each["name"]: each["text"] for each in objects if each["kind"] == "FUNCTION"}
    for _ in range(3):
        for outer, text in functions.items():
            for inner in functions:
                if f"{inner}(" in text.partition("$function$")[2]:
                    heard.done.setdefault(inner, set()).update(heard.done.get(outer, ()))


def _mutants_of(found: Any) -> Iterator[Mutant]:
    kind, name, of, text = found["kind"], found["name"], found["of"], found["text"]
    full = f"{of}.{name}" if of else name
    is_rule = bool(of) or ("RETURNS trigger" in text and "RAISE" in text)
    begin = 0
    make, drop = "", f"DROP {kind} {name}" + (f" ON {of}" if kind == "TRIGGER" else "")
    if kind == "FUNCTION":
        begin = text.index("$function$") + len("$function$")
    elif kind == "CONSTRAINT":
        make, drop = (f"ALTER TABLE {of} {verb} CONSTRAINT {name} " for verb in ("ADD", "DROP"))
    called = re.search(r"EXECUTE FUNCTION (\w+)", text)
    touches = called[1] if called else of or name
    if of:
        yield Mutant(f"{full}:0", touches, is_rule, (drop,), "dropped")
    if kind == "CONSTRAINT" and "ARRAY[" in text:
        return  # The values of an enum.
    for number, mutant in enumerate(mutants_of(text, begin), start=1):
        statements = (f"{make}{mutant.text}",)
        yield Mutant(
            f"{full}:{number}",
            touches,
            is_rule,
            (drop, *statements) if of else statements,
            f"line {mutant.line}: {mutant.before}  ->  {mutant.after}",
            "" if of else text,
        )


def _try_all(server: EmbeddedPostgres, heard: Heard, mutants: list[Mutant]) -> int:
    began = time.monotonic()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    before = unchanged = replace(mutants[0], statements=(), undo="")
    assert asyncio.run(_is_put_in(server, unchanged, None))
    assert _verdict(heard, unchanged) == "survived", "without a mutant"
    for mutant in mutants:
        is_put_in = asyncio.run(_is_put_in(server, mutant, before))
        before = mutant
        if not is_put_in:
            continue
        verdict = _verdict(heard, mutant)
        counts[mutant.name.partition(":")[0]][verdict] += 1
        if verdict != "killed":
            say(f"{verdict:9} {mutant.name}  {mutant.shown}")
    total = sum(counts.values(), Counter[str]())
    for name, verdicts in counts.items():
        say(f"{name}: {verdicts.total()} mutants, {verdicts['survived']} survived")
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(total.items()))
    took = time.monotonic() - began
    say(f"{len(counts)} objects, {total.total()} mutants, {verdicts}; {took:.0f} s")
    return 0


async def _is_put_in(server: EmbeddedPostgres, mutant: Mutant, before: Mutant | None) -> bool:
    """Make the mutant's template; false if PostgreSQL does not take it."""
    if before is None or not before.undo:
        await postgres.drop_database(server.dsn(MUTANT))
        await postgres.clone_database(server.dsn(MUTANT), TEMPLATE)
    async with connection_to(server.dsn(MUTANT)) as connection:
        if before is not None and before.undo:
            await connection.execute(before.undo)
        try:
            for statement in mutant.statements:
                await connection.execute(statement)
        except asyncpg.PostgresError:
            return False
    return True


def _verdict(heard: Heard, mutant: Mutant) -> str:
    tests = heard.tests_of(mutant)
    if not tests:
        return "untested"
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        os.close(reader)
        _try(tests, writer)
    os.close(writer)
    allowed_s = TIMEOUT_S + 5 * sum(heard.seconds[test] for test in tests)
    ready, _, _ = select.select([reader], [], [], allowed_s)
    said = os.read(reader, 1) if ready else b""
    failed = os.read(reader, 1000).decode() if said == b"k" else ""
    if failed:
        heard.kills[mutant.touches][failed] += 1
    os.close(reader)
    end(child, is_hung=not said)
    return VERDICTS[said]


def _try(tests: list[str], writer: int) -> NoReturn:
    try:
        kept = KeptTemplate(MUTANT)
        code = pytest.main([*PLAIN, "-x", *tests], plugins=[kept])
        assert code in (0, 1), code
        failed = next(iter(kept.kills), "")
        os.write(writer, (b"k" if code else b"s") + failed.encode()[:900])
    finally:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
