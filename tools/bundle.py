"""Bundles: SKUs sold as a set. As many can be sold as the parts allow; those are reserved."""

from typing import Any, Final

from pydantic import BaseModel, Field

from db.models.inventory import BundlePart
from deps.core import UnitOfWork
from deps.given import Given
from tools import inventory
from tools.errors import Conflict, InvalidInput, NotFound
from tools.events import BundleDefined
from tools.inventory import BundlePartView
from tools.registry import Risk, operation

PARTS_MAX: Final = 20
PART_QUANTITY_MAX: Final = 1_000


class BundlePartInput(Given):
    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(default=1, ge=1, le=PART_QUANTITY_MAX)


class BundleView(BaseModel):
    sku: str
    title: str
    available: int
    parts: list[BundlePartView]


async def made_of(uow: UnitOfWork, sku: str, **_: Any) -> dict[str, Any]:
    """Return what defines a bundle as it is now; of an ordinary SKU, that it has no parts."""
    parts = await uow.fetch(
        "SELECT part_sku AS sku, quantity FROM bundle_part WHERE bundle_sku = $1 ORDER BY part_sku",
        sku,
    )
    return {"sku": sku, "parts": [dict(part) for part in parts]}


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="bundle.define",
    restore=made_of,
    examples=(
        "make {sku} a bundle of {parts}",
        "the set {sku} consists of {parts}",
        "define the bundle {sku}",
        "change the parts of the bundle {sku} to {parts}",
    ),
)
async def define(uow: UnitOfWork, sku: str, parts: list[BundlePartInput]) -> BundleView:
    """Say what a bundle consists of, in place of what it did; no parts make it an ordinary SKU.

    Orders keep the parts they were placed with.

    Args:
        sku: SKU of the bundle; it must have no stock of its own.
        parts: SKUs and how many of each are in one bundle; each once, none of them a bundle.

    Raises:
        NotFound: No such SKU.
        InvalidInput: Too many parts, one twice, or the bundle in itself.
        Conflict: The SKU has stock of its own, is part of a bundle, or a part is a bundle.
    """
    _, product_id = await inventory.variant(uow, sku)
    skus = [part.sku for part in parts]
    if len(skus) > PARTS_MAX:
        raise InvalidInput(f"A bundle has at most {PARTS_MAX} parts.", field="parts")
    if len(set(skus)) < len(skus) or sku in skus:
        raise InvalidInput("Each SKU may be given once, the bundle itself never.", field="parts")
    for part in skus:
        await inventory.variant(uow, part)
    # In this order for every bundle: the trigger locks the variant it is about again.
    await uow.fetch("SELECT FROM variant WHERE sku = ANY($1) ORDER BY sku FOR UPDATE", [sku, *skus])
    if await uow.fetchval("SELECT 1 FROM stock_level WHERE sku = $1 LIMIT 1", sku):
        raise Conflict(f"{sku} has stock of its own.", field="sku")
    if parts and await uow.fetchval("SELECT 1 FROM bundle_part WHERE part_sku = $1 LIMIT 1", sku):
        raise Conflict(f"{sku} is part of a bundle.", field="sku")
    nested = await uow.fetchval(
        "SELECT bundle_sku FROM bundle_part WHERE bundle_sku = ANY($1)", skus
    )
    if nested:
        raise Conflict(f"{nested} is a bundle itself.", field="parts")
    await uow.fetch("DELETE FROM bundle_part WHERE bundle_sku = $1", sku)
    uow.session.add_all(
        BundlePart(bundle_sku=sku, part_sku=part.sku, quantity=part.quantity) for part in parts
    )
    await uow.session.flush()
    uow.publish(
        BundleDefined(
            product_id=product_id, sku=sku, parts={part.sku: part.quantity for part in parts}
        )
    )
    return await _view(uow, sku)


@operation(
    scope="stock:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what is in the bundle {sku}",
        "which parts does the set {sku} have",
        "show the bundle {sku}",
        "what does {sku} consist of",
    ),
)
async def show(uow: UnitOfWork, sku: str) -> BundleView:
    """Show what a bundle consists of and how many can be sold.

    Args:
        sku: SKU of the bundle.

    Raises:
        NotFound: No such SKU, or it is not a bundle.
    """
    found = await _view(uow, sku)
    if not found.parts:
        raise NotFound(f"{sku} is not a bundle.", field="sku")
    return found


async def _view(uow: UnitOfWork, sku: str) -> BundleView:
    stock = await inventory.levels(uow, sku)
    return BundleView(sku=sku, title=stock.title, available=stock.available, parts=stock.parts)
