"""Sign-in, from the person's side and from that of whoever stole a token."""

import asyncio

import pytest
from sqlmodel import select

from db.models.outbox import OutboxMessage
from db.models.user import Role, User
from deps.core import SYSTEM, Deps
from tests import factories
from tools import user
from tools.errors import AlreadyExists, InvalidInput, NotFound, Unauthenticated
from tools.user import UserSort

PASSWORD = "a long passphrase"


async def register(deps: Deps, email: str = "ada@example.com", name: str = "Ada") -> None:
    await user.register(deps, email=email, password=PASSWORD, name=name)


async def disable(deps: Deps, email: str) -> None:
    async with deps.begin() as uow:
        found = (await uow.session.exec(select(User).where(User.email == email))).one()
        found.is_active = False


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("email", {"email": "ada"}),
        ("email", {"email": "ada@"}),
        ("email", {"email": "ada@example.com\r\nBcc: eve@example.com"}),
        ("name", {"name": "   "}),
        ("name", {"name": "\u200b\u202e"}),
        ("name", {"name": "a" * 201}),
        ("password", {"password": "short"}),
        ("password", {"password": "p" * 201}),
    ],
)
async def test_a_registration_that_breaks_a_rule_names_the_field(
    guest: Deps, field: str, changes: dict[str, str]
) -> None:
    wanted = {"email": "ada@example.com", "password": PASSWORD, "name": "Ada"} | changes
    with pytest.raises(InvalidInput) as caught:
        await user.register(guest, **wanted)  # type: ignore[arg-type]
    assert caught.value.field == field
    async with guest.begin() as uow:
        assert (await uow.session.exec(select(User))).first() is None


async def test_an_email_is_registered_once_however_it_is_written(guest: Deps) -> None:
    emails = ["Ada@Example.com", "ada@example.com", "ADA@EXAMPLE.COM"]
    results = await asyncio.gather(
        *(register(guest, email) for email in emails), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [
        "AlreadyExists",
        "AlreadyExists",
        "NoneType",
    ]
    with pytest.raises(AlreadyExists):
        await register(guest)
    await user.login(guest, email=" ADA@example.com ", password=PASSWORD)


async def test_wrong_email_password_and_disabled_look_the_same(guest: Deps) -> None:
    await register(guest)
    await register(guest, "eve@example.com")
    await disable(guest, "eve@example.com")
    said = set()
    for email, password in (
        ("ada@example.com", "another passphrase"),
        ("nobody@example.com", PASSWORD),
        ("eve@example.com", PASSWORD),
        ("ada@example.com", ""),
    ):
        with pytest.raises(Unauthenticated) as caught:
            await user.login(guest, email=email, password=password)
        said.add(str(caught.value))
    assert len(said) == 1


async def test_a_refresh_token_used_twice_ends_the_whole_sign_in(guest: Deps) -> None:
    await register(guest)
    first = await user.login(guest, email="ada@example.com", password=PASSWORD)
    elsewhere = await user.login(guest, email="ada@example.com", password=PASSWORD)
    second = await user.refresh(guest, refresh_token=first.refresh_token)
    assert second.refresh_token != first.refresh_token
    for stolen in (first, second, first):
        with pytest.raises(Unauthenticated, match="sign in again"):
            await user.refresh(guest, refresh_token=stolen.refresh_token)
    await user.refresh(guest, refresh_token=elsewhere.refresh_token)
    async with guest.begin() as uow:
        told = await uow.session.exec(
            select(OutboxMessage).where(OutboxMessage.type == "RefreshTokenReused")
        )
        assert len(list(told)) == 1


async def test_of_many_uses_at_once_one_at_most_is_served(guest: Deps) -> None:
    await register(guest)
    tokens = await user.login(guest, email="ada@example.com", password=PASSWORD)
    results = await asyncio.gather(
        *(user.refresh(guest, refresh_token=tokens.refresh_token) for _ in range(6)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, user.Tokens) for result in results) == 1
    assert sum(isinstance(result, Unauthenticated) for result in results) == 5


async def test_tokens_end_with_time_sign_out_and_the_account(guest: Deps) -> None:
    await register(guest)

    async def login() -> str:
        tokens = await user.login(guest, email="ada@example.com", password=PASSWORD)
        return tokens.refresh_token

    old, ended, disabled = [await login() for _ in range(3)]
    late = factories.later(guest, seconds=guest.settings.refresh_token_ttl_s)
    with pytest.raises(Unauthenticated):
        await user.refresh(late, refresh_token=old)
    for _ in range(2):  # Signing out twice is no error.
        await user.logout(guest, refresh_token=ended)
    await user.logout(guest, refresh_token="never issued")
    with pytest.raises(Unauthenticated):
        await user.refresh(guest, refresh_token=ended)
    await disable(guest, "ada@example.com")
    for token in (disabled, "never issued", ""):
        with pytest.raises(Unauthenticated):
            await user.refresh(guest, refresh_token=token)


async def test_a_profile_is_its_owner_s(customer: Deps, guest: Deps) -> None:
    async with customer.begin() as uow:
        renamed = await user.rename(uow, "  Ada\tKing ")
        assert renamed.name == "Ada King"
    async with customer.begin() as uow:
        assert (await user.me(uow)).name == "Ada King"
        with pytest.raises(InvalidInput):
            await user.rename(uow, "")
    async with guest.begin() as uow:
        with pytest.raises(Unauthenticated):
            await user.me(uow)
        with pytest.raises(Unauthenticated):
            await user.rename(uow, "Eve")


async def test_a_disabled_person_s_access_token_opens_nothing(customer: Deps) -> None:
    async with customer.begin() as uow:
        email = (await user.me(uow)).email
    await disable(customer, email)
    async with customer.begin() as uow:
        with pytest.raises(Unauthenticated):
            await user.me(uow)


async def test_people_are_found_sorted_and_paged(deps: Deps, merchant: Deps) -> None:
    for name, email in (("Ben", "c_1@x.com"), ("Cleo", "a%1@x.com"), ("Dora", "b1@x.com")):
        await factories.user(deps, name=name, email=email)

    async def find(query: str | None = None, **options: object) -> list[str]:
        async with merchant.begin() as uow:
            page = await user.find(uow, query, Role.CUSTOMER, **options)  # type: ignore[arg-type]
        return [found.name for found in page.items]

    assert await find() == ["Dora", "Cleo", "Ben"]
    assert await find(sort=UserSort.OLDEST) == ["Ben", "Cleo", "Dora"]
    assert await find(sort=UserSort.EMAIL) == ["Cleo", "Dora", "Ben"]
    assert await find("DOR") == ["Dora"]
    # What means something to LIKE is only itself here.
    assert (await find("%"), await find("_"), await find("\\")) == (["Cleo"], ["Ben"], [])
    names: list[str] = []
    cursor = None
    async with merchant.begin() as uow:
        while True:
            page = await user.find(
                uow, kind=Role.CUSTOMER, sort=UserSort.NAME, limit=2, cursor=cursor
            )
            names += [found.name for found in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert names == ["Ben", "Cleo", "Dora"]
        staff = await user.find(uow, kind=Role.MERCHANT)
        assert [found.id for found in staff.items] == [merchant.actor.user_id]
        for limit in (0, 101):
            with pytest.raises(InvalidInput):
                await user.find(uow, limit=limit)
        with pytest.raises(InvalidInput):
            await user.find(uow, cursor="not-a-cursor")


async def test_a_role_is_given_to_a_known_email_only(guest: Deps) -> None:
    await register(guest)
    async with guest.acting_as(SYSTEM).begin() as uow:
        await user.set_role(uow, email="ADA@example.com", role=Role.MERCHANT)
        with pytest.raises(NotFound):
            await user.set_role(uow, email="nobody@example.com", role=Role.ADMIN)
    async with guest.begin() as uow:
        found = (await uow.session.exec(select(User))).one()
    assert found.role is Role.MERCHANT
