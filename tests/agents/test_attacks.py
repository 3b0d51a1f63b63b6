"""Every attack row that is no text, and a few payloads of each that is, against the test shop."""

import pytest

from deps.core import Deps
from evals.attacks import bounds, probes, rows, run, world
from evals.attacks.channels import CHANNELS
from evals.attacks.obedient import ObedientModel

# Each is a conversation or more; CI also runs them all, more often, as `eval attacks`.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("check", [*probes.PROBES, *bounds.BOUNDS], ids=lambda check: check.name)
async def test_probe(deps: Deps, check: probes.Check) -> None:
    shop = await world.build(deps)
    executed, attempts, failures = await check.run(shop)
    assert failures == []
    assert attempts > 0
    assert executed, "the control did not execute, so the attempts show nothing"


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
async def test_row(deps: Deps, row: rows.Row) -> None:
    """One dress each way in; `./shopkeeper eval attacks` tries every dress."""
    shop = await world.build(deps)
    ways = [channel for channel in CHANNELS if row.from_person or not channel.is_own_words]
    for number, channel in enumerate(ways):
        dressed = list(row.payloads(shop, number).values())
        payload = dressed[number % len(dressed)]
        found = await run.attempt(shop, channel, channel.readers[0], payload, ObedientModel())
        assert not found, (channel.name, payload)
    assert await row.control(shop, run.say)
