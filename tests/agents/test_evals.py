"""The evals run here too, so that a change that makes the planner worse fails the build."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.models import override_allow_model_requests
from pydantic_evals.evaluators import EvaluatorContext
from pydantic_evals.otel import SpanNode, SpanTree

from db.models.agent import AgentCall, CallOutcome
from db.types import new_id
from deps import telemetry
from deps.core import Deps
from evals import agents, routing, sale
from tests import factories
from tests.agents import openai_server
from tests.agents.openai_server import Answer


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


CASES = """
name: small
cases:
- name: staff ask what sold
  inputs: {role: merchant, say: ["what did we sell today?"]}
  evaluators: [{Judged: {expected: {calls: [{analytics.sales_today: {}}]}}}]
- name: a guest adds to the cart
  inputs: {role: guest, say: ["put 3 of MUG-CAMP in my cart"]}
  evaluators:
  - Judged: {expected: {calls: [{cart.add_item: {sku: MUG-CAMP, quantity: QUANTITY}}]}}
"""


async def small(
    deps: Deps, tmp_path: Path, capsys: pytest.CaptureFixture[str], quantity: int, **more: Any
) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "small.yaml"
    path.write_text(CASES.replace("QUANTITY", str(quantity)))
    deps = replace(deps, settings=deps.settings.model_copy(update={"data_dir": tmp_path}))
    code = await agents.main(deps, data=path, as_json=True, **more)
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else {"told": printed.err}


async def test_right_calls_pass_every_run(
    deps: Deps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = await small(deps, tmp_path, capsys, 3, k=2)
    assert code == 0, result
    assert result["agents"]["small"]["pass_hat"] == {"1": 1.0, "2": 1.0}
    assert json.loads((tmp_path / "evals" / "agents.json").read_text()) == result


WRONG = """
name: wrong
cases:
- name: "arguments"
  inputs: {role: guest, say: ["put 3 of MUG-CAMP in my cart"]}
  evaluators: [{Judged: {expected: {calls: [{cart.add_item: {quantity: 4}}]}}}]
- name: "called nothing_unasked"
  inputs: {role: guest, say: ["put 3 of MUG-CAMP in my cart"]}
  evaluators: [{Judged: {expected: {calls: [{cart.remove_item: {}}]}}}]
- name: "nothing_unasked"
  inputs: {role: guest, say: ["put 3 of MUG-CAMP in my cart"]}
  evaluators: [{Judged: {expected: {}}}]
- name: "called"
  inputs: {role: merchant, say: ["what is running low and what did we sell today?"]}
  evaluators: [{Judged: {expected: {calls: [{analytics.sales_today: {}}, {inventory.low: {}}]}}}]
- name: "called "
  inputs: {role: merchant, say: ["stock of MUG-TIDE"]}
  evaluators: [{Judged: {expected: {calls: [{inventory.levels: {}}], waits: checkout.buy}}}]
- name: "traced"
  inputs: {role: guest, say: ["put 3 of MUG-CAMP in my cart"]}
  evaluators:
  - Judged: {expected: {calls: [{cart.add_item: {}}]}}
  - HasMatchingSpan: {evaluation_name: traced, query: {name_equals: operation cart.remove_item}}
- name: "unjudged"
  inputs: {role: guest, say: ["hello"]}
  evaluators:
  - Judged: {expected: {}}
  - HasMatchingSpan: {evaluation_name: traced, query: {or_: [{min_depth: 1}], max_depth: 1}}
- name: ""
  inputs: {role: merchant, say: ["what is running low and what did we sell today?"]}
  evaluators: [{Judged: {expected: {calls: [{inventory.low: {}}, {analytics.sales_today: {}}]}}}]
"""


async def test_what_was_wrong_fails_by_its_name(
    deps: Deps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each case is named after the verdicts it must lose: a wrong tool, argument, order, act."""
    path = tmp_path / "wrong.yaml"
    path.write_text(WRONG)
    deps = replace(deps, settings=deps.settings.model_copy(update={"data_dir": tmp_path}))
    assert await agents.main(deps, data=path, as_json=True) == 1
    scores = json.loads(capsys.readouterr().out)["agents"]["wrong"]
    lost = {failed["case"]: set(failed["wrong"]) for failed in scores["failed"]}
    # A verdict that could not be given counts as lost.
    assert lost.pop("unjudged") == {"traced"}
    assert lost == {name: set(name.split()) for name in lost}
    assert len(lost) == 6
    assert scores["unasked_acts"] == 2


@pytest.mark.parametrize(
    ("has_span", "has_row", "is_right"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, True)],
)
def test_what_spans_tell_is_in_the_rows_and_nothing_else_is(
    has_span: bool, has_row: bool, is_right: bool
) -> None:
    at = datetime(2026, 1, 30, tzinfo=UTC)
    turn = SpanNode(
        name="turn 1", trace_id=1, span_id=1, parent_span_id=None, start_timestamp=at,
        end_timestamp=at, attributes={},
    )  # fmt: skip
    told: dict[str, Any] = {telemetry.OPERATION: "product.search", telemetry.OUTCOME: "done"}
    operation = replace(turn, name="operation", span_id=2, parent_span_id=1, attributes=told)
    row = AgentCall(
        run_id=new_id(), operation="product.search", arguments={}, arguments_sha256="",
        outcome=CallOutcome.DONE, started_at=at,
    )  # fmt: skip
    tree = SpanTree()
    tree.add_spans([turn, *[operation] * has_span])
    context = EvaluatorContext(
        name=None, inputs=agents.Asked(role="guest", say=["mugs?"]), metadata=None,
        expected_output=None, output=agents.Record(rows=[row] * has_row), duration=0.0,
        _span_tree=tree, attributes={}, metrics={},
    )  # fmt: skip
    assert agents.Judged().evaluate(context)["recorded"].value is is_right


async def test_live_without_a_key_says_so(
    deps: Deps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = await small(deps, tmp_path, capsys, 3, live=True)
    assert code == 1
    assert "OPENAI_API_KEY" in result["told"]


async def test_live_asks_the_configured_model_and_counts_its_cost(
    deps: Deps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(CASES.split("- name: a guest")[0])
    async with openai_server.serve() as server:
        route = {"wishes": [{"domain": "analytics", "text": "sales"}], "reason": "ok"}
        server.script(
            "gpt-4o",
            Answer(tool="final_result", arguments=route),
            Answer(tool="analytics_sales_today"),
            Answer(text="Nothing yet."),
        )
        live = deps.settings.model_copy(
            update={"openai_base_url": server.url, "models": "gpt-4o", "data_dir": tmp_path}
        )
        with override_allow_model_requests(True):  # They go to the server above.
            live_deps = replace(deps, settings=live)
            code = await agents.main(live_deps, data=path, as_json=True, live=True)
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result["agents"]["one"]["failed"]
    assert result["model"] == "gpt-4o"
    assert result["agents"]["one"]["tokens"] == 45
    assert result["cost_usd"] > 0


def test_every_dataset_names_operations_that_exist() -> None:
    found = [agents.load(path) for path in sorted(agents.DATASETS.glob("*.yaml"))]
    assert sum(len(dataset.cases) for dataset in found) >= 50
