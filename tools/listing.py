"""Lists of products: filters, orders and search, each a walk along an index, a page at a time.

What a card shows of a product's variants stands in the product's own row, so a page is found
without touching `variant`; stock is asked for the products of the page alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from deps.core import Work
from tools.errors import InvalidInput
from tools.page import Page, checked_limit, decode_cursor, page_of

QUERY_CHARS_MAX: Final = 200
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What a list is narrowed by and how it is ordered. Prices are in minor units."""

    query: str = ""
    category: str | None = None
    min_price_amount: int | None = None
    max_price_amount: int | None = None
    in_stock: bool | None = None
    sort: Sort = "relevance"
    limit: int = 24
    cursor: str | None = None

    def checked(self) -> "Filter":
        """Return the same filter in its one spelling.

        Raises:
            InvalidInput: A bound of `limit` or `query` is broken.
        """
        checked_limit(self.limit)
        query = " ".join(self.query.replace("\x00", " ").split())
        if len(query) > QUERY_CHARS_MAX:
            raise InvalidInput(f"query is longer than {QUERY_CHARS_MAX} characters.", field="query")
        return Filter(
            query=query,
            category=self.category.replace("\x00", "\ufffd") if self.category else self.category,
            min_price_amount=self.min_price_amount,
            max_price_amount=self.max_price_amount,
            in_stock=self.in_stock or None,
            sort="newest" if self.sort == "relevance" and not query else self.sort,
            limit=self.limit,
            cursor=self.cursor,
        )


@dataclass(frozen=True, slots=True)
class _Order:
    """`keys` are columns of a card; the last is unique. `types` are those of a cursor's values."""

    keys: tuple[str, ...]
    direction: Literal["ASC", "DESC"]
    types: tuple[type, ...]


_ORDERS: Final[Mapping[str, _Order]] = {
    "newest": _Order(("id",), "DESC", (str,)),
    "title": _Order(("title", "id"), "ASC", (str, str)),
    "price": _Order(("price_amount", "id"), "ASC", (int, str)),
    "-price": _Order(("price_amount", "id"), "DESC", (int, str)),
    "relevance": _Order(("rank", "id"), "DESC", (float, str)),
}
_CASTS: Final = {"rank": "float8", "price_amount": "bigint", "title": "text", "id": "uuid"}


class _Values:
    """The bound parameters of a statement, numbered as they are added."""

    def __init__(self) -> None:
        self.bound: list[Any] = []

    def __call__(self, value: Any, type_: str) -> str:
        self.bound.append(value)
        return f"${len(self.bound)}::{type_}"


async def find(work: Work, wanted: Filter) -> Page[ProductCard]:
    """Return a page of products on sale; prices and stock are live.

    Words match by stem and in any order; when nothing matches, similar titles are tried, so
    small misspellings still find.

    Raises:
        InvalidInput: A bound of `limit`, `query` or `cursor` is broken.
    """
    wanted = wanted.checked()
    rows: list[Any] = []
    for match in (_words, _any_word, _similar) if wanted.query else (_everything,):
        statement = _statement(work, wanted, match)
        rows = await work.fetch(*statement) if statement else []
        if rows:
            break
    order = _ORDERS[wanted.sort]
    page = page_of(rows, wanted.limit, lambda row: [row[key] for key in order.keys])
    items = [ProductCard.model_validate(dict(row)) for row in page.items]
    return Page(items=items, next_cursor=page.next_cursor)


def _statement(work: Work, wanted: Filter, match: Any) -> tuple[Any, ...] | None:
    """Return the SQL of one page and its values, or None where `match` can find nothing."""
    bind = _Values()
    matched = match(wanted.query, bind)
    if matched is None:
        return None
    rank, condition = matched
    conditions = ["p.status = 'active'", "p.sku IS NOT NULL", *condition]
    if wanted.category is not None:
        conditions.append(f"""p.category_id = ANY(ARRAY(
            WITH RECURSIVE tree AS (
                SELECT id FROM category WHERE slug = {bind(wanted.category, "text")}
                UNION SELECT k.id FROM category k JOIN tree t ON k.parent_id = t.id
            ) SELECT id FROM tree))""")
    if wanted.min_price_amount is not None:
        conditions.append(f"p.price_amount >= {bind(wanted.min_price_amount, 'bigint')}")
    if wanted.max_price_amount is not None:
        conditions.append(f"p.price_amount <= {bind(wanted.max_price_amount, 'bigint')}")
    now = bind(work.now, "timestamptz")
    if wanted.in_stock:
        conditions.append(f"""EXISTS (SELECT 1 FROM variant x WHERE x.product_id = p.id
            AND x.is_active AND stock_available(x.sku, {now}) > 0)""")
    order = _ORDERS[wanted.sort]
    expressions = [rank if key == "rank" else f"p.{key}" for key in order.keys]
    if wanted.cursor is not None:
        after = zip(_after(wanted.cursor, order), order.keys, strict=True)
        bound = ", ".join(bind(value, _CASTS[key]) for value, key in after)
        compare = ">" if order.direction == "ASC" else "<"
        conditions.append(f"({', '.join(expressions)}) {compare} ({bound})")
    by = ", ".join(f"{expression} {order.direction}" for expression in expressions)
    again = ", ".join(f"page.{key} {order.direction}" for key in order.keys)
    # Only fixed fragments are put together here; every value is bound.
    sql = f"""
        SELECT page.*, c.slug AS category,
               coalesce((SELECT sum(stock_available(x.sku, {now})) FROM variant x
                          WHERE x.product_id = page.id AND x.is_active), 0)::int AS available
          FROM (SELECT p.id, p.handle, p.title, p.brand, p.category_id, p.image_url, p.sku,
                       p.price_amount, p.currency, p.variant_count, {rank} AS rank
                  FROM product p WHERE {" AND ".join(conditions)}
                 ORDER BY {by} LIMIT {bind(wanted.limit + 1, "int")}) page
          LEFT JOIN category c ON c.id = page.category_id
         ORDER BY {again}
    """
    return sql, *bind.bound


def _after(cursor: str, order: _Order) -> list[Any]:
    values = decode_cursor(cursor, *order.types)
    try:
        values[-1] = UUID(values[-1])
    except ValueError as error:
        raise InvalidInput("This is not a cursor of this list.", field="cursor") from error
    if isinstance(values[0], int) and not 0 <= values[0] < 2**63:
        raise InvalidInput("This is not a cursor of this list.", field="cursor")
    return values


Match = tuple[str, list[str]]


def _everything(query: str, bind: _Values) -> Match:
    return "0::float8", []


def _words(query: str, bind: _Values) -> Match:
    words = f"websearch_to_tsquery('english', {bind(query, 'text')})"
    # By way of ids: an OR over two tables could use the index of neither.
    of_sku = (
        f"SELECT y.product_id FROM variant y WHERE upper(y.sku) = {bind(query.upper(), 'text')}"
    )
    found = f"SELECT m.id FROM product m WHERE m.search @@ {words}"
    return f"ts_rank(p.search, {words})::float8", [f"p.id IN ({found} UNION {of_sku})"]


def _any_word(query: str, bind: _Values) -> Match | None:
    words = ["".join(c for c in word if c.isalnum()) for word in query.split()]
    either = " | ".join(word for word in words if word)
    if not either:
        return None
    any_of = f"to_tsquery('english', {bind(either, 'text')})"
    return f"ts_rank(p.search, {any_of})::float8", [f"p.search @@ {any_of}"]


def _similar(query: str, bind: _Values) -> Match:
    like = bind(query, "text")
    return f"word_similarity({like}, p.title)::float8", [f"{like} <% p.title"]
