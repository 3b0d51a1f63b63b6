"""The command line, as a person's processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner, Result

from api.cli import app, expected, pytest_arguments
from deps.process import is_alive

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120.0
COMMANDS = ["demo", "serve", "worker", "migrate", "import", "chat", "invariants", "bench", "eval"]


def shopkeeper(*arguments: str, **environment: str) -> Result:
    """Run a command in this process; those that serve until a signal get one of their own."""
    called = CliRunner().invoke(app, arguments, env=environment, prog_name="shopkeeper")
    if called.exception is not None and not isinstance(called.exception, SystemExit):
        raise called.exception
    return called


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def environment(database_url: str, valkey: object, tmp_path: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": plain(database_url),
        "REDIS_URL": str(getattr(valkey, "url", "")),
        "SHOPKEEPER_DATA_DIR": str(tmp_path),
    }


def assert_sentence(result: Result, *parts: str) -> None:
    said = result.stderr.strip()
    assert result.exit_code == 1, said
    assert len(said.splitlines()) == 1, said
    assert all(part in said for part in parts), said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_shows_an_example(command: str) -> None:
    result = shopkeeper(command, "--help")
    assert result.exit_code == 0
    assert "./shopkeeper" in result.stdout


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = shopkeeper(
            "demo", "--no-browser", f"--port={port}", SHOPKEEPER_DATA_DIR=str(tmp_path)
        )
    assert_sentence(result, f"Port {port} is taken")
    assert not list(tmp_path.iterdir())  # Nothing was started for it.


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://shop:hush@127.0.0.1:1/shop", "refused"),
        ("mysql://shop:hush@127.0.0.1/shop", "not postgresql"),
        ("nonsense", "not a database address"),
    ],
)
def test_a_wrong_database_is_one_sentence_without_the_password(
    url: str, reason: str, environment: dict[str, str]
) -> None:
    result = shopkeeper("migrate", **{**environment, "DATABASE_URL": url})
    assert_sentence(result, reason)
    assert "hush" not in result.stderr


def test_a_wrong_setting_is_one_sentence() -> None:
    result = shopkeeper("migrate", SHOPKEEPER_PORT="many")
    assert_sentence(result, "SHOPKEEPER_PORT")


def test_a_data_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # Root may write anywhere, but not below a file.
    result = shopkeeper("migrate", SHOPKEEPER_DATA_DIR=str(tmp_path / "file" / "data"))
    assert_sentence(result, "PostgreSQL cannot use", "SHOPKEEPER_DATA_DIR")


def test_fresh_refuses_a_database_of_someone_s(environment: dict[str, str]) -> None:
    result = shopkeeper("demo", "--fresh", "--port=0", "--no-browser", **environment)
    assert_sentence(result, "--fresh", "DATABASE_URL")


def test_migrate_tells_where_the_schema_is(environment: dict[str, str]) -> None:
    assert "the newest" in shopkeeper("migrate", **environment).stdout


def test_invariants_hold_on_an_empty_shop(environment: dict[str, str]) -> None:
    result = shopkeeper("invariants", "--json", **environment)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["checked"] > 0
    assert answer["violations"] == []


def test_a_missing_file_is_one_sentence(environment: dict[str, str]) -> None:
    result = shopkeeper("import", "absent.csv", **environment)
    assert_sentence(result, "absent.csv")


def test_dead_letters_of_an_empty_shop(environment: dict[str, str]) -> None:
    assert shopkeeper("events", "dead", **environment).stdout == "No dead letters.\n"


def test_replay_wants_a_choice(environment: dict[str, str]) -> None:
    assert_sentence(shopkeeper("events", "replay", **environment), "--letter")


def test_an_option_that_a_run_does_not_take_is_one_sentence(environment: dict[str, str]) -> None:
    result = shopkeeper("eval", "routing", "--payloads", "x.yaml", **environment)
    assert_sentence(result, "routing takes no --payloads")


def test_a_file_to_measure_by_that_is_not_there_is_named() -> None:
    assert_sentence(shopkeeper("eval", "routing", "--data", "/none/such"), "no /none/such")


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["chat", "--as", "king"], "--as"),
        (["events", "replay", "--event", "7"], "--letter or --event"),
        (["events", "replay", "--from", str(2**63)], "--from"),
        (["events", "replay", "--to", "-1"], "--to"),
        (["events", "tail", "--after", str(2**63)], "--after"),
        (["serve", "--workers", "0"], "--workers"),
        (["eval", "routing", "--k", "99"], "--k"),
    ],
)
def test_an_option_that_cannot_be_is_named(arguments: list[str], wrong: str) -> None:
    result = shopkeeper(*arguments)
    assert result.exit_code == 2
    assert wrong in result.stderr


def test_a_catalogue_is_imported_from_where_the_caller_is(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "shop.csv").write_text("handle,title,sku,price\nmug,Mug,MUG,12.50\nbowl,,B,x\n")
    environment |= {"SHOPKEEPER_CALLED_FROM": str(tmp_path)}
    result = shopkeeper("import", "shop.csv", "--errors", "bad.csv", **environment)
    assert result.exit_code == 1, "a row was refused"
    assert "1 products created" in result.stdout
    assert "3,title,is missing," in (tmp_path / "bad.csv").read_text()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/data"), "Permission denied: /data"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused: the connection"),
        (
            OSError(28, "No space left on device"),
            "No space left on device: make room and try again.",
        ),
        (OSError(5, "Input/output error"), None),
        (KeyError("a bug"), None),
    ],
)
def test_what_people_can_mend_is_told_and_bugs_are_raised(
    error: Exception, sentence: str | None
) -> None:
    assert expected(error) == sentence


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ([], ["-n", "2", "-m", "not slow"]),
        (["-q", "--durations", "40"], ["-n", "2", "-m", "not slow", "-q", "--durations", "40"]),
        (["-n", "1", "-k", "cart"], ["-m", "not slow", "-n", "1", "-k", "cart"]),
        (["-m", "slow"], ["-n", "2", "-m", "slow"]),
        (["tests/tools", "-q"], ["-n", "2", "tests/tools", "-q"]),
        (["tests/conftest.py::test_x", "-n0"], ["tests/conftest.py::test_x", "-n0"]),
    ],
)
def test_tests_that_take_minutes_run_when_they_are_named(
    given: list[str], called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert pytest_arguments(given) == called


def test_the_doctor_finds_nothing_wrong_here(environment: dict[str, str]) -> None:
    result = shopkeeper("doctor", "--json", **{**environment, "SHOPKEEPER_PORT": "0"})
    findings = json.loads(result.stdout)
    assert [finding for finding in findings if not finding["ok"]] == []
    assert result.exit_code == 0


def test_the_doctor_says_what_to_mend(environment: dict[str, str]) -> None:
    away = "postgresql://shop:hush@127.0.0.1:1/shop"
    result = shopkeeper("doctor", **{**environment, "DATABASE_URL": away})
    assert result.exit_code == 1
    assert "mend: Correct DATABASE_URL" in result.stdout
    assert "hush" not in result.stdout


@contextmanager
def serving(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "api.cli", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_stopped_server_leaves_no_process(tmp_path: Path) -> None:
    environment = os.environ | {"SHOPKEEPER_DATA_DIR": str(tmp_path)}
    for name in ("DATABASE_URL", "REDIS_URL"):
        environment.pop(name, None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with serving(["serve", "--port=0"], environment) as process:
            _until("Serving at", process)
            assert len(mentioning(str(tmp_path))) >= 2
            process.send_signal(number)
            assert process.wait(TIMEOUT_S) == 0, number
        assert mentioning(str(tmp_path)) == [], number


def mentioning(text: str) -> list[str]:
    """Return the command lines of the processes that mention `text`."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = command.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It ended while we looked.
        if text in line:
            found.append(line)
    return found


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _until(said: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if said in line:
            return line
    raise AssertionError(f"it never said {said!r}")


@pytest.fixture
def two_workers(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with serving(["serve", "--port=0", "--workers=2"], os.environ | environment) as process:
        yield process, _until("Serving at", process).split()[-1]


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(is_alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_workers_share_a_port_and_end_with_their_parent(
    two_workers: tuple[subprocess.Popen[str], str],
) -> None:
    process, address = two_workers
    children = _children_of(process.pid)
    assert len(children) == 2
    for _ in range(20):
        assert httpx.get(f"{address}/health/live", timeout=60).status_code == 200
    # One scrape, whoever answers it, counts what both have answered.
    assert (
        'route="/health/live",status="200"} 20.0'
        in httpx.get(f"{address}/metrics", timeout=60).text
    )

    os.kill(children[0], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while len(alive := [c for c in _children_of(process.pid) if is_alive(c)]) < 2:
        assert time.monotonic() < deadline, "the dead one was not replaced"
        time.sleep(0.1)
    assert httpx.get(f"{address}/health/live", timeout=60).status_code == 200

    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert _gone(alive)


def test_killed_parent_leaves_no_worker_behind(
    two_workers: tuple[subprocess.Popen[str], str],
) -> None:
    process, _ = two_workers
    children = _children_of(process.pid)
    process.kill()
    process.wait()
    assert _gone(children)
