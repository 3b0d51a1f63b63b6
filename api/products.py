"""REST: the catalogue."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.answer import prepared
from api.deps import DepsDep, UowDep, needs
from api.parameters import Cursor, Limit
from api.problems import problems
from tools import catalog_page, product
from tools.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from tools.listing import Filter, ProductCard, Sort
from tools.page import Page
from tools.product import CategoryView, ProductInput, ProductView

router = APIRouter(tags=["products"])
Handle = Annotated[str, Path(max_length=200, examples=["stoneware-mug"])]


@router.get("/products", response_model=Page[ProductCard], responses=problems())
async def search_products(
    deps: DepsDep,
    q: Annotated[str | None, Query(max_length=200, description="Words, or a SKU.")] = None,
    category: Annotated[str | None, Query(max_length=120)] = None,
    min_price_amount: Annotated[int | None, Query(ge=0, le=10**12)] = None,
    max_price_amount: Annotated[int | None, Query(ge=0, le=10**12)] = None,
    in_stock: bool | None = None,
    sort: Sort = "relevance",
    limit: Limit = 24,
    cursor: Cursor = None,
) -> Response:
    """Search the catalogue with current prices; stock figures are at most five seconds old."""
    wanted = Filter(
        query=q or "",
        category=category,
        min_price_amount=min_price_amount,
        max_price_amount=max_price_amount,
        in_stock=in_stock,
        sort=sort,
        limit=limit,
        cursor=cursor,
    )
    return prepared(await catalog_page.find(deps, wanted))


@router.get("/products/{handle}", response_model=ProductView, responses=problems(NotFound))
async def read_product(handle: Handle, deps: DepsDep) -> Response | ProductView:
    """Show a product by handle, by the SKU of a variant, or by id.

    Prices are current; stock figures are at most five seconds old. Staff read live.
    """
    if deps.actor.may("catalog:write"):
        return await product.read(deps.hot_work(), handle)
    return prepared(await catalog_page.read(deps, handle))


@router.put(
    "/products/{handle}",
    dependencies=[needs("catalog:write")],
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def save_product(handle: Handle, body: ProductInput, uow: UowDep) -> ProductView:
    """Create or replace a product with its variants (staff). Safe to repeat."""
    if body.handle != handle:
        raise InvalidInput("The handle must be the one in the address.", field="handle")
    return await product.save(uow, body)


@router.get("/categories", response_model=list[CategoryView], responses=problems())
async def list_categories(deps: DepsDep) -> Response:
    """List the categories with how many products each has on sale."""
    return prepared(await catalog_page.categories(deps))
