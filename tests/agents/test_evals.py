"""The evals run here too, so that a change that makes the planner worse fails the build."""

import json

import pytest

from deps.core import Deps
from evals import routing, sale
from tests import factories


async def test_routing_stays_above_its_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    assert await routing.main(as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["utterances"] >= 170
    assert printed["out_of_scope"] >= 30
    assert printed["false_actions"] == 0


async def test_a_guest_can_buy_by_chat_alone(deps: Deps) -> None:
    await factories.product(deps, sku="MUG-1", title="Stoneware mug", price=1250, stock=10)
    await factories.product(deps, sku="BOWL-1", title="Enamel bowl", price=950, stock=5)
    assert await sale.hold(deps) == 0


async def test_the_sale_fails_when_there_is_nothing_to_sell(deps: Deps) -> None:
    assert await sale.hold(deps) == 1
