"""Stock locations: where they are, which ship first, and which are closed."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from db.models.inventory import Location
from deps.core import UnitOfWork
from deps.given import Given
from tools.address import country_code_of
from tools.errors import Conflict, InvalidInput, NotFound
from tools.registry import Risk, operation

CODE_CHARS_MAX: Final = 32
NAME_CHARS_MAX: Final = 200
PRIORITY_MAX: Final = 10_000


class LocationView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    code: str
    name: str
    priority: int = Field(description="Lower ships first, where no rule says otherwise.")
    is_active: bool
    country_code: str | None
    latitude: float | None
    longitude: float | None


class LocationDetails(Given):
    """All that is known of a location beside its code."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(min_length=1, max_length=NAME_CHARS_MAX)
    priority: int = Field(ge=-(2**31), lt=2**31)
    is_active: bool
    country_code: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    latitude: float | None = Field(default=None, ge=-90, le=90)
    longitude: float | None = Field(default=None, ge=-180, le=180)


async def by_code(uow: UnitOfWork, code: str, field: str = "location") -> Location:
    """Return the location of a code.

    Raises:
        NotFound: No such location; `field` names the input that asked for it.
    """
    found = (await uow.session.exec(select(Location).where(Location.code == code))).first()
    if found is None:
        raise NotFound(f"There is no location {code!r}.", field=field)
    return found


@operation(
    scope="stock:write",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "list the stock locations",
        "which warehouses do we have",
        "show our locations",
        "where do we keep stock",
    ),
)
async def show(uow: UnitOfWork) -> list[LocationView]:
    """List the stock locations in the order they ship."""
    rows = await uow.session.exec(
        select(Location).order_by(col(Location.priority), col(Location.code))
    )
    return [LocationView.model_validate(row) for row in rows]


async def described(uow: UnitOfWork, code: str, **_: Any) -> dict[str, Any]:
    """Return what brings a location back to what it is now, or away if there is none."""
    query = select(Location).where(Location.code == code)
    found = (await uow.session.exec(query.execution_options(populate_existing=True))).first()
    before = None if found is None else LocationDetails.model_validate(found).model_dump()
    return {"code": code, "before": before}


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="location.forget",
    restore=described,
    examples=(
        "close the location {code}",
        "open a new location {code} called {name}",
        "set the priority of location {code} to {priority}",
        "location {code} is in {country_code}",
    ),
)
async def save(
    uow: UnitOfWork,
    code: str,
    name: str | None = None,
    priority: int | None = None,
    is_active: bool | None = None,
    country_code: str | None = None,
    latitude: float | None = None,
    longitude: float | None = None,
) -> LocationView:
    """Create a location, or change the given fields of one. Closing it takes its units off sale.

    Args:
        code: Short code, such as HAM.
        name: Name for people; needed for a new location.
        priority: Lower ships first, where no rule says otherwise.
        is_active: Whether its units are for sale.
        country_code: ISO 3166 code of its country, such as DE.
        latitude: Degrees north, for the rule `nearest`.
        longitude: Degrees east.

    Raises:
        InvalidInput: A code, country or coordinate that cannot be, or a new location has no name.
    """
    _check_code(code)
    if name is not None and not 1 <= len(name) <= NAME_CHARS_MAX:
        raise InvalidInput(f"name must have 1 to {NAME_CHARS_MAX} characters.", field="name")
    if priority is not None and not 0 <= priority <= PRIORITY_MAX:
        raise InvalidInput(f"priority must be 0 to {PRIORITY_MAX}.", field="priority")
    country = None if country_code is None else country_code_of(country_code)
    if latitude is not None and not -90 <= latitude <= 90:
        raise InvalidInput("latitude must be -90 to 90.", field="latitude")
    if longitude is not None and not -180 <= longitude <= 180:
        raise InvalidInput("longitude must be -180 to 180.", field="longitude")
    if (latitude is None) != (longitude is None):
        raise InvalidInput("latitude and longitude come together.", field="latitude")
    found = await _locked(uow, code)
    if found is None:
        if not name:
            raise InvalidInput("A new location needs a name.", field="name")
        found = Location(code=code, name=name)
    given = {
        "name": name,
        "priority": priority,
        "is_active": is_active,
        "country_code": country,
        "latitude": latitude,
        "longitude": longitude,
    }
    for field, value in given.items():
        if value is not None:
            setattr(found, field, value)
    uow.session.add(found)
    await uow.session.flush()
    return LocationView.model_validate(found)


@operation(
    scope="stock:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="location.forget",
    restore=described,
    examples=(
        "forget the location {code}",
        "there is no warehouse {code} after all",
        "the location {code} was opened by mistake",
    ),
)
async def forget(
    uow: UnitOfWork, code: str, before: LocationDetails | None = None
) -> list[LocationView]:
    """Forget a location that nothing was ever at; one that was used can only be closed.

    Args:
        code: Its code, such as HAM.
        before: Leave out: what undoing puts back in its place.

    Raises:
        NotFound: No such location.
        InvalidInput: A code that cannot be.
        Conflict: Stock, a count, a transfer or a rule names it.
    """
    found = await _locked(uow, code)
    if before is not None:
        _check_code(code)
        found = found or Location(code=code, name=before.name)
        for field, value in before.model_dump().items():
            setattr(found, field, value)
        uow.session.add(found)
        await uow.session.flush()
        return await show(uow)
    if found is None:
        raise NotFound(f"There is no location {code!r}.", field="code")
    try:
        async with uow.session.begin_nested():
            await uow.session.delete(found)
    except IntegrityError as error:
        raise Conflict(f"{code} has been used; close it instead.", field="code") from error
    return await show(uow)


def _check_code(code: str) -> None:
    if not 1 <= len(code) <= CODE_CHARS_MAX or not code.isprintable() or code != code.strip():
        raise InvalidInput(f"code must have 1 to {CODE_CHARS_MAX} characters.", field="code")


async def _locked(uow: UnitOfWork, code: str) -> Location | None:
    query = select(Location).where(Location.code == code).with_for_update()
    return (await uow.session.exec(query.execution_options(populate_existing=True))).first()
