"""The demo shop's catalogue: the same 408 products on every machine, every time."""

from functools import cache
from random import Random

from tools.catalog_clean import slug
from tools.catalog_entry import ProductEntry, VariantEntry
from tools.demo.vocabulary import COLLECTIONS, MATERIALS, SHELVES, SIZES, Kind, Shelf

SEED = "harbour-and-pine"
# How many makes of each of a shelf's nine kinds: 34 products a shelf.
MAKES = (4, 4, 4, 4, 4, 4, 4, 3, 3)
EDIBLE_SHAPES = frozenset({"packet", "soap"})


@cache
def products() -> tuple[ProductEntry, ...]:
    """Return every product, prices in euro cents. Stock is `load.py`'s, as it has locations."""
    made = []
    for shelf in SHELVES:
        for kind, makes in zip(shelf.kinds, MAKES, strict=True):
            # Seeded by kind, so that adding one leaves all others as they were.
            rng = Random(f"{SEED}/{shelf.name}/{kind.noun}")
            lines = rng.sample(sorted(COLLECTIONS), makes)
            made += [_product(rng, shelf, kind, collection) for collection in lines]
    return tuple(made)


def colour_of(product: ProductEntry) -> str:
    """Name the colour the product is pictured in: its first."""
    assert product.attributes is not None
    return str(product.attributes["colour"])


def shape_of(product: ProductEntry) -> str:
    assert product.attributes is not None
    return _shapes()[str(product.attributes["kind"])]


@cache
def _shapes() -> dict[str, str]:
    return {kind.noun: kind.shape for shelf in SHELVES for kind in shelf.kinds}


def _product(rng: Random, shelf: Shelf, kind: Kind, collection: str) -> ProductEntry:
    material = rng.choice([m for m in MATERIALS if m in kind.materials])
    brand = rng.choice(shelf.brands)
    of_food = kind.shape in EDIBLE_SHAPES
    colours = rng.sample(shelf.colours, rng.randint(2, 3))
    pictured = [] if of_food else colours
    title = f"{collection} {kind.noun}" if of_food else f"{collection} {material} {kind.noun}"
    handle = slug(title.replace("'", ""))
    euros = max(4, round(kind.price * rng.uniform(0.82, 1.3)))
    description = " ".join(
        (kind.use, MATERIALS[material], COLLECTIONS[collection], rng.choice(shelf.care))
    )
    attributes = {
        "kind": kind.noun,
        "material": material,
        "colour": colours[0],
        "collection": collection,
        "made_in": rng.choice(("Germany", "Poland", "Portugal", "the Netherlands", "Denmark")),
    }
    return ProductEntry(
        line=0,
        handle=handle,
        title=title,
        description=description,
        brand=brand,
        category=shelf.name,
        attributes=attributes,
        tags=" ".join(
            dict.fromkeys(slug(word) for word in (shelf.name, kind.noun, material, *pictured))
        ),
        image_url=f"/pictures/{handle}.svg",
        status="active",
        variants=_variants(rng, kind, handle, euros, pictured),
    )


def _variants(
    rng: Random, kind: Kind, handle: str, euros: int, colours: list[str]
) -> tuple[VariantEntry, ...]:
    words = handle.split("-")
    stem = "-".join(word[:4] for word in [words[0], *words[-2:]]).upper()
    made: list[VariantEntry] = []
    for colour in colours or [""]:
        for size, factor in SIZES[kind.sizes]:
            options = {"Colour": colour} if colour else {}
            if size:
                options["Size"] = size
            # 0.9 below a whole euro, as the shop's labels have it.
            price = max(2, round(euros * factor)) * 100 - 10
            code = "-".join(slug(value)[:8].strip("-").upper() for value in options.values())
            made.append(
                VariantEntry(
                    line=0,
                    sku="-".join(part for part in (stem, code) if part),
                    title=" / ".join(options.values()),
                    options=options,
                    price_amount=price,
                    barcode=_ean13(rng),
                    weight_g=round(kind.weight_g * factor),
                    stock=None,
                    position=len(made),
                )
            )
    return tuple(made)


def _ean13(rng: Random) -> str:
    """Draw an EAN-13 of the range kept for use inside a shop (GS1 prefixes 20 to 29)."""
    digits = [2, 0] + [rng.randrange(10) for _ in range(10)]
    check = -sum(digit * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10
    return "".join(map(str, [*digits, check]))
