"""The API's description of itself: what it says of errors is what clients get."""

import json
from typing import Any

import httpx
import pytest

from api.problems import ProblemDetails


@pytest.fixture
async def described(client: httpx.AsyncClient) -> dict[str, Any]:
    described: dict[str, Any] = (await client.get("/v1/openapi.json")).json()
    return described


async def test_every_error_is_described_as_problem_details(described: dict[str, Any]) -> None:
    answers = [
        answer
        for path, item in described["paths"].items()
        for operation in item.values()
        for status, answer in operation["responses"].items()
        if path.startswith("/v1/") and status.startswith(("4", "5"))
    ]
    assert len(answers) > 500
    (only,) = {json.dumps(answer["content"]) for answer in answers}
    name = json.loads(only)["application/problem+json"]["schema"]["$ref"].rpartition("/")[2]
    schema = described["components"]["schemas"][name]
    assert set(schema["properties"]) == set(ProblemDetails.model_fields)


async def test_every_schema_that_is_named_is_there(described: dict[str, Any]) -> None:
    text = json.dumps(described)
    named = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= described["components"]["schemas"].keys()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/products/none-such", None),
        ("GET", "/v1/nowhere", None),
        ("POST", "/v1/auth/login", {"email": 7}),
        ("POST", "/v1/auth/login", {"email": "ada@example.com", "password": "wrong" * 4}),
        ("PUT", "/v1/aftersales-policy", {}),
    ],
)
async def test_errors_are_as_described(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = await client.request(method, path, json=body)
    assert answer.headers["content-type"] == "application/problem+json"
    told = ProblemDetails.model_validate_json(answer.content, strict=True)
    assert told.status == answer.status_code
