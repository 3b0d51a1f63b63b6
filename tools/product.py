"""Catalogue: find, read and save products. Prices and availability are read live."""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, delete, select, update

from db.models.cart import CartLine
from db.models.product import Category, Product, ProductStatus, Variant
from db.types import ProductId
from deps.core import UnitOfWork
from tools.errors import Conflict, InvalidInput, NotFound
from tools.events import ProductSaved
from tools.page import Page, checked_limit, decode_cursor, page_of
from tools.registry import Risk, operation

QUERY_CHARS_MAX = 200
Sort = Literal["relevance", "newest", "price", "-price", "title"]


class ProductCard(BaseModel):
    """A product in a list, priced from its cheapest active variant."""

    id: UUID
    handle: str
    title: str
    brand: str
    category: str | None
    image_url: str | None
    sku: str = Field(description="The cheapest active variant.")
    price_amount: int = Field(description="Minor units of `currency`: 1999 EUR is 19.99 euros.")
    currency: str
    available: int = Field(description="Units over all variants and locations.")
    variant_count: int


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


class VariantInput(BaseModel):
    sku: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    title: str = Field(default="", max_length=300)
    options: dict[str, str] = Field(default_factory=dict)
    price_amount: int = Field(ge=0, le=10**12, description="Minor units of `currency`.")
    currency: str = Field(pattern="^[A-Z]{3}$")
    barcode: str | None = Field(default=None, max_length=64)
    weight_g: int | None = Field(default=None, ge=0, le=10**7)


class ProductInput(BaseModel):
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


# The cheapest active variant prices the card; ties break by position, then SKU.
_CARDS = """
    SELECT p.id, p.handle, p.title, p.brand, c.slug AS category, p.image_url, p.created_at,
           v.sku, v.price_amount, v.currency, v.variant_count, coalesce(s.available, 0) AS available
           {rank}
    FROM product p
    LEFT JOIN category c ON c.id = p.category_id
    JOIN LATERAL (
        SELECT sku, price_amount, currency, count(*) OVER () AS variant_count
        FROM variant WHERE product_id = p.id AND is_active
        ORDER BY price_amount, position, sku LIMIT 1
    ) v ON true
    LEFT JOIN LATERAL (
        SELECT sum(stock_available(x.sku, :now))::int AS available
        FROM variant x
        WHERE x.product_id = p.id AND x.is_active
    ) s ON true
    WHERE p.status = 'active'
"""
_SORTS: dict[str, tuple[str, str, tuple[type, ...]]] = {
    # sort: (key expression, direction, cursor types)
    "newest": ("id", "DESC", (str,)),
    "title": ("title, id", "ASC", (str, str)),
    "price": ("price_amount, id", "ASC", (int, str)),
    "-price": ("price_amount, id", "DESC", (int, str)),
    "relevance": ("rank, id", "DESC", (float, str)),
}


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
    checked_limit(limit)
    query = " ".join((query or "").replace("\x00", " ").split())
    if len(query) > QUERY_CHARS_MAX:
        raise InvalidInput(f"query is longer than {QUERY_CHARS_MAX} characters.", field="query")
    sort = "newest" if sort == "relevance" and not query else sort
    filters: dict[str, Any] = {
        "query": query,
        "category": category,
        "min_price": min_price_amount,
        "max_price": max_price_amount,
        "in_stock": in_stock,
        "limit": limit + 1,
    }
    rows: list[Any] = []
    for match in ("words", "any_word", "similar") if query else ("all",):
        rows = await _cards(uow, match, filters, sort, cursor)
        if rows:
            break
    page = page_of(rows, limit, lambda row: _key(row, sort))
    items = [ProductCard.model_validate(row, from_attributes=True) for row in page.items]
    return Page(items=items, next_cursor=page.next_cursor)


def _key(row: Any, sort: Sort) -> tuple[Any, ...]:
    """Return what the row is sorted by, as `_SORTS` names it."""
    names = _SORTS[sort][0].split(", ")
    return tuple(str(row.id) if name == "id" else getattr(row, name) for name in names)


_MATCHES = {
    "all": ("", ""),
    "words": (
        ", ts_rank(p.search, websearch_to_tsquery('english', :query))::float8 AS rank",
        " AND (p.search @@ websearch_to_tsquery('english', :query)"
        " OR EXISTS (SELECT 1 FROM variant y WHERE y.product_id = p.id"
        " AND upper(y.sku) = upper(:query)))",
    ),
    "any_word": (
        ", ts_rank(p.search, to_tsquery('english', :any_word))::float8 AS rank",
        " AND p.search @@ to_tsquery('english', :any_word)",
    ),
    "similar": (
        ", word_similarity(:query, p.title)::float8 AS rank",
        " AND :query <% p.title",
    ),
}


async def _cards(
    uow: UnitOfWork, match: str, filters: dict[str, Any], sort: str, cursor: str | None
) -> list[Any]:
    rank, where = _MATCHES[match]
    if match == "similar":  # Below the default of 0.6, so that a letter left out still matches.
        await uow.session.execute(text("SET LOCAL pg_trgm.word_similarity_threshold = 0.45"))
    values = {k: v for k, v in filters.items() if v is not None and k != "in_stock"}
    if "any_word" in where:
        words = ["".join(c for c in w if c.isalnum()) for w in filters["query"].split()]
        values["any_word"] = " | ".join(word for word in words if word)
        if not values["any_word"]:
            return []
    if filters["category"] is not None:
        where += """ AND p.category_id IN (
            WITH RECURSIVE tree AS (
                SELECT id FROM category WHERE slug = :category
                UNION ALL SELECT k.id FROM category k JOIN tree t ON k.parent_id = t.id
            ) SELECT id FROM tree)"""
    outer = []
    if filters["min_price"] is not None:
        outer.append("price_amount >= :min_price")
    if filters["max_price"] is not None:
        outer.append("price_amount <= :max_price")
    if filters["in_stock"]:
        outer.append("available > 0")
    keys, direction, types = _SORTS[sort]
    if cursor is not None:
        after = decode_cursor(cursor, *types)
        values |= {f"after{i}": value for i, value in enumerate(after)}
        binds = [
            f"CAST(:after{i} AS uuid)" if i == len(after) - 1 else f":after{i}"
            for i in range(len(after))
        ]
        outer.append(f"({keys}) {'>' if direction == 'ASC' else '<'} ({', '.join(binds)})")
    order = ", ".join(f"{key} {direction}" for key in keys.split(", "))
    condition = f"WHERE {' AND '.join(outer)}" if outer else ""
    # Only fixed fragments are put together here; every value is bound.
    found = f"SELECT * FROM ({_CARDS.format(rank=rank)}{where}) found"
    sql = f"{found} {condition} ORDER BY {order} LIMIT :limit"
    return list(await uow.session.execute(text(sql), _used(sql, values | {"now": uow.now})))


def _used(sql: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if f":{name}" in sql}


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
    found = await _found(uow, col(Product.handle) == handle_or_sku)
    if found is None:  # One query with OR would scan the table: neither index serves both.
        of = (
            await uow.session.exec(select(Variant.product_id).where(Variant.sku == handle_or_sku))
        ).first()
        found = await _found(uow, col(Product.id) == of) if of else None
    if found is None or (
        found[0].status is not ProductStatus.ACTIVE and not uow.actor.may("catalog:write")
    ):
        raise NotFound("No such product.")
    product, category = found
    variants = await uow.session.execute(
        text("""
            SELECT v.sku, v.title, v.options, v.price_amount, v.currency, v.barcode, v.weight_g,
                   stock_available(v.sku, :now) AS available
            FROM variant v
            WHERE v.product_id = :product_id AND v.is_active
            ORDER BY v.position, v.sku
        """),
        {"product_id": product.id, "now": uow.now},
    )
    return ProductView(
        id=product.id,
        handle=product.handle,
        title=product.title,
        description=product.description,
        brand=product.brand,
        category=category.slug if category else None,
        image_url=product.image_url,
        attributes=product.attributes,
        status=product.status,
        variants=[VariantView.model_validate(row, from_attributes=True) for row in variants],
    )


async def _found(uow: UnitOfWork, which: Any) -> tuple[Product, Category | None] | None:
    query = select(Product, Category).join(Category, isouter=True).where(which)
    row = (await uow.session.exec(query)).first()
    return (row[0], row[1]) if row is not None else None


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
    rows = await uow.session.execute(
        text("""
            SELECT c.slug, c.name, parent.slug AS parent, count(p.id)::int AS products
            FROM category c
            LEFT JOIN category parent ON parent.id = c.parent_id
            LEFT JOIN product p ON p.category_id = c.id AND p.status = 'active'
            GROUP BY c.id, parent.slug ORDER BY c.name
        """)
    )
    return [CategoryView.model_validate(row, from_attributes=True) for row in rows]


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
