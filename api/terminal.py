"""A conversation with the shop in the terminal, over the same HTTP as everyone else's."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import orjson
from rich.console import Console
from rich.markup import escape

from api import serving
from api.servers import CommandFailed, open_servers
from deps.settings import Settings

ACCOUNTS = {"customer": "shopper@example.com", "merchant": "merchant@example.com"}
PASSWORD = "harbour-and-pine"  # Of the demo's accounts only.
TIMEOUT = httpx.Timeout(10.0, read=120.0)
# Whoever names a shop waits for it; one that may be running is looked for so long.
LOOK_S = 2.0

console = Console(highlight=False, soft_wrap=True)


async def chat(settings: Settings, *, role: str, once: str | None, url: str | None) -> int:
    """Talk until the input ends, or say one thing.

    Args:
        settings: Tell where a shop may already be running.
        role: guest, or whose demo account to use.
        once: The only message, if given; approvals are then left pending.
        url: Of a running shop.

    Returns:
        1 if the shop answered with an error, else 0.
    """
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(_shop(settings, url))
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=address, timeout=TIMEOUT, trust_env=False)
        )
        client.headers.update(await _credentials(client, role))
        talk = Conversation(client, interactive=once is None)
        if once is not None:
            await talk.say(once)
            return 1 if talk.failed else 0
        console.print(f"[dim]Talking to {address} as {role}. Ctrl-D ends it.[/]")
        while True:
            text = await _ask("you> ")
            if text is None:
                return 0
            if text.strip():
                await talk.say(text.strip())


class Conversation:
    def __init__(self, client: httpx.AsyncClient, *, interactive: bool) -> None:
        self._client = client
        self._interactive = interactive
        self._id: str | None = None
        self._said = ""
        self.failed = False

    async def say(self, text: str) -> None:
        """Send one message and print what comes back, as it comes."""
        self.failed, self._said = False, ""
        body = {"text": text} | ({"conversation_id": self._id} if self._id else {})
        approvals: list[dict[str, Any]] = []
        async with self._client.stream("POST", "/v1/chat", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                raise CommandFailed(_problem(response))
            async for name, data in _events(response.aiter_lines()):
                self._show(name, data)
                if name == "approval":
                    approvals.append(data)
        console.print()
        for approval in approvals:
            await self._decide(approval)

    def _show(self, name: str, data: dict[str, Any]) -> None:
        if name == "conversation":
            self._id = str(data["id"])
        elif name == "text":
            self._hear(str(data.get("delta", "")), is_anew=bool(data.get("replace")))
        elif name == "tool" and data.get("status") == "failed":
            console.print(f"[dim]({escape(str(data.get('name')))} failed)[/]")
        elif name == "card":
            console.print(f"\n[dim]{escape(_card(data))}[/]")
        elif name == "error":
            self.failed = True
            console.print(f"[red]{escape(str(data.get('detail')))}[/]")

    def _hear(self, words: str, *, is_anew: bool) -> None:
        """Print words. With `is_anew` they stand for all that was said so far in this answer."""
        if is_anew and words.startswith(self._said):
            words, is_anew = words[len(self._said) :], False
        if is_anew:
            # What was printed stays on a terminal: say that it does not count.
            console.print("\n[dim](That was taken back. Instead:)[/]")
        self._said = words if is_anew else self._said + words
        console.print(escape(words), end="")

    async def _decide(self, approval: dict[str, Any]) -> None:
        console.print(f"[bold]Needs your yes:[/] {escape(str(approval.get('summary')))}")
        if not self._interactive:
            console.print(f"[dim]Pending as action {approval.get('action_id')}.[/]")
            return
        answer = await _ask("approve? [y/N] ")
        verb = "approve" if answer and answer.strip().lower() in ("y", "yes") else "reject"
        response = await self._client.post(f"/v1/actions/{approval['action_id']}/{verb}")
        if response.is_error:
            console.print(f"[red]{escape(_problem(response))}[/]")
            return
        result = response.json()
        told = result.get("summary") or result.get("text") or result.get("status") or verb
        console.print(escape(str(told)))


@asynccontextmanager
async def _shop(settings: Settings, url: str | None) -> AsyncGenerator[str, None]:
    """Yield the address of a running shop, or of one that lives as long as the block."""
    address = (url or f"http://{settings.host}:{settings.port}").rstrip("/")
    async with httpx.AsyncClient(timeout=TIMEOUT if url else LOOK_S, trust_env=False) as client:
        try:
            response = await client.get(f"{address}/health/live")
        except httpx.HTTPError as error:
            if url is not None:
                raise CommandFailed(f"No shop answers at {url}; check --url.") from error
        else:
            if response.is_success:
                yield address
                return
    from deps.runtime import open_deps

    listener = serving.bind("127.0.0.1", 0)
    with listener, open_servers(settings) as servers:
        await serving.require_migrated(servers)
        async with (
            open_deps(
                settings, database_url=servers.database_url, redis_url=servers.redis_url
            ) as deps,
            serving.web(settings, deps, listener),
        ):
            yield serving.address_of(listener)


async def _credentials(client: httpx.AsyncClient, role: str) -> dict[str, str]:
    if role == "guest":
        return {"X-Guest-Token": secrets.token_urlsafe(32)}
    email = ACCOUNTS[role]
    response = await client.post("/v1/auth/login", json={"email": email, "password": PASSWORD})
    if response.is_error:
        raise CommandFailed(
            f"{email} cannot log in here ({_problem(response)}); load the demo shop first: "
            "./shopkeeper demo"
        )
    return {"Authorization": f"Bearer {response.json()['access_token']}"}


def _problem(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return f"The shop answered {response.status_code}."
    return str(body.get("detail") or body.get("title") or response.status_code)


async def _events(lines: AsyncIterator[str]) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Parse https://html.spec.whatwg.org/multipage/server-sent-events.html, JSON in `data`."""
    name, data = "message", ""
    async for line in lines:
        if not line:
            if data:
                yield name, orjson.loads(data)
            name, data = "message", ""
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()


def _card(card: dict[str, Any]) -> str:
    """Return a card as lines of text: its rows if it has any, else its plain fields."""
    data = card.get("data")
    rows = data if isinstance(data, list) else [data]
    if isinstance(data, dict):
        for key in ("items", "lines", "products", "orders"):
            if isinstance(data.get(key), list) and data[key]:
                rows = data[key]
                break
    lines = [_row(row) for row in rows if isinstance(row, dict)]
    return "\n".join(f"  {line}" for line in lines if line)


def _row(row: dict[str, Any]) -> str:
    shown = ("number", "sku", "title", "quantity", "status", "available", "location", "on_hand")
    parts = [f"{row[name]}" for name in shown if row.get(name) is not None]
    currency = row.get("currency", "")
    for name in ("price_amount", "total_amount", "revenue_amount"):
        if isinstance(row.get(name), int):
            from db.types import Money

            parts.append(str(Money(row[name], currency)) if currency else f"{name}={row[name]}")
    return "  ".join(parts)


async def _ask(prompt: str) -> str | None:
    """Read a line without holding up the loop; None at the end of input."""
    try:
        return await asyncio.to_thread(input, prompt)
    except EOFError:
        console.print()
        return None
