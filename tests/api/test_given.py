"""What arrives as JSON has the type that its description says: `true` and "1" are no numbers."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from api.problems import ProblemDetails
from db.models.user import Role
from deps.core import Deps
from tests import factories
from tests.api.test_contract import Schema, requests_of
from tools.arguments import model_of, parse
from tools.errors import InvalidInput
from tools.line_change import LineRequest
from tools.registry import OPERATIONS
from tools.surface import load_operations

load_operations()
WRONG: dict[str, tuple[Any, ...]] = {
    "integer": (True, False, "1", 1.5),
    "number": (True, "1.5"),
    "boolean": ("true", "no", 1, 0),
}


def places(schema: Schema, schemas: Schema, path: str = "") -> Iterator[tuple[str, str]]:
    """Find where a schema wants a number or a boolean: a dotted path, and the type."""
    if "$ref" in schema:
        yield from places(schemas[schema["$ref"].rpartition("/")[2]], schemas, path)
    for one in schema.get("anyOf", []):
        yield from places(one, schemas, path)
    for name, inner in schema.get("properties", {}).items():
        yield from places(inner, schemas, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from places(schema["items"], schemas, f"{path}.0")
    if schema.get("type") in WRONG:
        yield path, schema["type"]


def holding(path: str, value: Any) -> Any:
    """Make a body that has `value` at `path`, and nothing else."""
    for part in reversed(path.split(".")):
        value = [value] if part == "0" else {part: value}
    return value


async def test_no_body_takes_one_type_for_another(client: httpx.AsyncClient, deps: Deps) -> None:
    described = (await client.get("/v1/openapi.json")).json()
    schemas = described["components"]["schemas"]
    client.headers.update(factories.bearer(await factories.user(deps, role=Role.ADMIN)))
    tried, wrong = 0, []
    for method, template, address, _, _ in requests_of(described):
        request = described["paths"][template][method.lower()].get("requestBody", {})
        schema = request.get("content", {}).get("application/json", {}).get("schema", {})
        for path, kind in places(schema, schemas):
            for value in WRONG[kind]:
                answer = await client.request(
                    method,
                    address,
                    json=holding(path, value),
                    headers={"Idempotency-Key": str(uuid4())},
                )
                errors = answer.json().get("errors") or []
                told = {error["field"] for error in errors}
                tried += 1
                if answer.status_code != 422 or path not in told:
                    wrong.append(f"{method} {template}: {path} = {value!r}: {sorted(told)}")
    assert tried > 100
    assert not wrong, "\n".join(wrong)


def test_no_operation_takes_one_type_for_another() -> None:
    tried, wrong = 0, []
    for operation in OPERATIONS.values():
        model = model_of(operation)
        schema = model.model_json_schema()
        for path, kind in places(schema, schema.get("$defs", {})):
            for value in WRONG[kind]:
                told, tried = set(), tried + 1
                try:
                    model.model_validate(holding(path, value))
                except ValidationError as refused:
                    told = {".".join(map(str, error["loc"])) for error in refused.errors()}
                if path not in told:
                    wrong.append(f"{operation.key}: {path} = {value!r}: {sorted(told)}")
    assert tried > 200
    assert not wrong, "\n".join(wrong)


async def test_a_structured_call_names_the_field_and_the_rule(client: httpx.AsyncClient) -> None:
    for value, rule in ((True, "valid integer"), ("1", "valid integer"), (1.5, "fractional")):
        given = {"arguments": {"sku": "MUG", "quantity": value}}
        key = {"Idempotency-Key": str(uuid4())}
        answer = await client.post("/v1/agents/cart/add_item", json=given, headers=key)
        problem = ProblemDetails.model_validate_json(answer.content)
        assert (answer.status_code, problem.field) == (422, "quantity"), answer.text
        assert rule in problem.detail


async def test_a_whole_number_is_an_integer_however_it_is_written(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    """As JSON Schema says: https://json-schema.org/understanding-json-schema/reference/numeric."""
    await factories.product(deps, "MUG", stock=5)
    cart = (await client.post("/v1/carts")).json()["id"]
    typed = {"Content-Type": "application/json"}
    added = await client.post(
        f"/v1/carts/{cart}/lines", content=b'{"sku": "MUG", "quantity": 2.0}', headers=typed
    )
    assert (added.status_code, added.json()["lines"][0]["quantity"]) == (200, 2)
    # A query is text, so its numbers are.
    assert (await client.get("/v1/products?limit=1")).status_code == 200


def test_a_form_is_checked_once_however_often_it_is_used() -> None:
    for _ in range(3):
        schema = repr(TypeAdapter(list[LineRequest]).core_schema)
        assert schema.count("function-before") == 1
    assert repr(LineRequest.__pydantic_core_schema__).count("function-before") == 1


def test_a_moment_is_no_number() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(
            OPERATIONS["promotion.create_code"], {"code": "A", "percent": 5, "ends_at": 1767225600}
        )
    assert refused.value.field == "ends_at"
