"""Lists of products: every order and filter, page by page, against a plain sort of the same."""

import random
from uuid import uuid4

import pytest

from deps.core import SYSTEM, Deps
from tests import factories
from tools import listing, product
from tools.errors import InvalidInput, NotFound
from tools.listing import Filter, ProductCard, Sort
from tools.product import ProductInput, VariantInput


async def _save(deps: Deps, handle: str, *variants: tuple[str, int], **more: object) -> None:
    given = ProductInput.model_validate(
        {
            "handle": handle,
            "title": handle.title(),
            "variants": [
                VariantInput(sku=sku, price_amount=price, currency="EUR") for sku, price in variants
            ],
            **more,
        }
    )
    async with deps.acting_as(SYSTEM).begin() as uow:
        await product.save(uow, given)


async def _all(deps: Deps, **wanted: object) -> list[ProductCard]:
    """Read every page, three cards at a time."""
    cards: list[ProductCard] = []
    cursor = None
    while True:
        page = await listing.find(deps.hot_work(), Filter(limit=3, cursor=cursor, **wanted))  # type: ignore[arg-type]
        cards += page.items
        cursor = page.next_cursor
        if cursor is None:
            return cards


@pytest.fixture
async def shelf(deps: Deps) -> Deps:
    chance = random.Random(7)
    for number in range(11):
        # Prices and titles repeat, so that ties are decided by id.
        price = chance.choice((500, 900, 900, 1500))
        title = chance.choice(("Mug", "Board", "Apron"))
        await _save(deps, f"p-{number}", (f"P-{number}", price), title=title)
    return deps


@pytest.mark.parametrize("sort", ["newest", "title", "price", "-price"])
async def test_pages_are_the_whole_in_order(shelf: Deps, sort: Sort) -> None:
    cards = await _all(shelf, sort=sort)
    keys = {
        "newest": lambda card: card.id.bytes,
        "title": lambda card: (card.title, card.id.bytes),
        "price": lambda card: (card.price_amount, card.id.bytes),
        "-price": lambda card: (card.price_amount, card.id.bytes),
    }
    expected = sorted(cards, key=keys[sort], reverse=sort in ("newest", "-price"))
    assert len(cards) == 11
    assert [card.handle for card in cards] == [card.handle for card in expected]


async def test_card_shows_the_cheapest_active_variant(deps: Deps) -> None:
    await _save(deps, "mug", ("MUG-L", 1500), ("MUG-S", 900), ("MUG-M", 900))
    await factories.receive(deps, "MUG-L", 2)
    await factories.receive(deps, "MUG-S", 3)
    [card] = await _all(deps)
    assert (card.sku, card.price_amount, card.variant_count, card.available) == ("MUG-S", 900, 3, 5)

    # Left out is off sale: it neither prices nor counts any more.
    await _save(deps, "mug", ("MUG-L", 1400))
    [card] = await _all(deps)
    assert (card.sku, card.price_amount, card.variant_count) == ("MUG-L", 1400, 1)


async def test_card_follows_sql_that_bypasses_the_operation(deps: Deps) -> None:
    await _save(deps, "mug", ("MUG-S", 900), ("MUG-L", 1500))
    await deps.hot.execute("UPDATE variant SET price_amount = 2000 WHERE sku = 'MUG-S'")
    [card] = await _all(deps)
    assert (card.sku, card.price_amount) == ("MUG-L", 1500)
    await deps.hot.execute("DELETE FROM variant WHERE sku = 'MUG-L'")
    [card] = await _all(deps)
    assert (card.sku, card.price_amount, card.variant_count) == ("MUG-S", 2000, 1)
    await deps.hot.execute("UPDATE variant SET is_active = false")
    assert await _all(deps) == []


async def test_filters(deps: Deps) -> None:
    await factories.product(deps, "MUG", category="kitchen", price=900, stock=0)
    await factories.product(deps, "PAN", category="pans", price=4900, title="Iron pan")
    await deps.hot.execute(
        "UPDATE category SET parent_id = (SELECT id FROM category WHERE slug = 'kitchen')"
        " WHERE slug = 'pans'"
    )

    async def skus(**wanted: object) -> list[str]:
        return [card.sku for card in await _all(deps, sort="price", **wanted)]

    assert await skus(category="kitchen") == ["MUG", "PAN"]
    assert await skus(category="pans") == ["PAN"]
    assert await skus(category="none") == []
    assert await skus(min_price_amount=901) == ["PAN"]
    assert await skus(max_price_amount=900) == ["MUG"]
    assert await skus(in_stock=True) == ["PAN"]
    assert await skus(in_stock=False) == ["MUG", "PAN"]


async def test_search_by_stem_by_sku_by_any_word_and_misspelt(deps: Deps) -> None:
    await factories.product(deps, "MUG-1", title="Waterproof jacket", description="for mugs")
    await factories.product(deps, "PAN-1", title="Iron pan")

    async def found(query: str) -> list[str]:
        return [card.sku for card in await _all(deps, query=query)]

    assert await found("jackets") == ["MUG-1"]
    assert await found("pan-1") == ["PAN-1"]
    assert await found("velvet pan") == ["PAN-1"]
    assert await found("waterprof jaket") == ["MUG-1"]
    assert await found("& | !") == []


async def test_of_a_word_that_very_many_have_the_newest_are_ranked(
    deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other orders and filters see them all; a filter leaves the newest of what it lets through."""
    monkeypatch.setattr(listing, "RANKED_MAX", 4)
    for number in range(12):
        title, description = (("Mug", ""), ("Lamp", "Beside a mug."), ("Lamp", ""))[number % 3]
        words = {"title": title, "description": description}
        await _save(deps, f"p-{number}", (f"P-{number}", 100 + number), **words)

    async def found(**wanted: object) -> list[int]:
        cards = await _all(deps, query="mug", **wanted)
        return [int(card.sku.removeprefix("P-")) for card in cards]

    all_ranked = await found()
    assert set(all_ranked) == {0, 1, 3, 4, 6, 7, 9, 10}
    await deps.hot.execute("ANALYZE product")
    # Mugs before what is beside one, the newest first; the older half is not ranked.
    assert await found() == [9, 6, 10, 7]
    assert await found(max_price_amount=104) == [3, 0, 4, 1]
    assert await found(sort="price") == sorted(all_ranked)
    assert await found(sort="newest") == sorted(all_ranked, reverse=True)
    await _save(deps, "other", ("MUG", 900), title="Something else")
    assert "other" in [card.handle for card in await _all(deps, query="mug")], "by its SKU"


@pytest.mark.parametrize(
    ("query", "least", "most"),
    [
        ("mug", 0.66, 0.67),
        ("lamp", 0.66, 0.67),
        ("mug lamp", 0.33, 0.34),
        ("mug or lamp", 0.66, 0.67),
        ("mug kettle", 0, 0),
        ("mug -lamp", 0, 0),
        ('"mug lamp"', 0, 0),
        ("it's the", None, None),
    ],
)
async def test_share_of_products_that_surely_match(
    deps: Deps, query: str, least: float | None, most: float | None
) -> None:
    for number in range(12):
        title = ("Mug", "Mug for a lamp", "Lamp")[number % 3]
        await _save(deps, f"p-{number}", (f"P-{number}", 100), title=title)
    share = "SELECT search_share(websearch_to_tsquery('english', $1))"
    assert not await deps.hot.fetchval(share, query), "before there are statistics"
    await deps.hot.execute("ANALYZE product")
    found = await deps.hot.fetchval(share, query)
    assert found is None if least is None or most is None else least <= found <= most


@pytest.mark.parametrize("cursor", ["x", "WyJ4Il0", "WzEsICJ4Il0", "WzFlOTksICJ4Il0"])
@pytest.mark.parametrize("sort", ["newest", "price"])
async def test_foreign_cursor_is_refused(deps: Deps, cursor: str, sort: Sort) -> None:
    with pytest.raises(InvalidInput):
        await listing.find(deps.hot_work(), Filter(sort=sort, cursor=cursor))


async def test_product_is_found_by_handle_by_sku_and_by_id(deps: Deps) -> None:
    id_ = await factories.product(deps, "MUG", stock=4)
    for name in ("mug-handle", "MUG", str(id_)):
        found = await product.read(deps.hot_work(), name)
        assert (found.id, found.variants[0].available) == (id_, 4)
    for name in ("nothing", str(uuid4()), "a\x00b"):
        with pytest.raises(NotFound):
            await product.read(deps.hot_work(), name)
