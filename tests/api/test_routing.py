"""The index of routes answers as the router does: the same endpoint, parameters and refusals."""

from collections.abc import AsyncGenerator

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from api import routing
from api.app import create_app
from api.routing import _find, _tree
from deps.settings import Settings

router = APIRouter()


@router.get("/things/{id}")
async def by_id(id: str) -> list[str]:
    return ["by_id", id]


@router.get("/things/special")  # The one above was first and gets its requests.
async def shadowed() -> list[str]:
    return ["shadowed"]


@router.get("/things/{id}/parts/first")
async def first_part(id: str) -> list[str]:
    return ["first_part", id]


@router.get("/things/{id}/parts/{part}")
async def part(id: str, part: str) -> list[str]:
    return ["part", id, part]


@router.post("/things/{id}/parts/first")
async def write_first(id: str) -> list[str]:
    return ["write_first", id]


@router.get("/pictures/{name}.svg")
async def picture(name: str) -> list[str]:
    return ["picture", name]


@router.get("/files/{path:path}")
async def file(path: str) -> list[str]:
    return ["file", path]


@router.get("/files/readme")  # Behind one that the tree does not know.
async def readme() -> list[str]:
    return ["readme"]


def _app(*, indexed: bool) -> FastAPI:
    app = FastAPI()
    v1 = APIRouter(prefix="/v1")
    v1.include_router(router)
    app.include_router(v1)
    if indexed:
        routing.install(app)
    return app


@pytest.fixture
async def both() -> AsyncGenerator[list[httpx.AsyncClient], None]:
    clients = [
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=_app(indexed=indexed)), base_url="http://test"
        )
        for indexed in (False, True)
    ]
    yield clients
    for client in clients:
        await client.aclose()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/things/7"),
        ("GET", "/v1/things/special"),
        ("GET", "/v1/things/a%20b"),
        ("GET", "/v1/things/7/parts/first"),
        ("GET", "/v1/things/7/parts/second"),
        ("POST", "/v1/things/7/parts/first"),
        ("POST", "/v1/things/7/parts/second"),
        ("DELETE", "/v1/things/7"),
        ("HEAD", "/v1/things/7"),
        ("GET", "/v1/things/7/"),
        ("GET", "/v1/things//parts/first"),
        ("GET", "/v1/things"),
        ("GET", "/v1/pictures/mug.svg"),
        ("GET", "/v1/files/a/b/c"),
        ("GET", "/v1/files/readme"),
        ("GET", "/"),
    ],
)
async def test_answer_is_the_routers(both: list[httpx.AsyncClient], method: str, path: str) -> None:
    plain, indexed = [await client.request(method, path) for client in both]
    assert indexed.status_code == plain.status_code
    assert indexed.content == plain.content
    assert indexed.headers.get("location") == plain.headers.get("location")
    assert indexed.headers.get("allow") == plain.headers.get("allow")


def test_the_shops_own_routes_are_in_the_tree() -> None:
    tree = _tree(create_app(Settings(_env_file=None)))
    values: list[str] = []
    found = _find(tree, ["", "v1", "products", "mug"], 1, "GET", values)
    assert found is not None
    assert (found.template, values) == ("/v1/products/{handle}", ["mug"])
    found = _find(tree, ["", "v1", "carts", "7", "complete"], 1, "POST", [])
    assert found is not None
    assert found.template == "/v1/carts/{cart_id}/complete"
