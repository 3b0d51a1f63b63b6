"""Text that the database cannot keep: refused on every way in, by the name of its field."""

from uuid import UUID

import httpx
import pytest

from api.problems import ProblemDetails
from db.models.user import Role
from deps.core import Deps
from tests import factories

CART = f"/v1/carts/{UUID(int=1)}"
ADDRESS = (
    '{"shipping_address": {"name": "A\\u0000da", "line1": "1", "city": "H", "postal_code": "1",'
    ' "country_code": "DE"}}'
)


@pytest.mark.parametrize(
    ("method", "address", "body", "field"),
    [
        ("GET", "/v1/stock/a%00b", "", "path"),
        ("GET", "/v1/stock/%00/bundle", "", "path"),
        ("DELETE", f"{CART}/lines/%00", "", "path"),
        ("GET", "/v1/vercel-ai/%00/stream", "", "path"),
        ("GET", "/static/%00", "", "path"),
        ("GET", "/v1/conversations?limit=1&q=mug%00", "", "q"),
        ("GET", "/v1/conversations?%00", "", "query"),
        ("POST", "/v1/auth/login", '{"email": "\\u0000", "password": "x"}', "email"),
        ("POST", f"{CART}/lines", '{"sku": "\\u0000"}', "sku"),
        ("PUT", f"{CART}/details", ADDRESS, "shipping_address.name"),
        ("PUT", "/v1/inventory/rules", '{"rules": [{"location": "\\u0000"}]}', "rules.0.location"),
        ("POST", "/v1/agents/cart/add_item", '{"arguments": {"\\u0000": 1}}', "arguments"),
        ("POST", "/v1/auth/login", '["\\u0000"]', "0"),
        ("POST", "/v1/chat", '{"text": "hel\\u0000lo"}', "text"),
        ("POST", "/v1/auth/login", '"\\u0000"', "body"),
        ("PUT", "/v1/aftersales-policy", '{"cancel_reasons": ["\\uD800"]}', "cancel_reasons.0"),
    ],
)
async def test_nul_is_refused_by_the_field_that_holds_it(
    client: httpx.AsyncClient, method: str, address: str, body: str, field: str
) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": str(UUID(int=1))}
    answer = await client.request(method, address, content=body, headers=headers)
    assert answer.status_code == 422, answer.text
    problem = ProblemDetails.model_validate_json(answer.content)
    assert (problem.code, problem.field) == ("invalid_input", field)
    assert "NUL" in problem.detail


async def test_what_only_looks_like_nul_is_read(client: httpx.AsyncClient, deps: Deps) -> None:
    client.headers.update(factories.bearer(await factories.user(deps, role=Role.CUSTOMER)))
    named = await client.patch(
        "/v1/me",
        content=b'{"name": "A \\\\u0000 \\ud83d\\ude00"}',
        headers={"Content-Type": "application/json"},
    )
    assert (named.status_code, named.json()["name"]) == (200, "A \\u0000 \U0001f600")
    broken = await client.patch(
        "/v1/me", content=b'{"name": "\\u0000', headers={"Content-Type": "application/json"}
    )
    assert (broken.status_code, broken.json()["field"]) == (422, "body")
