"""Stored methods: ways to pay that a customer keeps with a provider. We hold its tokens only.

A card number is refused wherever a token is expected: it must never reach our logs or rows.
"""

import calendar
import re
from datetime import date, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select, update

from db.models.payment import MethodKind, StoredMethod
from db.models.user import User
from db.types import UserId, new_id
from deps.core import Deps, UnitOfWork
from deps.gateway import GatewayTimeout
from deps.provider import MethodDeclined, MethodTruth, MethodVault
from tools.errors import Conflict, InvalidInput, NotFound, Unauthenticated, Unavailable
from tools.events import MethodRemoved, MethodStored
from tools.registry import FromResult, Risk, operation

METHODS_MAX: Final = 20
TOKEN_LENGTH_MAX: Final = 200
# 13 to 19 digits in a row, or in the groups that are printed on cards.
_CARD: Final = re.compile(
    r"(?<!\d)(?:\d{13,19}|\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{1,4}(?:[ -]\d{1,3})?|"
    r"\d{4}[ -]\d{6}[ -]\d{4,5})(?!\d)"
)


class MethodView(BaseModel):
    """A stored method, as its owner sees it. Pay with it by giving its id."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    provider: str
    kind: MethodKind
    brand: str
    last4: str
    expires_on: date | None
    is_default: bool
    created_at: datetime


class MethodBefore(BaseModel):
    """What adding a method found: which ones were kept already, and which was the default."""

    kept_ids: list[UUID] = Field(max_length=METHODS_MAX)
    default_id: UUID | None


def has_card_number(text: str) -> bool:
    """Say whether `text` holds what looks like a card number: its digits pass Luhn's check
    (ISO/IEC 7812-1)."""
    for found in _CARD.finditer(text):
        digits = [int(digit) for digit in found[0] if digit.isdecimal()]
        doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
        if (sum(digits[::-2]) + sum(doubled)) % 10 == 0:
            return True
    return False


def refuse_card_number(text: str, field: str) -> None:
    """Refuse a text that holds a card number, without repeating it.

    Raises:
        InvalidInput: It looks like one.
    """
    if has_card_number(text):
        raise InvalidInput(
            "This looks like a card number. Give it to the payment provider's own form, never to "
            "us; we take the token that the form returns.",
            field=field,
        )


def _owner(uow: UnitOfWork) -> UserId:
    if uow.actor.user_id is None:
        raise Unauthenticated("Sign in to keep a payment method.")
    return UserId(uow.actor.user_id)


async def access(uow: UnitOfWork, method_id: UUID, *, lock: bool = False) -> StoredMethod:
    """Load one of the actor's own methods.

    Raises:
        NotFound: No such method, or it is someone else's.
        Unauthenticated: A guest has none.
    """
    row = await uow.session.get(
        StoredMethod, method_id, with_for_update=lock, populate_existing=lock
    )
    if row is None or row.customer_id != _owner(uow) or row.removed_at is not None:
        raise NotFound("No such payment method.", field="method_id")
    return row


async def token_for(deps: Deps, payment_method: str) -> str:
    """Return the token to pay with: of one's own stored method, or the fresh token itself.

    A stored token, which has a slash, is of use to its owner alone.

    Raises:
        InvalidInput: It is a card number.
        NotFound: No such stored method, or it is someone else's, or another provider's.
    """
    refuse_card_number(payment_method, "payment_method")
    try:
        method_id = UUID(payment_method)
    except ValueError:
        if "/" not in payment_method:
            return payment_method
        method_id = None
    async with deps.begin() as uow:
        if method_id is not None:
            row = await access(uow, method_id)
        else:
            query = select(StoredMethod).where(
                StoredMethod.customer_id == uow.actor.user_id,
                StoredMethod.token == payment_method,
                col(StoredMethod.removed_at).is_(None),
            )
            found = (await uow.session.exec(query)).first()
            if found is None:
                raise NotFound("No such payment method.", field="payment_method")
            row = found
    if row.provider != deps.gateway.name:
        raise NotFound(f"This shop takes no {row.provider} now.", field="payment_method")
    return row.token


async def _listed(uow: UnitOfWork) -> list[StoredMethod]:
    query = (
        select(StoredMethod)
        .where(StoredMethod.customer_id == _owner(uow), col(StoredMethod.removed_at).is_(None))
        .order_by(col(StoredMethod.is_default).desc(), col(StoredMethod.id).desc())
    )
    return list(await uow.session.exec(query))


@operation(
    scope="profile:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "show my saved cards",
        "which payment methods do i have",
        "list my payment methods",
        "what is my default card",
    ),
)
async def list_methods(uow: UnitOfWork) -> list[MethodView]:
    """List the shopper's stored payment methods, the default one first.

    Raises:
        Unauthenticated: A guest has none.
    """
    return [MethodView.model_validate(row) for row in await _listed(uow)]


async def kept_now(uow: UnitOfWork, **_: Any) -> dict[str, Any]:
    """Return what takes a method away that is added, and makes the default the one it is now.

    Only the provider knows which method a token stands for, so it names all that are kept already.
    """
    rows = await _listed(uow)
    default_id = next((row.id for row in rows if row.is_default), None)
    before = {"kept_ids": sorted(row.id for row in rows), "default_id": default_id}
    return {"method_id": FromResult("id"), "before": before}


@operation(
    scope="profile:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="method.remove",
    restore=kept_now,
    examples=(
        "save the payment method {token}",
        "add my card {token}",
        "keep {token} for later purchases",
        "store {token} and make it my default",
    ),
)
async def add(
    deps: Deps, token: str, provider: str | None = None, is_default: bool = False
) -> MethodView:
    """Keep a payment method for later purchases.

    Repeating it with the same token stores it once.

    Args:
        token: What the provider's own form returned, such as pm_…; never a card number.
        provider: stripe or paypal; the shop's usual one if left out.
        is_default: Whether later purchases use it unless told otherwise. The first one always is.

    Raises:
        Unauthenticated: A guest cannot keep one.
        InvalidInput: It is a card number, or the provider does not take it.
        Conflict: The customer has twenty already.
        NotFound: No such provider is set up.
        Unavailable: The provider did not answer; repeat it.
    """
    token, name = token.strip(), provider or deps.gateway.name
    refuse_card_number(token, "token")
    if not 1 <= len(token) <= TOKEN_LENGTH_MAX:
        raise InvalidInput("A token has 1 to 200 characters.", field="token")
    vault = deps.gateways.get(name)
    if not isinstance(vault, MethodVault):
        raise NotFound(
            f"No payment provider {name} that keeps methods is set up.", field="provider"
        )
    async with deps.begin() as uow:
        owner = _owner(uow)
        kept = await _listed(uow)
    beside = next((row.token for row in kept if row.provider == name), None)
    stored = next((row for row in kept if row.token.rpartition("/")[2] == token), None)
    if stored is not None and stored.provider == name:
        if not is_default:
            return MethodView.model_validate(stored)
        async with deps.begin() as uow:
            return await set_default(uow, stored.id)
    if len(kept) >= METHODS_MAX:
        raise Conflict(f"You have {METHODS_MAX} payment methods; remove one first.")
    key = f"{owner}:{sha256(token.encode()).hexdigest()[:32]}"
    try:
        found = await vault.store_method(key, token, str(owner), beside=beside)
    except MethodDeclined as error:
        raise InvalidInput(
            f"The provider does not take this method ({error.code}).", field="token"
        ) from error
    except GatewayTimeout as error:
        raise Unavailable(f"{name} did not answer; send it again.") from error
    async with deps.begin() as uow:
        return await _keep(uow, name, found, is_default=is_default)


async def _keep(
    uow: UnitOfWork, provider: str, found: MethodTruth, *, is_default: bool
) -> MethodView:
    owner = _owner(uow)
    await uow.session.get_one(User, owner, with_for_update=True)  # One default, whatever races.
    others = await _listed(uow)
    row = StoredMethod(
        id=new_id(),
        customer_id=owner,
        provider=provider,
        token=found.token,
        kind=MethodKind(found.kind) if found.kind in set(MethodKind) else MethodKind.CARD,
        brand=found.brand or "",
        last4=found.last4 or "",
        expires_on=_last_day(found.expires_on),
        created_at=uow.now,
    )
    written = await uow.session.execute(
        insert(StoredMethod)
        .values(**row.model_dump())
        .on_conflict_do_update(constraint="once", set_={"removed_at": None})
        .returning(col(StoredMethod.id))
    )
    method_id: UUID = written.scalar_one()
    if method_id not in {other.id for other in others}:
        uow.publish(MethodStored(user_id=owner, method_id=method_id, provider=provider))
    if is_default or not others:
        await _make_default(uow, method_id)
    return MethodView.model_validate(
        await uow.session.get_one(StoredMethod, method_id, populate_existing=True)
    )


def _last_day(month: str | None) -> date | None:
    if month is None:
        return None
    year, number = (int(part) for part in month.split("-"))
    return date(year, number, calendar.monthrange(year, number)[1])


async def _make_default(uow: UnitOfWork, method_id: UUID) -> None:
    await uow.session.execute(
        update(StoredMethod)
        .where(col(StoredMethod.customer_id) == _owner(uow))
        .values(is_default=col(StoredMethod.id) == method_id)
    )


async def default_now(uow: UnitOfWork, **_: Any) -> dict[str, Any] | None:
    """Return what makes the method that is the default now the default again, if one is."""
    default_id = next((row.id for row in await _listed(uow) if row.is_default), None)
    return {"method_id": default_id} if default_id is not None else None


@operation(
    scope="profile:write",
    risk=Risk.REVERSIBLE,
    idempotent=True,
    inverse="method.set_default",
    restore=default_now,
    examples=(
        "make {method_id} my default payment method",
        "use {method_id} by default",
        "set my default card to {method_id}",
        "always pay with {method_id} from now on",
    ),
)
async def set_default(uow: UnitOfWork, method_id: UUID) -> MethodView:
    """Make a stored method the one that purchases use unless told otherwise.

    Args:
        method_id: The stored method's id.

    Raises:
        NotFound: No such method, or it is someone else's.
        Unauthenticated: A guest has none.
    """
    owner = _owner(uow)
    await uow.session.get_one(User, owner, with_for_update=True)
    row = await access(uow, method_id)
    await _make_default(uow, row.id)
    await uow.session.refresh(row)
    return MethodView.model_validate(row)


async def preview_remove(
    uow: UnitOfWork, method_id: UUID, before: MethodBefore | None = None
) -> MethodView:
    """Say which method `remove` would remove.

    Raises:
        NotFound: No such method, or it is someone else's.
    """
    return MethodView.model_validate(await access(uow, method_id))


@operation(
    scope="profile:write",
    risk=Risk.IRREVERSIBLE,
    idempotent=True,
    preview=preview_remove,
    examples=(
        "remove my card {method_id}",
        "delete the payment method {method_id}",
        "forget the card {method_id}",
        "i do not want you to keep {method_id}",
    ),
)
async def remove(deps: Deps, method_id: UUID, before: MethodBefore | None = None) -> MethodView:
    """Forget a stored method, here and at the provider. Past payments keep what they were.

    Args:
        method_id: The stored method's id.
        before: Leave out: what undoing an addition goes back to.

    Raises:
        NotFound: No such method, or it is someone else's, or it is removed already.
        Unavailable: The provider did not answer; repeat it.
    """
    async with deps.begin() as uow:
        row = await access(uow, method_id)
    is_kept = before is not None and method_id in before.kept_ids
    vault = deps.gateways.get(row.provider)
    if isinstance(vault, MethodVault) and not is_kept:
        try:
            await vault.forget_method(row.token)
        except GatewayTimeout as error:
            raise Unavailable(f"{row.provider} did not answer; repeat it.") from error
    async with deps.begin() as uow:
        owner = _owner(uow)
        await uow.session.get_one(User, owner, with_for_update=True)
        row = await access(uow, method_id, lock=True)
        was_default = row.is_default
        if not is_kept:
            row.is_default, row.removed_at = False, uow.now
            uow.publish(MethodRemoved(user_id=owner, method_id=method_id))
            await uow.session.flush()
        if was_default:
            await _pass_on_default(uow, before.default_id if before is not None else None)
        await uow.session.refresh(row)
        return MethodView.model_validate(row)


async def _pass_on_default(uow: UnitOfWork, method_id: UUID | None) -> None:
    """Make a kept method the default; without an id, or if it is gone, the newest."""
    left = [row.id for row in await _listed(uow)]
    if left:
        await _make_default(uow, method_id if method_id in left else left[0])
