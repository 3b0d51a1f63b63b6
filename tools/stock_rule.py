"""Rules of the shop: which location an order's units come from. `stock_places` in SQL applies them.

Rules weigh in their order: a tie in the first is broken by the second, and so on, at last by the
locations' priority. With none, a location that has enough comes first, then priority.
"""

from typing import Any, Final

from pydantic import BaseModel, Field

from db.models.stock_rule import PostalArea, RuleKind, StockRule
from deps.core import UnitOfWork
from deps.given import Given
from tools.address import country_code_of
from tools.errors import InvalidInput, NotFound
from tools.location import by_code
from tools.registry import Risk, operation

RULES_MAX: Final = 50


class Rule(Given):
    """`preferred` puts one location first, `nearest` sorts by the distance to the delivery's postal
    area, and `fewest_splits` by how much of the order a location can serve in full."""

    kind: RuleKind
    location: str | None = Field(
        default=None, max_length=32, description="Code; for `preferred` alone."
    )
    country_code: str | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="Only for deliveries to this country.",
    )


class Coordinates(Given):
    """Degrees north and east."""

    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)


class PostalAreaView(BaseModel):
    country_code: str
    prefix: str
    latitude: float
    longitude: float


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "which rules choose the location",
        "show the stock rules",
        "how is the warehouse for an order chosen",
        "list the location rules",
    ),
)
async def show(uow: UnitOfWork) -> list[Rule]:
    """List the rules in the order they weigh."""
    rows = await uow.fetch(
        """SELECT r.kind, l.code AS location, r.country_code
           FROM stock_rule r LEFT JOIN location l ON l.id = r.location_id ORDER BY r.position"""
    )
    return [Rule(**row) for row in rows]


async def in_force(uow: UnitOfWork, **_: Any) -> dict[str, Any]:
    """Return what puts the rules back that there are now."""
    return {"rules": [rule.model_dump() for rule in await show(uow)]}


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_rule.replace",
    restore=in_force,
    examples=(
        "ship from the nearest location",
        "prefer {location} for deliveries to {country_code}",
        "split orders over as few locations as possible",
        "set the location rules to {rules}",
    ),
)
async def replace(uow: UnitOfWork, rules: list[Rule]) -> list[Rule]:
    """Put these rules in place of all there were. Orders already reserved stay where they are.

    Args:
        rules: In the order they weigh; none at all restores the default.

    Raises:
        NotFound: No such location.
        InvalidInput: Too many rules, or `preferred` without a location, or another with one.
    """
    if len(rules) > RULES_MAX:
        raise InvalidInput(f"At most {RULES_MAX} rules.", field="rules")
    rows: list[StockRule] = []
    for position, rule in enumerate(rules):
        if (rule.kind is RuleKind.PREFERRED) != (rule.location is not None):
            raise InvalidInput("preferred needs a location; the others have none.", field="rules")
        place = None if rule.location is None else await by_code(uow, rule.location, "rules")
        code = rule.country_code
        rows.append(
            StockRule(
                position=position,
                kind=rule.kind,
                location_id=place.id if place else None,
                country_code=None if code is None else country_code_of(code, "rules"),
            )
        )
    # Two people who replace them at once must not end with a mixture.
    await uow.fetch("LOCK TABLE stock_rule IN SHARE ROW EXCLUSIVE MODE")
    await uow.fetch("DELETE FROM stock_rule")
    uow.session.add_all(rows)
    await uow.session.flush()
    return await show(uow)


async def placed(uow: UnitOfWork, country_code: str, prefix: str = "", **_: Any) -> dict[str, Any]:
    """Return what puts a postal area back where it is now, or away if it is nowhere."""
    area = await _area(uow, country_code, prefix)
    before = area and {"latitude": area.latitude, "longitude": area.longitude}
    return {"country_code": country_code, "prefix": prefix, "before": before}


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_rule.forget_area",
    restore=placed,
    examples=(
        "postal codes {prefix} in {country_code} are at {latitude} {longitude}",
        "place the postal area {prefix} of {country_code}",
        "set the coordinates of {country_code} {prefix}",
        "where is the postal area {prefix} of {country_code}: {latitude}, {longitude}",
    ),
)
async def place_area(
    uow: UnitOfWork, country_code: str, latitude: float, longitude: float, prefix: str = ""
) -> PostalAreaView:
    """Say where the postal codes that begin with a prefix are, for the rule `nearest`.

    Args:
        country_code: ISO 3166 code, such as DE.
        latitude: Degrees north.
        longitude: Degrees east.
        prefix: Beginning of the postal codes, without spaces; empty is the whole country.

    Raises:
        InvalidInput: No such place can be.
    """
    return await _place(uow, country_code, prefix, latitude, longitude)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="stock_rule.forget_area",
    restore=placed,
    examples=(
        "forget where the postal codes {prefix} in {country_code} are",
        "forget the coordinates of {country_code} {prefix}",
        "forget the postal area {prefix} of {country_code}",
    ),
)
async def forget_area(
    uow: UnitOfWork, country_code: str, prefix: str = "", before: Coordinates | None = None
) -> PostalAreaView:
    """Forget where the postal codes that begin with a prefix are; a shorter prefix counts then.

    Args:
        country_code: ISO 3166 code, such as DE.
        prefix: Beginning of the postal codes; empty is the whole country.
        before: Leave out: the place that undoing puts it back to.

    Raises:
        NotFound: Nobody said where they are.
        InvalidInput: No such place can be.
    """
    if before is not None:
        return await _place(uow, country_code, prefix, before.latitude, before.longitude)
    area = await _area(uow, country_code, prefix)
    if area is None:
        raise NotFound("Nobody said where this postal area is.", field="prefix")
    await uow.session.delete(area)
    await uow.session.flush()
    return PostalAreaView(**area.model_dump())


async def _area(uow: UnitOfWork, country_code: str, prefix: str) -> PostalArea | None:
    key = (country_code.upper(), prefix.upper())
    return await uow.session.get(PostalArea, key, populate_existing=True)


async def _place(
    uow: UnitOfWork, country_code: str, prefix: str, latitude: float, longitude: float
) -> PostalAreaView:
    country = country_code_of(country_code)
    if len(prefix) > 10 or not (prefix == "" or (prefix.isascii() and prefix.isalnum())):
        raise InvalidInput("prefix must be at most 10 letters and digits.", field="prefix")
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise InvalidInput("These are no coordinates.", field="latitude")
    area = PostalArea(
        country_code=country,
        prefix=prefix.upper(),
        latitude=latitude,
        longitude=longitude,
    )
    await uow.session.merge(area)
    await uow.session.flush()
    return PostalAreaView(**area.model_dump())
