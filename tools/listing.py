"""Lists of products: filters, orders and search, each a walk along an index, a page at a time.

What a card shows of a product's variants stands in the product's own row, so a page is found
without touching `variant`; stock is asked for the products of the page alone.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from deps.core import Work
from tools import spelling
from tools.errors import InvalidInput
from tools.page import Page, Values, checked_limit, decode_cursor, page_of

QUERY_CHARS_MAX: Final = 200
RANKED_MAX: Final = 240
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


async def find(work: Work, wanted: Filter) -> Page[ProductCard]:
    """Return a page of products on sale; prices and stock are live.

    Words match by stem and in any order. When nothing has them all, misspelt ones are mended; when
    nothing has all of those either, products with any of them are returned. Of words that very many
    products have, the newest `RANKED_MAX` are ranked.

    Raises:
        InvalidInput: A bound of `limit`, `query` or `cursor` is broken.
    """
    wanted = wanted.checked()
    rows: list[Any] = []
    async for match in _matches(work, wanted.query):
        rows = await work.fetch(*_statement(work, wanted, match))
        if rows:
            break
    order = _ORDERS[wanted.sort]
    page = page_of(rows, wanted.limit, lambda row: [row[key] for key in order.keys])
    items = [ProductCard.model_validate(dict(row)) for row in page.items]
    return Page(items=items, next_cursor=page.next_cursor)


def _statement(work: Work, wanted: Filter, match: "_Match") -> tuple[Any, ...]:
    """Return the SQL of one page and its values."""
    bind = Values()
    rank, condition = match.sql(bind)
    now = bind(work.now, "timestamptz")
    conditions = [*condition, *_conditions(wanted, bind, now)]
    order = _ORDERS[wanted.sort]
    expressions = [rank if key == "rank" else f"p.{key}" for key in order.keys]
    by = ", ".join(f"{expression} {order.direction}" for expression in expressions)
    after = ""
    if wanted.cursor is not None:
        values = zip(_after(wanted.cursor, order), order.keys, strict=True)
        bound = ", ".join(bind(value, _CASTS[key]) for value, key in values)
        compare = ">" if order.direction == "ASC" else "<"
        after = f"AND ({', '.join(expressions)}) {compare} ({bound})"
    page = f"ORDER BY {by} LIMIT {bind(wanted.limit + 1, 'int')}"
    source = f"product p WHERE {' AND '.join(conditions)} {after}"
    if match.is_common and wanted.sort == "relevance":
        source = f"""(SELECT p.* FROM product p WHERE {" AND ".join(conditions)}
                       ORDER BY p.id DESC LIMIT {RANKED_MAX}) p WHERE true {after}"""
    elif wanted.category is not None and not wanted.query:
        # A category at a time: each has its place in the indexes, however few it has.
        source = f"""unnest(ARRAY({_TREE.format(slug=bind(wanted.category, "text"))})) AS k (id)
            CROSS JOIN LATERAL (SELECT p.* FROM {source} AND p.category_id = k.id {page}) p"""
    again = ", ".join(f"page.{key} {order.direction}" for key in order.keys)
    # Only fixed fragments are put together here; every value is bound.
    sql = f"""
        SELECT page.*, c.slug AS category,
               coalesce((SELECT sum(stock_available(x.sku, {now})) FROM variant x
                          WHERE x.product_id = page.id AND x.is_active), 0)::int AS available
          FROM (SELECT p.id, p.handle, p.title, p.brand, p.category_id, p.image_url, p.sku,
                       p.price_amount, p.currency, p.variant_count, {rank} AS rank
                  FROM {source} {page}) page
          LEFT JOIN category c ON c.id = page.category_id
         ORDER BY {again}
    """
    return sql, *bind.bound


# A category and all below it.
_TREE: Final = """
    WITH RECURSIVE tree AS (
        SELECT id FROM category WHERE slug = {slug}
        UNION SELECT k.id FROM category k JOIN tree t ON k.parent_id = t.id
    ) SELECT id FROM tree
"""


def _conditions(wanted: Filter, bind: Values, now: str) -> Iterator[str]:
    yield "p.status = 'active' AND p.sku IS NOT NULL"
    if wanted.category is not None and wanted.query:
        yield f"p.category_id = ANY(ARRAY({_TREE.format(slug=bind(wanted.category, 'text'))}))"
    if wanted.min_price_amount is not None:
        yield f"p.price_amount >= {bind(wanted.min_price_amount, 'bigint')}"
    if wanted.max_price_amount is not None:
        yield f"p.price_amount <= {bind(wanted.max_price_amount, 'bigint')}"
    if wanted.in_stock:
        yield f"""EXISTS (SELECT 1 FROM variant x WHERE x.product_id = p.id
            AND x.is_active AND stock_available(x.sku, {now}) > 0)"""


def _after(cursor: str, order: _Order) -> list[Any]:
    values = decode_cursor(cursor, *order.types)
    try:
        values[-1] = UUID(values[-1])
    except ValueError as error:
        raise InvalidInput("This is not a cursor of this list.", field="cursor") from error
    if isinstance(values[0], int) and not 0 <= values[0] < 2**63:
        raise InvalidInput("This is not a cursor of this list.", field="cursor")
    return values


class _Match:
    """What products are matched by; this one matches all. `is_common`: very many match."""

    is_common = False

    def sql(self, bind: Values) -> tuple[str, list[str]]:
        """Return the rank and the conditions."""
        return "0::float8", []


@dataclass(frozen=True, slots=True)
class _Words(_Match):
    """Words of the full-text index, and a SKU if it is one."""

    query: str
    parser: Literal["websearch_to_tsquery", "to_tsquery"] = "to_tsquery"
    sku: str | None = None
    is_common: bool = False

    def sql(self, bind: Values) -> tuple[str, list[str]]:
        query = f"{self.parser}('english', {bind(self.query, 'text')})"
        rank, has_words = f"ts_rank(p.search, {query})::float8", f"p.search @@ {query}"
        if self.is_common:
            # Not by the index of words, which would collect them all: along the list itself.
            has_words = f"({has_words}) IS TRUE"
        if self.sku is None:
            return rank, [has_words]
        sku = bind(self.sku.upper(), "text")
        of_sku = f"SELECT y.product_id FROM variant y WHERE upper(y.sku) = {sku}"
        if self.is_common:
            return rank, [f"({has_words} OR p.id = ANY(ARRAY({of_sku})))"]
        # By way of ids: an OR over two tables could use the index of neither.
        found = f"SELECT m.id FROM product m WHERE m.search @@ {query}"
        return rank, [f"p.id IN ({found} UNION {of_sku})"]


@dataclass(frozen=True, slots=True)
class _InTitle(_Match):
    """Words that the full-text index leaves out, by the letters of titles."""

    words: Sequence[str]

    def sql(self, bind: Values) -> tuple[str, list[str]]:
        whole = bind(rf"\m({'|'.join(self.words)})\M", "text")
        return "0::float8", [f"p.title ~* {whole}"]


async def _matches(work: Work, query: str) -> AsyncIterator[_Match]:
    """Yield what to match products by, one after the other until something is found."""
    if not query:
        yield _Match()
        return
    yield await _weighed(work, _Words(query, "websearch_to_tsquery", sku=query))
    words = spelling.words_of(query)
    if not words:
        return
    spelt = await spelling.spell(work, words)
    either = [f"({' | '.join((word, *spelt.meant.get(word, ())))})" for word in words]
    if spelt.meant:
        yield await _weighed(work, _Words(" & ".join(either)))
    if len(words) > 1:
        yield await _weighed(work, _Words(" | ".join(either)))
    if spelt.stops:
        yield _InTitle(spelt.stops)


# With so many matches, to walk the newest until enough match reads fewer products than to collect
# all that match.
_IS_COMMON: Final = """
    SELECT search_share({parser}('english', $1)) > sqrt($2::float8 / greatest(c.reltuples, 1))
      FROM pg_class c WHERE c.oid = 'product'::regclass
"""


async def _weighed(work: Work, words: _Words) -> _Words:
    """Return the same words, having asked the planner's statistics how many products have them."""
    is_common = await work.fetchval(
        _IS_COMMON.format(parser=words.parser), words.query, float(RANKED_MAX)
    )
    return replace(words, is_common=bool(is_common))
