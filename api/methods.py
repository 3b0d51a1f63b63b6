"""REST: the signed-in person's stored payment methods."""

from uuid import UUID

from fastapi import APIRouter, status
from pydantic import Field

from api.deps import DepsDep, UowDep, needs
from api.problems import problems
from deps.given import Given
from tools import method
from tools.errors import Conflict, Forbidden, NotFound, Unauthenticated
from tools.method import TOKEN_LENGTH_MAX, MethodView

router = APIRouter(prefix="/me/payment-methods", tags=["payment methods"])
writers = [needs("profile:write")]


class MethodInput(Given):
    token: str = Field(
        min_length=1,
        max_length=TOKEN_LENGTH_MAX,
        description="What the provider's own form returned; never a card number.",
        examples=["pm_1PgafyB7WZ01zgkWSjxsAJo3"],
    )
    provider: str | None = Field(default=None, max_length=32, examples=["stripe"])
    is_default: bool = False


@router.get(
    "", dependencies=[needs("profile:read")], responses=problems(Unauthenticated, Forbidden)
)
async def list_methods(uow: UowDep) -> list[MethodView]:
    """List one's payment methods, the default one first."""
    return await method.list_methods(uow)


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    dependencies=writers,
    responses=problems(Unauthenticated, Forbidden, NotFound, Conflict),
)
async def add_method(body: MethodInput, deps: DepsDep) -> MethodView:
    """Keep a payment method for later purchases; the same token is kept once."""
    return await method.add(deps, body.token, body.provider, body.is_default)


@router.put(
    "/{method_id}/default",
    dependencies=writers,
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def set_default_method(method_id: UUID, uow: UowDep) -> MethodView:
    """Make a method the one that purchases use unless told otherwise."""
    return await method.set_default(uow, method_id)


@router.delete(
    "/{method_id}",
    dependencies=writers,
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def remove_method(method_id: UUID, deps: DepsDep) -> MethodView:
    """Forget a method, here and at the provider."""
    return await method.remove(deps, method_id)
