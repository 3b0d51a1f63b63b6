"""The whole shop in one process, with data to play with."""

import asyncio
import logging
import os
import socket
import sys
import webbrowser
from contextlib import AsyncExitStack
from time import perf_counter

from rich.console import Console
from rich.markup import escape

from api import serving
from api.mail_sink import mail_sink
from api.servers import CommandFailed, Servers, data_dir, embedded, open_servers
from deps.settings import Settings

MAIL_QUIET_S = 1.0

console = Console(highlight=False)


async def run(settings: Settings, *, fresh: bool, open_browser: bool) -> None:
    """Serve until a signal arrives.

    Args:
        settings: Host and port included.
        fresh: Whether to forget an earlier demo first.
        open_browser: Whether to show the shop.

    Raises:
        CommandFailed: The port is taken, or `fresh` would delete a database that is not ours.
    """
    began = perf_counter()
    async with AsyncExitStack() as stack:
        stop = await stack.enter_async_context(serving.stop_on_signals())
        listener = serving.bind(settings.host, settings.port)
        stack.callback(listener.close)
        if fresh:
            _forget(settings)
        servers = stack.enter_context(open_servers(settings))
        if await serving.migrate(servers):
            console.print("[dim]Tables made.[/]")
        settings = await _with_mail(settings, stack)
        _log_to_file(settings)
        await _serve(settings, servers, listener, stop, stack, began, open_browser=open_browser)
    console.print("Stopped.")


async def _serve(
    settings: Settings,
    servers: Servers,
    listener: socket.socket,
    stop: asyncio.Event,
    stack: AsyncExitStack,
    began: float,
    *,
    open_browser: bool,
) -> None:
    from deps.runtime import open_deps

    deps = await stack.enter_async_context(
        open_deps(settings, database_url=servers.database_url, redis_url=servers.redis_url)
    )
    if stop.is_set():
        return
    from tools.demo.load import load

    with console.status("Filling the shelves") as status:
        await load(
            deps, progress=lambda what, done, of: status.update(f"Loading {what}: {done} of {of}")
        )
    if stop.is_set():
        return
    web = await stack.enter_async_context(serving.web(settings, deps, listener))
    worker = await stack.enter_async_context(serving.worker(deps))
    address = serving.address_of(listener)
    _greet(settings, address, perf_counter() - began)
    if open_browser and _has_desktop():
        await asyncio.to_thread(webbrowser.open, address)
    await serving.until_stopped(stop, web, worker)
    console.print("Stopping.")


def _forget(settings: Settings) -> None:
    if settings.database_url is not None:
        raise CommandFailed("--fresh deletes only the embedded database; unset DATABASE_URL.")
    for server in embedded(settings):
        server.clear()
    for mail in (data_dir(settings) / "mail").glob("*.eml"):
        mail.unlink()


async def _with_mail(settings: Settings, stack: AsyncExitStack) -> Settings:
    if "smtp_host" in settings.model_fields_set:
        return settings

    quiet_until = 0.0  # The mails of the loaded history would scroll the greeting away.

    def tell(recipient: str, subject: str) -> None:
        nonlocal quiet_until
        if perf_counter() >= quiet_until:
            console.print(f"[dim]mail to {escape(recipient)}:[/] {escape(subject)}")
        quiet_until = perf_counter() + MAIL_QUIET_S

    port = await stack.enter_async_context(mail_sink(data_dir(settings) / "mail", tell))
    return settings.model_copy(
        update={"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_starttls": False}
    )


def _log_to_file(settings: Settings) -> None:
    from deps.telemetry import JsonFormatter

    handler = logging.FileHandler(data_dir(settings) / "demo.log")
    handler.setFormatter(JsonFormatter("demo"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "aiosmtplib", "mail.log", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _greet(settings: Settings, address: str, took_s: float) -> None:
    console.print(
        f"\n[bold]{escape(settings.shop_name)}[/] is open after {took_s:.1f} s.\n\n"
        f"  Shop and chat  {address}/\n"
        f"  Console        {address}/console\n"
        f"  API            {address}/docs\n"
        f"  Mails and log  {data_dir(settings)}\n\n"
        "Accounts: shopper@example.com, merchant@example.com; password harbour-and-pine\n\n"
        "Three things to try:\n"
        "  1. In the chat: show me mugs, then put two in my cart and buy them.\n"
        "  2. In the console as the merchant, watch the order and its stock arrive.\n"
        '  3. In another terminal: ./shopkeeper chat --as merchant --once "What sold today?"\n\n'
        "Ctrl-C stops everything.\n"
    )
    sys.stdout.flush()


def _has_desktop() -> bool:
    shown = sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    return shown and sys.stdout.isatty()
