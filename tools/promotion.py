"""Discount codes, as staff make and end them. The terms of a code never change: whoever has used it
got what was said, and another offer is another code."""

import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import col, select

from db.models.promotion import Discount
from deps.core import UnitOfWork
from tools.errors import AlreadyExists, InvalidInput, NotFound
from tools.events import DiscountActivitySet, DiscountCreated
from tools.page import ByTime, Page, aware, by_id, read_page
from tools.registry import Risk, operation

AMOUNT_MAX: Final = 10_000_000
PERCENT_MAX: Final = 100
USES_MAX: Final = 10_000_000
_CODE: Final = re.compile(r"[A-Z0-9][A-Z0-9_-]{2,31}")


class DiscountView(BaseModel):
    """A code: `percent` or `amount` (minor units of `currency`) off the price of the goods."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    code: str
    percent: int | None
    amount: int | None
    currency: str
    minimum_amount: int = Field(description="What the goods have to cost at least.")
    starts_at: datetime | None
    ends_at: datetime | None
    uses_max: int | None
    uses: int = Field(description="Orders that carry it and are not cancelled.")
    is_active: bool
    created_at: datetime


class DiscountPreview(BaseModel):
    """The code that would be made."""

    currency: str
    discount: DiscountView


@dataclass(frozen=True, slots=True)
class Terms:
    """What a code takes off, from what, how often and when: as `create_code` takes them."""

    percent: int | None
    amount: int | None
    minimum_amount: int
    uses_max: int | None
    starts_at: datetime | None
    ends_at: datetime | None


def normal_code(code: str) -> str:
    """Return a code as it is kept, whatever its case.

    Raises:
        InvalidInput: No code looks like this.
    """
    plain = code.strip().upper()
    if not _CODE.fullmatch(plain):
        raise InvalidInput(
            "A code has 3 to 32 letters, digits, - and _, such as WELCOME10.", field="code"
        )
    return plain


def _checked(uow: UnitOfWork, terms: Terms) -> Terms:
    """Return terms that can be, with their moments in UTC."""
    if (terms.percent is None) == (terms.amount is None):
        raise InvalidInput("A code takes off either a percent or an amount.", field="percent")
    ranges = (
        ("percent", terms.percent, 1, PERCENT_MAX),
        ("amount", terms.amount, 1, AMOUNT_MAX),
        ("minimum_amount", terms.minimum_amount, 0, AMOUNT_MAX),
        ("uses_max", terms.uses_max, 1, USES_MAX),
    )
    for field, value, least, most in ranges:
        if value is not None and not least <= value <= most:
            raise InvalidInput(f"{field} must be {least} to {most}.", field=field)
    starts = aware(terms.starts_at, "starts_at") if terms.starts_at else None
    ends = aware(terms.ends_at, "ends_at") if terms.ends_at else None
    if ends is not None and ends <= max(starts or uow.now, uow.now):
        raise InvalidInput("ends_at must lie ahead, and after starts_at.", field="ends_at")
    return replace(terms, starts_at=starts, ends_at=ends)


async def _same(uow: UnitOfWork, code: str, terms: Terms) -> Discount | None:
    """Return the code of these terms, if it was made.

    Raises:
        AlreadyExists: It has other terms.
    """
    known = await _find(uow, code)
    if known is None:
        return None
    if any(getattr(known, term) != value for term, value in asdict(terms).items()):
        raise AlreadyExists(f"There is a code {code} with other terms.", field="code")
    return known


def _new(uow: UnitOfWork, code: str, terms: Terms) -> Discount:
    return Discount(code=code, currency=uow.settings.currency, created_at=uow.now, **asdict(terms))


async def preview_create_code(
    uow: UnitOfWork,
    code: str,
    percent: int | None = None,
    amount: int | None = None,
    minimum_amount: int = 0,
    uses_max: int | None = None,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
) -> DiscountPreview:
    """Say which code `create_code` would make, without doing it.

    Raises: As `create_code`.
    """
    terms = Terms(percent, amount, minimum_amount, uses_max, starts_at, ends_at)
    terms, plain = _checked(uow, terms), normal_code(code)
    found = await _same(uow, plain, terms) or _new(uow, plain, terms)
    shown = DiscountView.model_validate(found)
    return DiscountPreview(currency=shown.currency, discount=shown)


@operation(
    scope="promotion:write",
    risk=Risk.MONEY,
    idempotent=True,
    preview=preview_create_code,
    examples=(
        "create the discount code {code} for {percent} percent off",
        "make a coupon {code} with {percent} % off",
        "new promo code {code}: {amount} off orders over {minimum_amount}",
        "create a discount code {code} of {percent} percent that can be used {uses_max} times",
        "set up a {percent} percent coupon called {code}",
    ),
)
async def create_code(
    uow: UnitOfWork,
    code: str,
    percent: int | None = None,
    amount: int | None = None,
    minimum_amount: int = 0,
    uses_max: int | None = None,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
) -> DiscountView:
    """Make a discount code.

    Making the same one again changes nothing.

    Args:
        code: What shoppers type: 3 to 32 letters, digits, - and _, in any case.
        percent: Per cent off the goods, 1 to 100; this or `amount`.
        amount: Minor units of the shop's currency off the goods.
        minimum_amount: What the goods have to cost at least, in minor units.
        uses_max: How many orders may carry it; leave out for any number.
        starts_at: From when it can be used; leave out for now.
        ends_at: Until when; leave out for ever.

    Raises:
        InvalidInput: A term breaks a rule.
        AlreadyExists: There is such a code with other terms.
    """
    terms = Terms(percent, amount, minimum_amount, uses_max, starts_at, ends_at)
    terms, plain = _checked(uow, terms), normal_code(code)
    # Two who make it at once: the second finds the first's.
    await uow.fetchval("SELECT pg_advisory_xact_lock(hashtextextended($1, 2))", plain)
    found = await _same(uow, plain, terms)
    if found is None:
        found = _new(uow, plain, terms)
        uow.session.add(found)
        uow.publish(DiscountCreated(discount_id=found.id, code=plain))
        await uow.session.flush()
    return DiscountView.model_validate(found)


async def working(uow: UnitOfWork, code: str) -> dict[str, Any] | None:
    """Return what lets a code be used again once it is ended, if it can be used."""
    found = await _known(uow, code)
    return {"code": found.code} if found.is_active else None


async def ended(uow: UnitOfWork, code: str) -> dict[str, Any] | None:
    """Return what ends a code again once it can be used, if it is ended."""
    found = await _known(uow, code)
    return None if found.is_active else {"code": found.code}


@operation(
    scope="promotion:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="promotion.resume_code",
    restore=working,
    examples=(
        "end the discount code {code}",
        "switch off the coupon {code}",
        "deactivate the promo code {code}",
        "nobody may use the code {code} any more",
    ),
)
async def end_code(uow: UnitOfWork, code: str) -> DiscountView:
    """End a discount code.

    No further cart can be bought with it; orders that carry it stay.

    Args:
        code: The code.

    Raises:
        NotFound: No such code.
    """
    return await _set_active(uow, code, False)


@operation(
    scope="promotion:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="promotion.end_code",
    restore=ended,
    examples=(
        "resume the discount code {code}",
        "switch the coupon {code} on again",
        "reactivate the promo code {code}",
        "let people use the code {code} again",
    ),
)
async def resume_code(uow: UnitOfWork, code: str) -> DiscountView:
    """Let a discount code that was ended be used again, within its terms.

    Args:
        code: The code.

    Raises:
        NotFound: No such code.
    """
    return await _set_active(uow, code, True)


@operation(
    scope="promotion:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show the discount code {code}",
        "how often was the coupon {code} used",
        "how many uses of the promo code {code} are left",
        "until when is the code {code} valid",
    ),
)
async def get_code(uow: UnitOfWork, code: str) -> DiscountView:
    """Show a discount code: its terms, and how often it was used.

    Args:
        code: The code.

    Raises:
        NotFound: No such code.
    """
    return DiscountView.model_validate(await _known(uow, code))


@operation(
    scope="promotion:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "list the discount codes",
        "which coupons do we have",
        "show all promo codes",
        "which discount codes are running",
    ),
)
async def list_codes(
    uow: UnitOfWork,
    is_active: bool | None = None,
    sort: ByTime = ByTime.NEWEST,
    limit: int = 20,
    cursor: str | None = None,
) -> Page[DiscountView]:
    """List the discount codes.

    Args:
        is_active: Only those that are switched on, or were ended by hand.
        sort: newest or oldest first.
        limit: How many to return, 1 to 100.
        cursor: `next_cursor` of the page before.
    """
    query = select(Discount)
    if is_active is not None:
        query = query.where(Discount.is_active == is_active)
    order = by_id(Discount.id, sort)
    return await read_page(uow, query, order, DiscountView.model_validate, limit, cursor)


async def _find(uow: UnitOfWork, code: str, *, lock: bool = False) -> Discount | None:
    query = select(Discount).where(col(Discount.code) == code)
    if lock:
        query = query.with_for_update()
    return (await uow.session.exec(query.execution_options(populate_existing=True))).first()


async def _known(uow: UnitOfWork, code: str, *, lock: bool = False) -> Discount:
    found = await _find(uow, normal_code(code), lock=lock)
    if found is None:
        raise NotFound("There is no such discount code.", field="code")
    return found


async def _set_active(uow: UnitOfWork, code: str, is_active: bool) -> DiscountView:
    found = await _known(uow, code, lock=True)
    if found.is_active is not is_active:
        found.is_active = is_active
        uow.publish(DiscountActivitySet(discount_id=found.id, code=found.code, is_active=is_active))
        await uow.session.flush()
    return DiscountView.model_validate(found)
