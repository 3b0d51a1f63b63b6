"""Catalogue: find, read and save products. Prices and availability are read live."""

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update

from db.models.cart import CartLine
from db.models.product import Category, Product, ProductStatus, Variant
from db.types import ProductId
from deps.core import UnitOfWork, Work
from deps.untrusted import Written
from tools import listing
from tools.errors import Conflict, InvalidInput, NotFound
from tools.events import ProductSaved
from tools.listing import Filter, ProductCard, Sort
from tools.page import Page
from tools.registry import Risk, operation


class VariantView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    sku: str
    title: str
    options: dict[str, Any]
    price_amount: int
    currency: str
    available: int = 0
    barcode: str | None = None
    weight_g: int | None = None


class ProductView(BaseModel):
    id: UUID
    handle: str
    title: str
    description: str
    brand: str
    category: str | None
    image_url: str | None
    attributes: dict[str, Any]
    status: ProductStatus
    variants: list[VariantView]


class VariantInput(Written):
    sku: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    title: str = Field(default="", max_length=300)
    options: dict[str, str] = Field(default_factory=dict)
    price_amount: int = Field(ge=0, le=10**12, description="Minor units of `currency`.")
    currency: str = Field(pattern="^[A-Z]{3}$")
    barcode: str | None = Field(default=None, max_length=64)
    weight_g: int | None = Field(default=None, ge=0, le=10**7)


class ProductInput(Written):
    handle: str = Field(min_length=1, max_length=200, pattern="^[a-z0-9][a-z0-9-]*$")
    title: str = Field(min_length=1, max_length=300)
    description: str = Field(default="", max_length=20_000)
    brand: str = Field(default="", max_length=200)
    category: str | None = Field(default=None, description="Slug of an existing category.")
    attributes: dict[str, str] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list, max_length=50)
    image_url: str | None = Field(default=None, max_length=2000, pattern=r"^(https://|/)")
    status: ProductStatus = ProductStatus.ACTIVE
    variants: list[VariantInput] = Field(min_length=1, max_length=100)


class CategoryView(BaseModel):
    slug: str
    name: str
    parent: str | None
    products: int


def full_title(title: str, variant_title: str) -> str:
    """Name a variant of a product, as an order keeps it."""
    return " – ".join(filter(None, (title, variant_title)))


async def variants_of(uow: UnitOfWork, skus: Collection[str]) -> dict[str, tuple[Variant, Product]]:
    """Load variants by SKU with their products, on sale or not; unknown SKUs are left out."""
    query = (
        select(Variant, Product)
        .join(Product, col(Product.id) == col(Variant.product_id))
        .where(col(Variant.sku).in_(sorted(skus)))
    )
    return {variant.sku: (variant, found) for variant, found in await uow.session.exec(query)}


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "do you have {query}",
        "show me {query}",
        "search for {query}",
        "find {query}",
        "i am looking for {query}",
        "i need a {query}",
        "what {query} do you sell",
        "{query} under {max_price_amount}",
        "what is the price of {query}",
        "how much is the {query}",
    ),
)
async def search(
    uow: UnitOfWork,
    query: str | None = None,
    category: str | None = None,
    min_price_amount: int | None = None,
    max_price_amount: int | None = None,
    in_stock: bool | None = None,
    sort: Sort = "relevance",
    limit: int = 24,
    cursor: str | None = None,
) -> Page[ProductCard]:
    """Search the catalogue; prices and stock are live.

    Words match by stem and in any order; when nothing matches, similar titles are tried, so
    small misspellings still find.

    Args:
        query: Words, or a SKU; everything when absent.
        category: Slug of a category; its subcategories count.
        min_price_amount: Lowest price in minor units.
        max_price_amount: Highest price in minor units.
        in_stock: Only what can be bought now.
        sort: Order of the results; relevance needs a query and is newest first without one.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.

    Raises:
        InvalidInput: A bound of `limit`, `query` or `cursor` is broken.
    """
    wanted = Filter(
        query=query or "",
        category=category,
        min_price_amount=min_price_amount,
        max_price_amount=max_price_amount,
        in_stock=in_stock,
        sort=sort,
        limit=limit,
        cursor=cursor,
    )
    return await listing.find(uow, wanted)


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "tell me more about {handle_or_sku}",
        "details of {handle_or_sku}",
        "describe {handle_or_sku}",
        "what colours does {handle_or_sku} come in",
        "which sizes of {handle_or_sku} are there",
    ),
)
async def get(uow: UnitOfWork, handle_or_sku: str) -> ProductView:
    """Show one product with its variants, live prices and stock.

    Args:
        handle_or_sku: The product's handle, or the SKU of one of its variants.

    Raises:
        NotFound: No such product on sale.
    """
    return await read(uow, handle_or_sku)


# By handle, else by SKU, else by id: a condition with OR would scan, as it fits no index.
_READ: Final = """
    SELECT p.id, p.handle, p.title, p.description, p.brand, c.slug AS category, p.image_url,
           p.attributes, p.status,
           coalesce((
               SELECT jsonb_agg(jsonb_build_object(
                          'sku', v.sku, 'title', v.title, 'options', v.options,
                          'price_amount', v.price_amount, 'currency', v.currency,
                          'available', stock_available(v.sku, $3),
                          'barcode', v.barcode, 'weight_g', v.weight_g
                      ) ORDER BY v.position, v.sku)
                 FROM variant v WHERE v.product_id = p.id AND v.is_active), '[]') AS variants
      FROM product p LEFT JOIN category c ON c.id = p.category_id
     WHERE p.id = coalesce((SELECT id FROM product WHERE handle = $1),
                           (SELECT product_id FROM variant WHERE sku = $1), $2)
"""


async def read(work: Work, handle_or_sku: str) -> ProductView:
    """Return one product with live prices and stock, by handle, by SKU or by id.

    Raises:
        NotFound: No such product on sale; staff see the others, too.
    """
    if "\x00" in handle_or_sku:  # PostgreSQL has no such character.
        raise NotFound("No such product.")
    try:
        id_ = UUID(handle_or_sku)
    except ValueError:
        id_ = None
    row = await work.fetchrow(_READ, handle_or_sku, id_, work.now)
    if row is None or (
        row["status"] != ProductStatus.ACTIVE and not work.actor.may("catalog:write")
    ):
        raise NotFound("No such product.")
    return ProductView.model_validate(dict(row))


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what categories do you have",
        "what do you sell",
        "show the departments",
        "list the categories",
    ),
)
async def categories(uow: UnitOfWork) -> list[CategoryView]:
    """List the categories with how many products each has on sale."""
    return await read_categories(uow)


async def read_categories(work: Work) -> list[CategoryView]:
    rows = await work.fetch("""
        SELECT c.slug, c.name, parent.slug AS parent, c.products
        FROM category c LEFT JOIN category parent ON parent.id = c.parent_id ORDER BY c.name
    """)
    return [CategoryView.model_validate(dict(row)) for row in rows]


async def save(uow: UnitOfWork, product: ProductInput) -> ProductView:
    """Create or replace the product with this handle, variants included.

    Variants left out are taken off sale, never deleted: orders refer to them. Repeating the same
    input changes nothing.

    Raises:
        NotFound: No such category.
        Conflict: A SKU belongs to another product.
        InvalidInput: A SKU appears twice.
    """
    skus = [variant.sku for variant in product.variants]
    if len(set(skus)) != len(skus):
        raise InvalidInput("Each SKU may appear once.", field="variants")
    category_id = await _category_id(uow, product.category)
    values = product.model_dump(exclude={"variants", "category", "tags"}) | {
        "category_id": category_id,
        "tags": " ".join(product.tags),
        "updated_at": uow.now,
    }
    created_id = Product(**values, created_at=uow.now).id
    upsert = (
        insert(Product)
        .values(id=created_id, created_at=uow.now, **values)
        .on_conflict_do_update(index_elements=["handle"], set_=values)
        .returning(col(Product.id))
    )
    product_id = ProductId((await uow.session.execute(upsert)).scalar_one())
    await _save_variants(uow, product_id, product.variants)
    uow.publish(
        ProductSaved(product_id=product_id, handle=product.handle, created=product_id == created_id)
    )
    await uow.session.flush()
    return await get(uow, product.handle)


async def _category_id(uow: UnitOfWork, slug: str | None) -> UUID | None:
    if slug is None:
        return None
    found = (await uow.session.exec(select(Category.id).where(Category.slug == slug))).first()
    if found is None:
        raise NotFound(f"There is no category {slug!r}.", field="category")
    return found


async def _save_variants(
    uow: UnitOfWork, product_id: ProductId, variants: list[VariantInput]
) -> None:
    await uow.session.execute(
        update(Variant)
        .where(col(Variant.product_id) == product_id)
        .where(col(Variant.sku).not_in([variant.sku for variant in variants]))
        .values(is_active=False)
    )
    in_lock_order = sorted(enumerate(variants), key=lambda pair: pair[1].sku)
    for position, variant in in_lock_order:
        values = variant.model_dump() | {"position": position, "is_active": True}
        upsert = (
            insert(Variant)
            .values(product_id=product_id, **values)
            .on_conflict_do_update(
                index_elements=["sku"], set_=values, where=col(Variant.product_id) == product_id
            )
            .returning(col(Variant.sku))
        )
        if (await uow.session.execute(upsert)).scalar_one_or_none() is None:
            raise Conflict(
                f"SKU {variant.sku} belongs to another product.", field="variants", sku=variant.sku
            )
    inactive = select(Variant.sku).where(
        Variant.product_id == product_id, col(Variant.is_active).is_(False)
    )
    await uow.session.execute(delete(CartLine).where(col(CartLine.sku).in_(inactive)))
