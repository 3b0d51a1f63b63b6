"""REST: the catalogue."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.deps import UowDep, needs
from api.problems import problems
from tools import product
from tools.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from tools.page import PAGE_LIMIT_MAX, Page
from tools.product import CategoryView, ProductCard, ProductInput, ProductView, Sort

router = APIRouter(tags=["products"])
Handle = Annotated[str, Path(max_length=200, examples=["stoneware-mug"])]


@router.get("/products", responses=problems())
async def search_products(
    uow: UowDep,
    q: Annotated[str | None, Query(max_length=200, description="Words, or a SKU.")] = None,
    category: Annotated[str | None, Query(max_length=120)] = None,
    min_price_amount: Annotated[int | None, Query(ge=0, le=10**12)] = None,
    max_price_amount: Annotated[int | None, Query(ge=0, le=10**12)] = None,
    in_stock: bool | None = None,
    sort: Sort = "relevance",
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT_MAX)] = 24,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> Page[ProductCard]:
    """Search the catalogue with live prices and stock."""
    return await product.search(
        uow, q, category, min_price_amount, max_price_amount, in_stock, sort, limit, cursor
    )


@router.get("/products/{handle}", responses=problems(NotFound))
async def read_product(handle: Handle, uow: UowDep) -> ProductView:
    """Show a product by handle, or by the SKU of a variant."""
    return await product.get(uow, handle)


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


@router.get("/categories", responses=problems())
async def list_categories(uow: UowDep) -> list[CategoryView]:
    """List the categories with how many products each has on sale."""
    return await product.categories(uow)
