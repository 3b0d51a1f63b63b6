"""The shop that grows: what it reports, and that its past is one that could have been."""

import orjson
import pytest

from bench.growth import orders, run, skus, timing
from deps.core import SYSTEM, Deps
from tools import invariant


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNS", "SALES", "WARM"):
        monkeypatch.setattr(timing, name, 1)


async def test_every_dimension_is_measured_at_every_step(
    deps: Deps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run.main(deps, sizes="7,3", lines="1,3", orders="0,60", as_json=True) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert {name: [row[by] for row in report[name]] for name, by in _STEPS.items()} == {
        "sizes": [3, 7],
        "lines": [1, 3],
        "orders": [0, 60],
    }
    for rows in report.values():
        for row in rows:
            assert all(figure > 0 for figure in list(row.values())[1:]), row


_STEPS = {"sizes": "skus", "lines": "lines", "orders": "orders"}


async def test_the_past_keeps_every_invariant(deps: Deps) -> None:
    staff = deps.acting_as(SYSTEM)
    place = await skus.open_shop(staff)
    await skus.grow(staff, place, 0, 20)
    await orders.grow(staff, place, 0, 700, 20)
    assert await invariant.check(deps) == []
    async with staff.begin() as uow:
        kinds = await uow.fetch("SELECT DISTINCT status, payment_status FROM orders")
        ages = await uow.fetchrow(
            "SELECT $1 - min(created_at), $1 - max(created_at) FROM orders", uow.now
        )
        hindered = await uow.fetchval("SHOW session_replication_role")
    assert {tuple(kind) for kind in kinds} == {
        ("completed", "captured"),
        ("completed", "refunded"),
        ("cancelled", "failed"),
        ("placed", "captured"),
    }
    assert ages[0].days in (364, 365)
    assert ages[1].days == 0
    assert hindered == "origin"


@pytest.mark.parametrize(
    ("sizes", "lines", "orders_", "named"),
    [
        ("1,x", "1", "0", "sizes"),
        ("0", "1", "0", "sizes"),
        ("1", "1,101", "0", "lines"),
        ("1", "2", "0", "lines"),
        ("1", "1", "", "orders"),
    ],
)
async def test_a_list_that_cannot_be_is_refused(
    deps: Deps,
    sizes: str,
    lines: str,
    orders_: str,
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await run.main(deps, sizes=sizes, lines=lines, orders=orders_) == 1
    assert f"--{named}" in capsys.readouterr().err
