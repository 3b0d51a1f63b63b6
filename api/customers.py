"""REST: one's own account and address, and customers as staff see them."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from api.deps import UowDep, needs
from api.problems import problems
from tools import address, customer
from tools.address import Address
from tools.customer import CustomerMatch, CustomerView
from tools.errors import Forbidden, InvalidInput, NotFound, Unauthenticated

router = APIRouter(tags=["customers"])


@router.get("/me/account", responses=problems(Unauthenticated))
async def read_account(uow: UowDep) -> CustomerView:
    """Show one's own account: address, stored payment methods, order numbers."""
    return await customer.account(uow)


@router.get("/me/address", responses=problems(Unauthenticated, NotFound))
async def read_address(uow: UowDep) -> Address:
    """Show one's own default address."""
    return await address.get(uow)


@router.put(
    "/me/address",
    dependencies=[needs("profile:write")],
    responses=problems(Unauthenticated, Forbidden),
)
async def change_address(body: Address, uow: UowDep) -> Address:
    """Change one's own default address; orders placed already keep theirs."""
    return await address.set_default(uow, body)


@router.get(
    "/customers",
    dependencies=[needs("user:read_all")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def find_customers(
    uow: UowDep,
    email: Annotated[str | None, Query(max_length=254)] = None,
    name: Annotated[str | None, Query(max_length=200)] = None,
    postal_code: Annotated[str | None, Query(max_length=20)] = None,
) -> list[CustomerMatch]:
    """Find customers by email, or by their whole name and postal code (staff)."""
    if email is not None:
        return [await customer.find_by_email(uow, email)]
    if name is None or postal_code is None:
        raise InvalidInput("Give an email, or a name and a postal code.", field="email")
    return await customer.find_by_name(uow, name, postal_code)


@router.get(
    "/customers/{customer_id}",
    dependencies=[needs("user:read_all")],
    responses=problems(Unauthenticated, Forbidden, NotFound),
)
async def read_customer(customer_id: UUID, uow: UowDep) -> CustomerView:
    """Show a customer's account (staff)."""
    return await customer.get(uow, customer_id)
