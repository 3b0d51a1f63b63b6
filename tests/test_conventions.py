"""House rules that a linter cannot know. Each failure names the file, the line and the rule."""

import ast
import inspect
from pathlib import Path

import pytest

from deps.core import ADMIN_SCOPES
from tools.registry import OPERATIONS, Operation, Risk
from tools.surface import load_operations

ROOT = Path(__file__).parent.parent
LAYERS = ("db", "deps", "tools", "agents", "api")
FUNCTION_LINES_MAX = 70
BANNED_STEMS = {"utils", "helpers", "common", "misc", "manager", "base_agent"}
BANNED_CALLS = {  # Call: (layers where it is allowed, what to use instead)
    "commit": (("deps", "db"), "the edge commits; operations never do"),
    "now": (("deps", "agents"), "use `uow.now`; a model stamps its messages"),
    "utcnow": ((), "use `uow.now`"),
}
SOURCES = [
    path
    for layer in LAYERS
    for path in sorted((ROOT / layer).rglob("*.py"))
    if "versions" not in path.parts
]
load_operations()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_house_rules(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    problems = [f"{path.stem!r} says nothing"] if path.stem in BANNED_STEMS else []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                problems.append(f"{node.lineno}: {node.name} has {length} lines")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            allowed, advice = BANNED_CALLS.get(node.func.attr, ((layer,), ""))
            if layer not in allowed:
                problems.append(f"{node.lineno}: .{node.func.attr}(): {advice}")
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_money = node.target.id.endswith(("amount", "price", "total", "fee"))
            if is_money and "float" in ast.unparse(node.annotation):
                problems.append(f"{node.lineno}: money is never a float")
    assert not problems, "\n".join(problems)


def test_api_holds_no_sql() -> None:
    found = [
        f"{path.name}: {name}"
        for path in (ROOT / "api").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in ("sqlalchemy", "sqlmodel")
        for name in (alias.name for alias in node.names)
        if name in ("text", "select", "update", "delete", "insert")
    ]
    assert not found


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.key)
def test_every_operation_is_classified(operation: Operation) -> None:
    assert operation.scope in ADMIN_SCOPES, "nobody could call it"
    assert operation.examples, "the planner and the evals need example utterances"
    assert inspect.getdoc(operation.run), "the docstring is what a model reads"
    documented = inspect.getdoc(operation.run) or ""
    for name, parameter in operation.parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, name
        assert f"{name}:" in documented, f"Args: does not describe {name}"
        assert name not in ("customer_id", "actor", "user_id", "role"), "comes from Deps"
    if operation.inverse is not None:
        assert operation.inverse in OPERATIONS, f"no such operation: {operation.inverse}"
    if operation.risk is Risk.REVERSIBLE:
        assert operation.inverse is not None, "what is called reversible says what reverses it"
    if operation.risk.needs_approval:
        assert operation.preview is not None, "a person cannot approve what they cannot see"
        assert operation.idempotent, "an approval may be repeated after a crash"
