"""Mutation testing of one module: `.venv/bin/python .ci/mutate.py tools/refund.py`.

Every mutant (`.ci/mutants.py`) is put into a process forked from this one, which has imported
everything, and meets servers and a migrated template that stay. It runs those tests of the
files named in `.ci/mutants.toml` that come past the changed lines, the fastest first, and stops at
the first that fails. What no test noticed is printed; docs/mutation.md says why it may be.

Line numbers after the module limit the run to the mutants on these lines, and try more tests.
"""

import gc
import os
import pickle
import select
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import NoReturn

import coverage
import pytest
from mutants import Mutant, mutants_of, unchanged
from mutation import PLAIN, ROOT, TIMEOUT_S, VERDICTS, KeptTemplate, end, fork, say, servers
from sqlalchemy.orm import configure_mappers

TESTS_MAX_S = 3.0  # How much of the processor the tests of one mutant may take without it,
ON_LINES_MAX_S = 60.0  # and when lines are named.
BATCH = 40


@dataclass
class Heard:
    """What the tests do without a mutant: what each costs, and which come past each line."""

    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    at_line: dict[int, list[str]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    tests_max_s: float = TESTS_MAX_S

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Which tests come past a mutant: those that noticed most so far, then the fastest."""
        lines = range(mutant.first, mutant.last + 1)
        found = {test for line in lines for test in self.at_line.get(line, ())}
        if not found & self.seconds.keys():
            found = set(self.at_line.get(mutant.line, ()))
        chosen, left_s = [], self.tests_max_s
        for test in sorted(
            found & self.seconds.keys(), key=lambda test: (-self.kills[test], self.seconds[test])
        ):
            left_s -= self.seconds[test]
            if left_s >= 0 or not chosen:
                chosen.append(test)
        return chosen


class Listener:
    """Tell the coverage which test runs, and keep its time."""

    def __init__(self, measured: coverage.Coverage, heard: Heard) -> None:
        self.measured, self.heard = measured, heard

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.measured.switch_context(item.nodeid)
        began = time.process_time()
        result = yield
        self.heard.seconds[item.nodeid] = time.process_time() - began
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.heard.failed.append(report.nodeid)


def main(path: str, lines: list[str]) -> int:
    wanted = {int(line) for line in lines}
    files: list[str] = tomllib.loads((ROOT / ".ci/mutants.toml").read_text())["tests"][path]
    with servers() as (home, _):
        assert pytest.main([*PLAIN, "--collect-only", *files]) == 0  # Import all, once.
        configure_mappers()
        heard = listen(path, files, home / "heard")
        heard.tests_max_s = ON_LINES_MAX_S if wanted else TESTS_MAX_S
        assert not heard.failed, f"without a mutant: {heard.failed}"
        functions = [
            each
            for each in gc.get_objects()
            if isinstance(each, FunctionType) and each.__code__.co_filename.endswith(f"/{path}")
        ]
        gc.freeze()
        return Trial(path, heard, functions).run(wanted)


def listen(path: str, files: list[str], answer: Path) -> Heard:
    child = fork()
    if child == 0:
        try:
            heard = Heard()
            measured = coverage.Coverage(
                data_file=None, include=[path], concurrency=["greenlet"], config_file=False
            )
            measured.start()
            pytest.main([*PLAIN, *files], plugins=[Listener(measured, heard)])
            measured.stop()
            data = measured.get_data()
            for name in data.measured_files():
                heard.at_line = data.contexts_by_lineno(name)
            answer.write_bytes(pickle.dumps(heard))
        finally:
            os._exit(0)
    end(child)
    heard = pickle.loads(answer.read_bytes())
    assert isinstance(heard, Heard)
    return heard


@dataclass
class Trial:
    """Try mutants in forked processes, `BATCH` in each, and read what became of them."""

    path: str
    heard: Heard
    functions: list[FunctionType]

    def run(self, wanted: set[int]) -> int:
        """Try every mutant, or those on the wanted lines; say which no test noticed."""
        mutants = [
            mutant
            for mutant in mutants_of(ROOT / self.path)
            if not wanted or wanted & set(range(mutant.first, mutant.last + 1))
        ]
        began = time.monotonic()
        same = list(self.verdicts([unchanged(ROOT / self.path)]))
        assert same == ["survived"], f"without a mutant: {same}"
        counts: Counter[str] = Counter()
        for mutant, verdict in zip(mutants, self.verdicts(mutants), strict=True):
            counts[verdict] += 1
            if verdict != "killed" or wanted:
                place = f"{self.path}:{mutant.first}"
                say(f"{verdict:9} {place}  {mutant.before}  ->  {mutant.after}")
        took = time.monotonic() - began
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        say(f"{self.path}: {counts.total()} mutants, {verdicts}; {took:.0f} s")
        return 0

    def verdicts(self, mutants: list[Mutant]) -> Iterator[str]:
        done = 0
        while done < len(mutants):
            batch = mutants[done : done + BATCH]
            reader, writer = os.pipe()
            child = fork()
            if child == 0:
                os.close(reader)
                self._try_batch(batch, writer)
            os.close(writer)
            for mutant in batch:
                ready, _, _ = select.select([reader], [], [], self._allowed_s(mutant))
                said = os.read(reader, 1) if ready else b""
                done += 1
                yield VERDICTS[said]
                if not said:  # It hangs, or its process is gone.
                    break
            os.close(reader)
            end(child, is_hung=not said)

    def _allowed_s(self, mutant: Mutant) -> float:
        return TIMEOUT_S + 5 * sum(self.heard.seconds[t] for t in self.heard.tests_of(mutant))

    def _try_batch(self, batch: list[Mutant], writer: int) -> NoReturn:
        try:
            for mutant in batch:
                os.write(writer, self._try(mutant))
        finally:
            os._exit(0)

    def _try(self, mutant: Mutant) -> bytes:
        tests = self.heard.tests_of(mutant)
        if not tests:
            return b"u"
        with self._put_in(mutant):
            code = pytest.main(
                [*PLAIN, "-x", *tests], plugins=[KeptTemplate(kills=self.heard.kills)]
            )
        assert code in (0, 1), code
        return b"k" if code else b"s"

    @contextmanager
    def _put_in(self, mutant: Mutant) -> Iterator[None]:
        """Give every function of the module its code of the mutant, for a while."""
        changed = dict(_codes(mutant.code))
        before = [(each, each.__code__) for each in self.functions]
        for each, code in before:
            each.__code__ = changed.get((code.co_qualname, code.co_firstlineno), code)
        yield
        for each, code in before:
            each.__code__ = code


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield (constant.co_qualname, constant.co_firstlineno), constant
            yield from _codes(constant)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
