"""Postal addresses, and where a customer's parcels go unless an order says otherwise."""

from pydantic import BaseModel, Field
from sqlalchemy.dialects.postgresql import insert

from db.models.customer import CustomerAddress
from db.types import UserId
from deps.core import UnitOfWork
from deps.untrusted import Written
from tools import user
from tools.errors import InvalidInput, NotFound
from tools.events import CustomerAddressChanged
from tools.registry import Risk, operation


class Address(Written):
    name: str = Field(min_length=1, max_length=200)
    line1: str = Field(min_length=1, max_length=200)
    line2: str | None = Field(default=None, max_length=200)
    city: str = Field(min_length=1, max_length=100)
    region: str | None = Field(default=None, max_length=100)
    postal_code: str = Field(min_length=1, max_length=20)
    country_code: str = Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2.")


def country_code_of(written: str, field: str = "country_code") -> str:
    """Return an ISO 3166-1 alpha-2 code in capitals.

    Raises:
        InvalidInput: It has not the form of one.
    """
    # Looked at as it is written: in capitals, one letter of others may become two.
    if not (len(written) == 2 and written.isascii() and written.isalpha()):
        raise InvalidInput("country_code must be two letters, such as DE.", field=field)
    return written.upper()


class DefaultAddressPreview(BaseModel):
    address: Address | None
    new_address: Address


@operation(
    scope="profile:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what is my address",
        "show my default address",
        "which address do you have of me",
        "where do my parcels go",
    ),
)
async def get(uow: UnitOfWork) -> Address:
    """Show the signed-in person's default address.

    Raises:
        Unauthenticated: A guest is asking.
        NotFound: None was ever set.
    """
    found = await of_customer(uow, UserId((await user.access(uow)).id))
    if found is None:
        raise NotFound("There is no default address yet.")
    return found


async def of_customer(uow: UnitOfWork, user_id: UserId) -> Address | None:
    row = await uow.session.get(CustomerAddress, user_id, populate_existing=True)
    return Address.model_validate(row.address) if row else None


async def preview_set_default(uow: UnitOfWork, address: Address) -> DefaultAddressPreview:
    """Say what `set_default` would change, without doing it.

    Raises: As `set_default`.
    """
    owner = await user.access(uow)
    before = await of_customer(uow, UserId(owner.id))
    return DefaultAddressPreview(address=before, new_address=address)


@operation(
    scope="profile:write",
    # Whoever moves an account's address gets its next parcels: a person confirms it.
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_set_default,
    examples=(
        "change my address to {address}",
        "i have moved to {address}",
        "my new default address is {address}",
        "update my address",
    ),
)
async def set_default(uow: UnitOfWork, address: Address) -> Address:
    """Change the signed-in person's default address; orders placed already keep theirs.

    Args:
        address: The new address, in full.

    Raises:
        Unauthenticated: A guest is asking.
    """
    owner = await user.access(uow)
    if await of_customer(uow, UserId(owner.id)) == address:
        return address
    values = {
        "address": address.model_dump(),
        "postal_code": address.postal_code,
        "updated_at": uow.now,
    }
    write = insert(CustomerAddress).values(customer_id=owner.id, **values)
    await uow.session.execute(
        write.on_conflict_do_update(index_elements=["customer_id"], set_=values)
    )
    uow.publish(CustomerAddressChanged(user_id=UserId(owner.id)))
    return address
