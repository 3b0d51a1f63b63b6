"""Every route, asked about what is not there: it answers with what it describes, and no bug."""

from collections import Counter
from typing import Any
from uuid import uuid4

import httpx
import pytest

from api.problems import ProblemDetails
from db.models.user import Role
from deps.core import Deps
from tests import factories

Schema = dict[str, Any]
# A word where a format is not enough: the first that fits the name of a field.
TEXTS = {
    "currency": "EUR", "country_code": "DE", "shipping_method": "standard", "email": "a@b.example",
    "sku": "NONE", "location": "HAM", "password": "harbour-and-pine", "postal_code": "20457",
    "provider": "scripted",
}  # fmt: skip


def sample(schema: Schema, schemas: Schema, name: str = "") -> Any:
    """Make the least value that a schema allows."""
    if "$ref" in schema:
        return sample(schemas[schema["$ref"].rpartition("/")[2]], schemas, name)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return sample(schema[several][0], schemas, name)
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {})
            return {key: sample(fields[key], schemas, key) for key in schema.get("required", [])}
        case "array":
            return [sample(schema["items"], schemas, name)] * schema.get("minItems", 0)
        case "integer" | "number":
            return max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
        case "boolean":
            return True
        case "null":
            return None
    formats = {
        "uuid": str(uuid4()), "date-time": "2026-01-30T12:00:00Z", "date": "2026-01-30",
        "email": "a@b.example",
    }  # fmt: skip
    text = formats.get(schema.get("format", "")) or TEXTS.get(name, "none")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", 1000)]


def requests_of(described: Schema) -> list[tuple[str, str, str, Schema, Any]]:
    """Return method, template, path, responses and body of every route that is no stream."""
    schemas = described["components"]["schemas"]
    found = []
    for template, methods in described["paths"].items():
        for method, operation in methods.items():
            ok = operation["responses"].get("200", {}).get("content", {})
            if "text/event-stream" in ok:
                continue
            query, path = [], template
            for parameter in operation.get("parameters", []):
                value = sample(parameter["schema"], schemas, parameter["name"])
                if parameter["in"] == "path":
                    path = path.replace(f"{{{parameter['name']}}}", str(value))
                elif parameter["in"] == "query" and parameter["required"]:
                    query.append(f"{parameter['name']}={value}")
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            body = sample(schema, schemas) if schema else None
            path += f"?{'&'.join(query)}" if query else ""
            found.append((method.upper(), template, path, operation["responses"], body))
    return found


@pytest.mark.parametrize("who", ["nobody", "guest", "customer", "admin"])
async def test_every_route_answers_as_it_says(
    client: httpx.AsyncClient, deps: Deps, who: str
) -> None:
    described = (await client.get("/v1/openapi.json")).json()
    if who != "guest":
        del client.headers["X-Guest-Token"]
    if who in ("customer", "admin"):
        role = Role.ADMIN if who == "admin" else Role.CUSTOMER
        client.headers.update(factories.bearer(await factories.user(deps, role=role)))
    wrong = []
    asked = requests_of(described)
    for method, template, path, responses, body in asked:
        key = {"Idempotency-Key": str(uuid4())}
        answer = await client.request(method, path, json=body, headers=key)
        if str(answer.status_code) not in responses:
            wrong.append(f"{method} {template}: {answer.status_code} {answer.text[:200]}")
        elif answer.is_error:
            problem = ProblemDetails.model_validate_json(answer.content)
            assert problem.status == answer.status_code
    assert len(asked) > 150
    assert not wrong, "\n".join(wrong)


JSON = {"Content-Type": "application/json"}
UNREADABLE = b'{"a": "\xff"}'


def key(value: str = "") -> dict[str, str]:
    return {"Idempotency-Key": value or str(uuid4())}


async def test_every_write_says_what_the_edge_refuses(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    described = (await client.get("/v1/openapi.json")).json()
    client.headers.update(factories.bearer(await factories.user(deps, role=Role.ADMIN)))
    wrong, codes = [], Counter[str]()
    for method, template, path, responses, body in requests_of(described):
        if method == "GET":
            continue
        operation = described["paths"][template][method.lower()]
        named = {p["name"]: p["required"] for p in operation.get("parameters", [])}
        sent: list[dict[str, Any]] = [{"content": UNREADABLE, "headers": JSON | key()}]
        if named.get("Idempotency-Key"):
            sent += [{"json": body}, {"json": body, "headers": key("x" * 201)}]
        for request in sent:
            answer = await client.request(method, path, **request)
            code = answer.json()["code"] if answer.is_error else "done"
            codes[code] += 1
            expected = request is sent[0] or answer.status_code == 400
            if str(answer.status_code) not in responses or not expected:
                wrong.append(f"{method} {template}: {answer.status_code} {answer.text[:200]}")
            if code.startswith("idempotency_key") and "Idempotency-Key" not in named:
                wrong.append(f"{method} {template}: {code}")
    assert codes["idempotency_key_required"] == codes["idempotency_key_invalid"] > 10
    assert not wrong, "\n".join(wrong)
