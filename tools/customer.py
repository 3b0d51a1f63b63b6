"""Customers as the shop sees them: who they are, where they live, how they pay, what they buy."""

from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func
from sqlmodel import col, select

from db.models.credit import CreditAccount
from db.models.customer import CustomerAddress
from db.models.order import Order
from db.models.payment import MethodKind, StoredMethod
from db.models.user import User
from db.types import UserId
from deps.core import UnitOfWork
from tools import address, user
from tools.address import Address
from tools.errors import InvalidInput, NotFound
from tools.registry import Risk, operation

ORDERS_MAX = 200
MATCHES_MAX = 20


class MethodSummary(BaseModel):
    """A stored payment method. `balance_amount` is what a gift card or store credit can pay."""

    id: UUID
    kind: MethodKind
    provider: str
    brand: str
    last4: str
    is_default: bool
    balance_amount: int | None = None
    currency: str | None = None


class CustomerMatch(BaseModel):
    id: UUID
    name: str
    email: str


class CustomerView(CustomerMatch):
    address: Address | None
    payment_methods: list[MethodSummary]
    order_numbers: list[int]


@operation(
    scope="profile:read",
    risk=Risk.READ,
    idempotent=True,
    domain="user",
    examples=(
        "show everything in my account",
        "which payment methods have i stored",
        "what is the balance of my gift card",
        "which cards do you have of me",
    ),
)
async def account(uow: UnitOfWork) -> CustomerView:
    """Show the signed-in person's account: address, stored payment methods, order numbers.

    Raises:
        Unauthenticated: A guest is asking.
    """
    return await _view(uow, await user.access(uow))


@operation(
    scope="user:read_all",
    risk=Risk.READ,
    idempotent=True,
    domain="user",
    examples=(
        "find the customer with the email {email}",
        "which customer has the address {email}",
        "look up {email}",
        "whose email is {email}",
    ),
)
async def find_by_email(uow: UnitOfWork, email: str) -> CustomerMatch:
    """Find a customer by email.

    Args:
        email: The whole address; capitals do not matter.

    Raises:
        NotFound: Nobody has it.
    """
    query = select(User).where(User.email == email.strip().lower())
    found = (await uow.session.exec(query)).first()
    if found is None:
        raise NotFound("No such customer.", field="email")
    return CustomerMatch(id=found.id, name=found.name, email=found.email)


@operation(
    scope="user:read_all",
    risk=Risk.READ,
    idempotent=True,
    domain="user",
    examples=(
        "find the customer {name} in {postal_code}",
        "who is {name} with the zip code {postal_code}",
        "look up {name}, {postal_code}",
        "is there a {name} in {postal_code}",
    ),
)
async def find_by_name(uow: UnitOfWork, name: str, postal_code: str) -> list[CustomerMatch]:
    """Find customers by their whole name and the postal code of their default address.

    Args:
        name: First and last name; capitals do not matter.
        postal_code: Of the default address.

    Raises:
        InvalidInput: The name or the postal code is empty.
    """
    wanted = " ".join(name.split()).lower()
    if not wanted or not postal_code.strip():
        raise InvalidInput("Give the whole name and the postal code.", field="name")
    query = (
        select(User)
        .join(CustomerAddress, col(CustomerAddress.customer_id) == col(User.id))
        .where(CustomerAddress.postal_code == postal_code.strip())
        .where(func.lower(User.name) == wanted)
        .order_by(col(User.id))
        .limit(MATCHES_MAX)
    )
    return [
        CustomerMatch(id=found.id, name=found.name, email=found.email)
        for found in await uow.session.exec(query)
    ]


@operation(
    scope="user:read_all",
    risk=Risk.READ,
    idempotent=True,
    domain="user",
    examples=(
        "show the customer {customer}",
        "details of the customer {customer}",
        "what did the customer {customer} order",
        "how does the customer {customer} pay",
    ),
)
async def get(uow: UnitOfWork, customer: UUID) -> CustomerView:
    """Show a customer's account (staff): address, stored payment methods, order numbers.

    Args:
        customer: Id of the customer.

    Raises:
        NotFound: No such customer.
    """
    found = await uow.session.get(User, customer)
    if found is None:
        raise NotFound("No such customer.", field="customer")
    return await _view(uow, found)


async def _view(uow: UnitOfWork, of: User) -> CustomerView:
    methods = await uow.session.exec(
        select(StoredMethod, CreditAccount)
        .outerjoin(CreditAccount, col(CreditAccount.id) == col(StoredMethod.credit_account_id))
        .where(StoredMethod.customer_id == of.id)
        .order_by(col(StoredMethod.created_at), col(StoredMethod.id))
    )
    orders = await uow.session.exec(
        select(Order.number)
        .where(Order.customer_id == of.id, col(Order.placed_at).is_not(None))
        .order_by(col(Order.placed_at), col(Order.number))
        .limit(ORDERS_MAX)
    )
    return CustomerView(
        id=of.id,
        name=of.name,
        email=of.email,
        address=await address.of_customer(uow, UserId(of.id)),
        payment_methods=[
            MethodSummary(
                id=method.id,
                kind=method.kind,
                provider=method.provider,
                brand=method.brand,
                last4=method.last4,
                is_default=method.is_default,
                balance_amount=credit.balance_amount - credit.held_amount if credit else None,
                currency=credit.currency if credit else None,
            )
            for method, credit in methods
        ],
        order_numbers=[number for number in orders if number is not None],
    )
