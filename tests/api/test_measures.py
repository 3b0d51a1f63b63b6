"""Benchmarks and evals as commands find them: which run, what they are told, what is made of it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from api import measures
from api.servers import CommandFailed
from deps.settings import Settings

QUICK = '''"""Counts to one."""

async def main(deps, *, as_json=False, k=1):
    async with deps.begin() as uow:
        one = await uow.fetchval("SELECT count(*) FROM orders") + k
    print(f'{{"one": {one}}}' if as_json else f"one is {one}")
'''
SLOW = '''"""Takes its time."""
SLOW = True

async def main(deps, *, as_json=False, live=False):
    print('{"slow": true}' if as_json else "slow, but it ran")
    return 1
'''


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        database_url=database_url,
        redis_url="redis://127.0.0.1:1",
        data_dir=tmp_path,
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "measures_of_the_tests"
    (tmp_path / name / "slow").mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "quick.py").write_text(QUICK)
    (tmp_path / name / "nothing.py").write_text('"""Has no main."""\n')
    (tmp_path / name / "slow" / "__init__.py").touch()
    (tmp_path / name / "slow" / "run.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[loaded]


async def test_without_a_name_all_are_listed_and_the_quick_ones_run(
    settings: Settings, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await measures.run(settings, package, None, {"as_json": False, "k": None}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "quick        Counts to one.",
        "slow         Takes its time.  (by name only)",
        "",
        "quick",
        "one is 1",
        "",
        "1 of 1 passed.",
    ]


async def test_a_real_model_is_asked_by_those_that_can(
    settings: Settings, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await measures.run(settings, package, None, {"live": True}) == 1
    said = capsys.readouterr().out
    assert "one is" not in said, "it does not take --live"
    assert said.endswith("slow, but it ran\n\n0 of 1 passed. slow\n")


async def test_what_all_print_for_programs_is_one_document(
    settings: Settings, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await measures.run(settings, package, None, {"as_json": True}) == 0
    assert orjson.loads(capsys.readouterr().out) == {"quick": {"one": 1}}


async def test_one_runs_by_its_name_with_its_options(
    settings: Settings, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await measures.run(settings, package, "quick", {"k": 3, "data": None}) == 0
    assert capsys.readouterr().out == "one is 3\n"


async def test_what_is_not_there_is_refused(settings: Settings, package: str) -> None:
    with pytest.raises(CommandFailed, match=f"no absent in {package}; there is: quick, slow"):
        await measures.run(settings, package, "absent", {})
    with pytest.raises(CommandFailed, match="slow takes no --k, --sizes"):
        await measures.run(settings, package, "slow", {"k": 2, "sizes": "9"})
