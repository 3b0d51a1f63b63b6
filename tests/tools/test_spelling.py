"""Misspelt searches, and the words and counts they rest on, kept by whoever writes products."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from deps.core import SYSTEM, Deps, UnitOfWork
from tests import factories
from tools import catalog_import, invariant, listing, product, spelling
from tools.catalog_entry import ProductEntry, VariantEntry
from tools.listing import Filter
from tools.product import ProductInput, VariantInput


async def save(uow: UnitOfWork, handle: str, title: str, **more: object) -> None:
    given = {
        "handle": handle,
        "title": title,
        "variants": [VariantInput(sku=handle.upper(), price_amount=900, currency="EUR")],
    }
    await product.save(uow, ProductInput.model_validate(given | more))


async def found(deps: Deps, query: str) -> list[str]:
    page = await listing.find(deps.hot_work(), Filter(query=query))
    return [card.handle for card in page.items]


async def counts(deps: Deps) -> dict[str, int]:
    rows = await deps.hot.fetch("SELECT word, products FROM search_word WHERE products <> 0")
    return {row["word"]: row["products"] for row in rows}


@pytest.fixture
async def shop(deps: Deps) -> Deps:
    staff = deps.acting_as(SYSTEM)
    async with staff.begin() as uow:
        await save(uow, "mug", "Stoneware mug", brand="Harbour")
        await save(uow, "bowl", "Stoneware bowl")
        await save(uow, "lamp", "Brass lamp", description="Stands beside a blanket.")
        await save(uow, "throw", "Wool blanket")
        await save(uow, "pillow", "Down pillow")
        await save(uow, "jacket", "Waterproof jacket")
    return staff


@pytest.mark.parametrize(
    ("query", "handles"),
    [
        # A letter left out, doubled, swapped, wrong; in words long and short.
        ("stonware", {"mug", "bowl"}),
        ("stonewware", {"mug", "bowl"}),
        ("stoenware", {"mug", "bowl"}),
        ("stoneward", {"mug", "bowl"}),
        ("mgu", {"mug"}),
        ("bwol", {"bowl"}),
        ("lanp", {"lamp"}),
        ("harbor", {"mug"}),
        # The start of a word, and a part.
        ("stonew", {"mug", "bowl"}),
        ("proof", {"jacket"}),
        # One of two words is misspelt: the other still counts.
        ("stonwear bowl", {"bowl"}),
        ("waterprof jaket", {"jacket"}),
        # A word that the full-text index leaves out.
        ("down", {"pillow"}),
        ("dwon", {"pillow"}),
        # What is mended finds what it would have found had it been spelt right.
        ("blankte", {"throw", "lamp"}),
        ("blanket", {"throw", "lamp"}),
        # Any of the words, when nothing has all.
        ("velvet pilow", {"pillow"}),
        ("xyzzy", set()),
        ("12345 & | ! (", set()),
    ],
)
async def test_what_a_misspelt_search_finds(shop: Deps, query: str, handles: set[str]) -> None:
    assert set(await found(shop, query)) == handles


async def test_the_likeliest_word_comes_first(shop: Deps) -> None:
    async with shop.begin() as uow:
        await save(uow, "watch", "Steel watch")
        await save(uow, "patch", "Wool patch")
        await save(uow, "patch-2", "Felt patch")
    spelt = await spelling.spell(shop.hot_work(), ["watxh", "atch", "steel", "123"])
    assert spelt.meant == {"watxh": ["watch"], "atch": ["patch", "watch"]}
    assert spelt.stops == []


async def test_words_follow_what_is_listed(deps: Deps) -> None:
    staff = deps.acting_as(SYSTEM)
    steps: list[tuple[str, dict[str, int]]] = [
        ("UPDATE product SET title = 'Oak bowl', brand = 'Tern' WHERE handle = 'mug'",
         {"oak": 1, "bowl": 1, "tern": 1}),
        ("UPDATE product SET description = 'nothing new', updated_at = now()",
         {"oak": 1, "bowl": 1, "tern": 1}),
        ("UPDATE product SET status = 'archived'", {}),
        ("UPDATE product SET status = 'active'", {"oak": 1, "bowl": 1, "tern": 1}),
        ("UPDATE variant SET is_active = false", {}),
        ("UPDATE variant SET is_active = true", {"oak": 1, "bowl": 1, "tern": 1}),
        ("DELETE FROM product", {}),
    ]  # fmt: skip
    async with staff.begin() as uow:
        await save(uow, "mug", "Big MUG, big handle! 2 l 4XL 500")
    assert await counts(deps) == {"big": 1, "mug": 1, "handle": 1, "4xl": 1}
    for statement, words in steps:
        await deps.hot.execute(statement)
        assert await counts(deps) == words, statement
        assert await invariant.check(deps) == []


async def test_categories_count_what_is_listed(deps: Deps) -> None:
    await factories.product(deps, "MUG", category="kitchen")
    await factories.product(deps, "PAN", category="kitchen", title="Pan")
    await factories.product(deps, "TEA", category="tea", title="Tea")

    async def shown() -> dict[str, int]:
        return {c.slug: c.products for c in await product.read_categories(deps.hot_work())}

    assert await shown() == {"kitchen": 2, "tea": 1}
    await deps.hot.execute(
        "UPDATE product SET category_id = (SELECT id FROM category WHERE slug = 'tea')"
        " WHERE title = 'Pan'"
    )
    assert await shown() == {"kitchen": 1, "tea": 2}
    await deps.hot.execute("UPDATE product SET status = 'draft' WHERE title = 'Tea'")
    assert await shown() == {"kitchen": 1, "tea": 1}
    assert await invariant.check(deps) == []


async def test_a_transaction_that_is_rolled_back_leaves_no_words(shop: Deps) -> None:
    before = await counts(shop)

    async def fails() -> None:
        async with shop.begin() as uow:
            await save(uow, "vase", "Glass vase")
            await uow.session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    assert await counts(shop) == before
    assert await shop.hot.fetchval("SELECT count(*) FROM catalog_change") == 0


async def test_two_transactions_that_write_the_same_words_crosswise_both_commit(
    deps: Deps,
) -> None:
    staff = deps.acting_as(SYSTEM)
    both = asyncio.Barrier(2)

    async def writes(name: str, titles: Sequence[str]) -> None:
        async with staff.begin() as uow:
            for number, title in enumerate(titles):
                await save(uow, f"{name}-{number}", title)
                await uow.session.flush()
                await both.wait()

    async with asyncio.timeout(60):
        await asyncio.gather(
            writes("a", ["Zebra mug", "Apple mug"]), writes("b", ["Apple mug", "Zebra mug"])
        )
    assert await counts(deps) == {"apple": 2, "zebra": 2, "mug": 4}
    assert await invariant.check(deps) == []


def entry(handle: str, title: str) -> ProductEntry:
    variant = VariantEntry(
        line=1, sku=handle.upper(), title="", options={}, price_amount=900, barcode=None,
        weight_g=None, stock=None, position=0,
    )  # fmt: skip
    return ProductEntry(
        line=1, handle=handle, title=title, description=None, brand=None, category="Things",
        attributes=None, tags=None, image_url=None, status=None, variants=(variant,),
    )  # fmt: skip


async def test_imports_and_saves_at_once_count_every_word(deps: Deps) -> None:
    """Two imports of the same products under changing titles, among people who save and archive."""
    staff = deps.acting_as(SYSTEM)
    chance = random.Random(3)
    nouns = [f"{first}{second}" for first in ("mug", "pan", "cup", "jar") for second in "abcdef"]
    await factories.product(deps, "OLD", category="things")
    place = await deps.hot.fetchval("SELECT id FROM location")

    def titles(count: int) -> list[str]:
        return [" ".join(chance.sample(nouns, 3)) for _ in range(count)]

    async def imports() -> None:
        for _ in range(4):
            batch = [entry(f"p-{n}", title) for n, title in enumerate(titles(40))]
            async with staff.begin() as uow:
                await catalog_import.save(uow, batch, "EUR", place)

    async def saves(name: str) -> None:
        for number, title in enumerate(titles(12)):
            status = chance.choice(["active", "archived"])
            async with staff.begin() as uow:
                await save(uow, f"{name}-{number % 5}", title, status=status, category="things")

    async with asyncio.timeout(60):
        await asyncio.gather(imports(), imports(), *(saves(name) for name in "xyz"))
    assert await invariant.check(deps) == []
    assert len(await counts(deps)) > len(nouns) / 2
    assert await deps.hot.fetchval("SELECT count(*) FROM catalog_change") == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE search_word SET products = products + 1",
        "DELETE FROM search_word WHERE word = 'mug'",
        "INSERT INTO search_word VALUES ('ghost', 1)",
        "UPDATE category SET products = 7",
    ],
)
async def test_the_audit_finds_a_wrong_count(deps: Deps, damage: str) -> None:
    await factories.product(deps, "MUG", category="kitchen")
    await deps.hot.execute(damage)
    names = [violation.invariant for violation in await invariant.check(deps)]
    assert names == ["words and categories count what is listed"]
