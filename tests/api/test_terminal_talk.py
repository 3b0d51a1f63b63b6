"""The chat in the terminal: against a shop that runs, and against one it opens itself."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from api import serving, terminal
from api.servers import CommandFailed
from db.models.user import Role
from db.types import UserId
from deps.core import ROLE_SCOPES, Actor, Deps
from deps.settings import Settings
from tests import factories
from tests.providers.server import nowhere
from tools import order, user


@asynccontextmanager
async def shop(deps: Deps) -> AsyncGenerator[str, None]:
    listener = serving.bind("127.0.0.1", 0)
    async with serving.web(deps.settings, deps, listener):
        yield serving.address_of(listener)


@pytest.fixture
async def running(deps: Deps) -> AsyncGenerator[str, None]:
    async with shop(deps) as address:
        yield address


@pytest.fixture
async def shopper(deps: Deps) -> Deps:
    """The demo's shopper, who can sign in."""
    made = await user.register(
        deps, email=terminal.ACCOUNTS["customer"], password=terminal.PASSWORD, name="Ada"
    )
    scopes = ROLE_SCOPES[Role.CUSTOMER]
    return deps.acting_as(Actor(role=Role.CUSTOMER, user_id=UserId(made.id), scopes=scopes))


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Answer prompts with `lines`, and then with the end of input."""
    left = list(lines)

    def read(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    monkeypatch.setattr("builtins.input", read)


async def test_one_question_is_answered_with_what_was_found(
    deps: Deps, running: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await factories.product(deps, "MUG", title="Stoneware mug [blue]", price=1250)
    code = await terminal.chat(deps.settings, role="guest", once="show me mugs", url=f"{running}/")
    said = capsys.readouterr().out
    assert code == 0
    assert "Stoneware mug [blue]" in said, "brackets are not markup"
    assert "EUR 12.50" in said


async def test_a_person_says_yes_to_an_action(
    shopper: Deps,
    running: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await factories.product(shopper, "MUG", stock=5)
    placed = await factories.placed_order(shopper, MUG=1)
    ask = f"cancel order {placed.number}"

    async def status() -> str:
        async with shopper.begin() as uow:
            return str((await order.get(uow, placed.number)).status)

    typed(monkeypatch, "   ", ask, "ordered twice", "n")
    assert await terminal.chat(shopper.settings, role="customer", once=None, url=running) == 0
    assert "Needs your yes:" in capsys.readouterr().out
    assert await status() == "placed"
    typed(monkeypatch, ask, "ordered twice", "Y")
    assert await terminal.chat(shopper.settings, role="customer", once=None, url=running) == 0
    assert f"Talking to {running} as customer" in capsys.readouterr().out
    assert await status() == "cancelled"


async def test_without_a_person_an_action_stays_pending(
    shopper: Deps, running: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await factories.product(shopper, "MUG", stock=5)
    placed = await factories.placed_order(shopper, MUG=1)
    once = f"cancel order {placed.number} because I ordered twice"
    assert await terminal.chat(shopper.settings, role="customer", once=once, url=running) == 0
    assert "Pending as action" in capsys.readouterr().out
    async with shopper.begin() as uow:
        assert (await order.get(uow, placed.number)).status == "placed"


async def test_without_the_demo_its_accounts_are_said_to_be_absent(
    deps: Deps, running: str
) -> None:
    with pytest.raises(CommandFailed, match=r"cannot log in here .*\./shopkeeper demo"):
        await terminal.chat(deps.settings, role="merchant", once="hello", url=running)


async def test_a_shop_that_does_not_answer_is_one_sentence(settings: Settings) -> None:
    with (
        nowhere() as address,
        pytest.raises(CommandFailed, match=f"No shop answers at {address}; check --url"),
    ):
        await terminal.chat(settings, role="guest", once="hello", url=address)


async def test_a_shop_that_is_named_is_waited_for(
    deps: Deps,
    running: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(terminal, "LOOK_S", 0.000_001)
    assert await terminal.chat(deps.settings, role="guest", once="hello", url=running) == 0
    assert capsys.readouterr().out.strip()


async def test_with_no_shop_running_one_is_opened_for_the_talk(
    database_url: str,
    valkey: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = Settings(
        _env_file=None,
        data_dir=tmp_path,
        port=0,
        database_url=database_url,
        redis_url=getattr(valkey, "url", ""),
    )
    assert await terminal.chat(settings, role="guest", once="show me mugs", url=None) == 0
    assert capsys.readouterr().out.strip()


def answering(status: int, content: str) -> httpx.AsyncClient:
    """A client of something that answers everything alike, as a proxy in between may."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=content))
    return httpx.AsyncClient(transport=transport, base_url="http://shop")


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (502, "<html>Bad gateway</html>", "The shop answered 502."),
        (429, '{"title": "Too many", "detail": "Wait a minute."}', "Wait a minute."),
        (500, '{"title": "Internal error"}', "Internal error"),
        (503, "{}", "503"),
    ],
)
async def test_a_refusal_is_passed_on(status: int, content: str, said: str) -> None:
    async with answering(status, content) as http:
        with pytest.raises(CommandFailed) as caught:
            await terminal.Conversation(http, interactive=False).say("hello")
    assert str(caught.value) == said


STREAM = """\
event: conversation
data: {"id": "0190"}

event: tool
data: {"name": "cart.add", "status": "failed"}

event: card
data: {"data": {"lines": [{"sku": "MUG", "quantity": 2,
data: "price_amount": 1250, "currency": "EUR"}, "no row"]}}

event: card
data: {"data": [{"location": "HAM", "on_hand": 7, "revenue_amount": 900}]}

event: card
data: {"data": null}

: a comment

event: error
data: {"detail": "The model is [away]."}

"""


async def test_what_a_stream_tells_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async with answering(200, STREAM) as http:
        talk = terminal.Conversation(http, interactive=False)
        await talk.say("hello")
    shown = capsys.readouterr().out
    assert talk.failed
    for line in (
        "(cart.add failed)",
        "  MUG  2  EUR 12.50",
        "  HAM  7  revenue_amount=900",
        "The model is [away].",
    ):
        assert line in shown
