"""The shopper's and the merchant's page, the API's documentation, and drawn pictures.

Pages hold no data: their scripts call the API as any other client does. Nothing is loaded from
another host, and no script or style is inline, so the strict policy of the edge holds.
"""

import secrets
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Cookie, Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from api.caller import GUEST_TOKEN_CHARS_MAX, GUEST_TOKEN_CHARS_MIN
from deps.settings import Settings
from tools.demo import picture
from tools.errors import NotFound
from tools.shipping import shipping_methods

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(directory=Path(__file__).parent / "templates")

GUEST_COOKIE_S = 180 * 86_400
SHOPPER_CHIPS = ("Show me mugs", "Find a blanket under 60", "What is in my cart?")
MERCHANT_CHIPS = ("How are sales today?", "What is running low?", "Show the latest orders")
# An SVG opened as a page is a document: this one may style itself, and nothing else.
SVG_CSP = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
DOCS_CSP = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def _settings(request: Request) -> Settings:
    settings = request.app.state.deps.settings
    assert isinstance(settings, Settings)
    return settings


def _page(request: Request, name: str, **context: object) -> Response:
    shop_name = _settings(request).shop_name
    page = templates.TemplateResponse(request, name, {"shop_name": shop_name, **context})
    page.headers["cache-control"] = "no-cache"
    return page


@router.get("/")
async def shop(request: Request, guest: Annotated[str | None, Cookie()] = None) -> Response:
    """The conversation with the shop. A guest's cart and conversation belong to the cookie."""
    methods = shipping_methods(_settings(request).currency).values()
    page = _page(request, "shop.html", chips=SHOPPER_CHIPS, shipping_methods=list(methods))
    if guest is None or not GUEST_TOKEN_CHARS_MIN <= len(guest) <= GUEST_TOKEN_CHARS_MAX:
        page.set_cookie(
            "guest",
            secrets.token_urlsafe(32),
            max_age=GUEST_COOKIE_S,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        page.headers["cache-control"] = "no-store"
    return page


@router.get("/console")
async def console(request: Request) -> Response:
    """The merchant's live page. It asks for a sign-in; the page itself is no secret."""
    return _page(request, "console.html", chips=MERCHANT_CHIPS)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Swagger UI from our own files, on our own OpenAPI document."""
    page = _page(request, "docs.html", openapi_url=request.app.openapi_url or "/openapi.json")
    page.headers["content-security-policy"] = DOCS_CSP
    return page


@router.get("/pictures/{handle}.svg")
async def product_picture(handle: str) -> Response:
    """A demo product's picture, drawn when asked for."""
    try:
        drawing = picture.svg(handle)
    except KeyError as error:
        raise NotFound("There is no picture of that name.") from error
    return Response(
        drawing,
        media_type="image/svg+xml",
        headers={
            "cache-control": "public, max-age=86400",
            "content-security-policy": SVG_CSP,
        },
    )
