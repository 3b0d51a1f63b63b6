"""Which units of an order's lines are asked to change, and what they would become and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from pydantic import Field
from sqlalchemy import func
from sqlmodel import col, select

from db.models.aftersales import (
    OrderExchange,
    OrderExchangeLine,
    OrderReturn,
    OrderReturnLine,
    RequestState,
)
from db.models.order import OrderLine
from db.models.product import ProductStatus, Variant
from db.types import OrderId
from deps.core import UnitOfWork
from deps.given import Given
from tools import product, reallocation
from tools.errors import InvalidInput, NotFound, OutOfStock

CHANGES_MAX = 100
UNITS_MAX = 1_000


class LineRequest(Given):
    """Units of one SKU of an order."""

    sku: str = Field(min_length=1, max_length=64)
    quantity: int = Field(default=1, ge=1, le=UNITS_MAX)


class LineChange(LineRequest):
    """Units of one SKU of an order that become another variant of the same product."""

    new_sku: str = Field(min_length=1, max_length=64)


@dataclass(frozen=True, slots=True)
class Change:
    """Units of one line, as they are and as they shall be."""

    line: OrderLine
    new: Variant
    new_title: str
    quantity: int

    @property
    def difference_amount(self) -> int:
        return (self.new.price_amount - self.line.unit_price_amount) * self.quantity


async def lines_of(uow: UnitOfWork, order_id: OrderId) -> list[OrderLine]:
    """Load an order's lines for update, in the order they were bought."""
    query = select(OrderLine).where(OrderLine.order_id == order_id).order_by(col(OrderLine.id))
    query = query.with_for_update().execution_options(populate_existing=True)
    return list(await uow.session.exec(query))


def take_units(
    lines: Sequence[OrderLine],
    wanted: Sequence[LineRequest],
    taken: Mapping[UUID, int],
) -> list[tuple[OrderLine, LineRequest, int]]:
    """Find the units asked for among the lines that have them.

    Args:
        taken: Units by line that an earlier request has taken already.

    Raises:
        InvalidInput: Nothing is asked for, or more units of a SKU than the order still has.
    """
    if not 1 <= len(wanted) <= CHANGES_MAX:
        raise InvalidInput(f"Name 1 to {CHANGES_MAX} lines.", field="lines")
    free = {line.id: line.quantity - taken.get(line.id, 0) for line in lines}
    found: list[tuple[OrderLine, LineRequest, int]] = []
    for request in wanted:
        missing = request.quantity
        for line in lines:
            units = min(missing, free[line.id]) if line.sku == request.sku else 0
            if units > 0:
                free[line.id] -= units
                missing -= units
                found.append((line, request, units))
        if missing:
            raise InvalidInput(
                f"The order has fewer than {request.quantity} units of {request.sku} to change.",
                field="lines",
                sku=request.sku,
            )
    return found


async def taken_units(uow: UnitOfWork, order_id: OrderId) -> dict[UUID, int]:
    """Return the units by line that are on their way back, or have come back.

    Units that were exchanged count no more: the line sells their replacement now.
    """
    taken: dict[UUID, int] = {}
    returned = (
        select(OrderReturnLine.line_id, func.sum(OrderReturnLine.quantity))
        .join(OrderReturn, col(OrderReturn.id) == col(OrderReturnLine.return_id))
        .where(OrderReturn.order_id == order_id, OrderReturn.state != RequestState.CANCELLED)
        .group_by(col(OrderReturnLine.line_id))
    )
    exchanged = (
        select(OrderExchangeLine.line_id, func.sum(OrderExchangeLine.quantity))
        .join(OrderExchange, col(OrderExchange.id) == col(OrderExchangeLine.exchange_id))
        .where(OrderExchange.order_id == order_id)
        .where(col(OrderExchange.state).in_([RequestState.REQUESTED, RequestState.RECEIVED]))
        .group_by(col(OrderExchangeLine.line_id))
    )
    for query in (returned, exchanged):
        for line_id, units in await uow.session.exec(query):
            taken[line_id] = taken.get(line_id, 0) + int(units)
    return taken


async def plan_changes(
    uow: UnitOfWork,
    lines: Sequence[OrderLine],
    wanted: Sequence[LineChange],
    *,
    taken: Mapping[UUID, int],
    may_stay: bool,
) -> list[Change]:
    """Price the change of some units into other variants of the same product.

    Args:
        may_stay: Whether a unit may become the same variant: an exchange of a faulty one may.

    Raises:
        InvalidInput: Units the order has not, a variant of another product, or no change at all.
        NotFound: There is no such variant on sale.
    """
    known = await product.variants_of(uow, {change.new_sku for change in wanted})
    changes: list[Change] = []
    for line, request, units in take_units(lines, wanted, taken):
        assert isinstance(request, LineChange)
        variant, sold = known.get(request.new_sku, (None, None))
        if variant is None or sold is None or not variant.is_active:
            raise NotFound(f"There is no SKU {request.new_sku}.", field="new_sku")
        if sold.id != line.product_id or sold.status is not ProductStatus.ACTIVE:
            raise InvalidInput(
                f"{request.new_sku} is not a variant of {line.title}.", field="new_sku"
            )
        if request.new_sku == line.sku and not may_stay:
            raise InvalidInput("The new variant must differ from the old one.", field="new_sku")
        title = product.full_title(sold.title, variant.title)
        changes.append(Change(line=line, new=variant, new_title=title, quantity=units))
    return changes


async def refuse_scarce(uow: UnitOfWork, changes: Sequence[Change]) -> None:
    """Raises:
    OutOfStock: Fewer units of a new variant can be sold than are asked for.
    """
    wanted: dict[str, int] = {}
    for change in changes:
        wanted[change.new.sku] = wanted.get(change.new.sku, 0) + change.quantity
    available = await reallocation.available(uow, sorted(wanted))
    for sku, quantity in sorted(wanted.items()):
        if available.get(sku, 0) < quantity:
            raise OutOfStock(sku, quantity)
