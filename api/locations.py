"""REST: stock locations, and the rules by which one is chosen (staff)."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from api.deps import UowDep, needs
from api.problems import problems
from deps.given import Given
from tools import location, stock_rule
from tools.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from tools.location import NAME_CHARS_MAX, PRIORITY_MAX, LocationView
from tools.stock_rule import RULES_MAX, Coordinates, PostalAreaView, Rule

router = APIRouter(prefix="/inventory", tags=["stock"], dependencies=[needs("stock:write")])
Code = Annotated[str, Path(max_length=32, examples=["HAM"])]
Country = Annotated[str, Path(min_length=2, max_length=2, examples=["DE"])]
Prefix = Annotated[str, Path(max_length=10, examples=["20"])]


class LocationInput(Given):
    """Fields left out stay as they are."""

    name: str | None = Field(
        default=None, min_length=1, max_length=NAME_CHARS_MAX, examples=["Hamburg"]
    )
    priority: int | None = Field(default=None, ge=0, le=PRIORITY_MAX)
    is_active: bool | None = None
    country_code: str | None = Field(default=None, min_length=2, max_length=2, examples=["DE"])
    latitude: float | None = Field(default=None, ge=-90, le=90, examples=[53.55])
    longitude: float | None = Field(default=None, ge=-180, le=180, examples=[9.99])


class Rules(Given):
    rules: list[Rule] = Field(max_length=RULES_MAX, description="In the order they weigh.")


@router.get("/locations", responses=problems(Unauthenticated, Forbidden))
async def list_locations(uow: UowDep) -> list[LocationView]:
    """List the stock locations in the order they ship."""
    return await location.show(uow)


@router.put("/locations/{code}", responses=problems(Unauthenticated, Forbidden, InvalidInput))
async def save_location(code: Code, body: LocationInput, uow: UowDep) -> LocationView:
    """Create a location or change the given fields; a closed one sells nothing."""
    return await location.save(uow, code, **body.model_dump())


@router.delete(
    "/locations/{code}", responses=problems(Unauthenticated, Forbidden, NotFound, Conflict)
)
async def forget_location(code: Code, uow: UowDep) -> list[LocationView]:
    """Forget a location that nothing was ever at, and list the others; close one that was used."""
    return await location.forget(uow, code)


@router.get("/rules", responses=problems(Unauthenticated, Forbidden))
async def list_rules(uow: UowDep) -> list[Rule]:
    """List the rules that choose the location, in the order they weigh."""
    return await stock_rule.show(uow)


@router.put("/rules", responses=problems(Unauthenticated, Forbidden, NotFound, InvalidInput))
async def replace_rules(body: Rules, uow: UowDep) -> list[Rule]:
    """Put these rules in place of all there were; none restores the default."""
    return await stock_rule.replace(uow, body.rules)


@router.put(
    "/postal-areas/{country_code}/{prefix}",
    responses=problems(Unauthenticated, Forbidden, InvalidInput),
)
async def place_postal_area(
    country_code: Country, prefix: Prefix, body: Coordinates, uow: UowDep
) -> PostalAreaView:
    """Say where the postal codes that begin with a prefix are, for the rule `nearest`."""
    return await stock_rule.place_area(uow, country_code, body.latitude, body.longitude, prefix)


@router.delete(
    "/postal-areas/{country_code}/{prefix}",
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def forget_postal_area(country_code: Country, prefix: Prefix, uow: UowDep) -> PostalAreaView:
    """Forget where the postal codes that begin with a prefix are; return where they were."""
    return await stock_rule.forget_area(uow, country_code, prefix)
