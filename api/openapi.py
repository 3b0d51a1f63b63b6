"""What the generated description leaves out because no endpoint says it: the edge's answers.

`.ci/lint-openapi.sh` holds the result to the OpenAPI and OWASP rules of `.spectral.yaml`.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from api.idempotency import is_required, takes_key
from api.problems import PROBLEM_CONTENT, ProblemDetails
from tools.idempotency import KEY_LENGTH_MAX

EDGE_ANSWERS: Final = {
    "401": "The credentials are missing, wrong or expired.",
    "422": "The request breaks a rule of its fields.",
    "429": "Too many requests; wait as long as `Retry-After` says.",
    "500": "A fault of the server; it is logged under the `X-Request-Id`.",
    "503": "The database or another service is away; try again.",
    "504": "It took too long, and whether it happened is unknown: ask before repeating.",
}
# Of what has a body, of what takes a key, and of what a caller may know already.
BODY_ANSWERS: Final = {
    "400": "The body cannot be read.",
    "413": "The body is longer than the server takes.",
}
KEY_ANSWERS: Final = {
    "400": "The `Idempotency-Key` is missing or malformed, or the body cannot be read.",
    "409": "A request with this `Idempotency-Key` is still being handled.",
}
NOT_MODIFIED: Final = {"description": "What `If-None-Match` names is still so."}
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A fresh one, such as a UUID, per intent: a retry then gets the first answer.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": KEY_LENGTH_MAX,
        "pattern": r"^[\x21\x23-\x7e]([\x20-\x7e]*[\x21\x23-\x7e])?$",
    },
}
LIMIT_HEADERS: Final = {
    name: {"description": text, "schema": {"type": "string"}}
    for name, text in {
        "RateLimit": 'What is left of the allowance: `"class";r=remaining;t=seconds`.',
        "RateLimit-Policy": 'The allowance: `"class";q=quota;w=seconds`.',
    }.items()
}
RETRY_AFTER: Final = {
    "description": "Seconds to wait.",
    "schema": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 3600},
}
SECURITY_SCHEMES: Final = {
    "HTTPBearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Access token from `POST /v1/auth/login`.",
    },
    "APIKeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Guest-Token",
        "description": "A secret of at least 32 characters that a guest makes up; it owns their "
        "carts.",
    },
}
METHODS: Final = ("get", "put", "post", "patch", "delete")
INT64_MAX: Final = 2**63 - 1


URL: Final = "/v1/openapi.json"


def install(app: FastAPI) -> None:
    """Serve the completed description at `URL`; it is made once, and so are its bytes.

    The application is made without `openapi_url`: FastAPI's own route serialises the document for
    every request, more than half a megabyte of it.
    """
    generate: Callable[[], dict[str, Any]] = app.openapi
    making = asyncio.Lock()
    made: list[bytes] = []

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = completed(generate())
        return app.openapi_schema

    async def document(request: Request) -> Response:
        async with making:
            if not made:
                # About a second of work, which must not hold up everybody else's requests.
                made.append(await asyncio.to_thread(lambda: orjson.dumps(app.openapi())))
        return Response(made[0], media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign]  # The documented way to extend it.
    app.openapi_url = URL
    app.add_route(URL, document, include_in_schema=False)


def completed(schema: dict[str, Any]) -> dict[str, Any]:
    """Add servers, tags, the answers of the middlewares and the width of integers."""
    schema["servers"] = [
        {"url": "/", "description": "This server, production or local.", "x-internal": False}
    ]
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {}).update(_problem_schemas())
    # Here and not as dependencies of the endpoints, which would be solved for every request to
    # learn nothing: `api.caller` reads the credentials.
    components["securitySchemes"] = SECURITY_SCHEMES
    tags: set[str] = set()
    for path, item in schema["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                tags.update(operation.get("tags", ()))
                operation.setdefault("description", operation.get("summary", ""))
                operation["security"] = [{name: []} for name in SECURITY_SCHEMES]
                if path.startswith("/v1/"):
                    _add_edge_answers(method, path, operation)
    schema["tags"] = [{"name": tag} for tag in sorted(tags)]
    for node in _nodes(schema):
        # Python's integers have no width, but every one here is kept in a bigint at most.
        if node.get("type") == "integer" and "enum" not in node and "const" not in node:
            node.setdefault("format", "int64")
            if "exclusiveMinimum" not in node:
                node.setdefault("minimum", -INT64_MAX)
            if "exclusiveMaximum" not in node:
                node.setdefault("maximum", INT64_MAX)
    return schema


def _problem_schemas() -> dict[str, Any]:
    """Return the schemas that `PROBLEM_CONTENT` names; no endpoint answers with them."""
    schema = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), ProblemDetails.__name__: schema}


def _add_edge_answers(method: str, path: str, operation: dict[str, Any]) -> None:
    responses, answers = operation["responses"], dict(EDGE_ANSWERS)
    if "requestBody" in operation:
        answers |= BODY_ANSWERS
    if takes_key(method.upper(), path):
        answers |= KEY_ANSWERS
        key = {**IDEMPOTENCY_KEY, "required": is_required(method.upper(), path)}
        operation.setdefault("parameters", []).append(key)
    if method == "get" and "application/json" in responses.get("200", {}).get("content", {}):
        responses["304"] = NOT_MODIFIED
    for status, description in answers.items():
        responses.setdefault(status, {"description": description, "content": PROBLEM_CONTENT})
    for status, response in responses.items():
        if status.startswith(("2", "4")):
            response["headers"] = {**LIMIT_HEADERS, **response.get("headers", {})}
    responses["429"]["headers"]["Retry-After"] = RETRY_AFTER


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from _nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from _nodes(child)
