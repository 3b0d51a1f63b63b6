"""A mail server for the demo that delivers into a folder."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.header import decode_header, make_header
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from db.types import new_id


class _Folder:
    """Keeps every message as a file that mail programs open."""

    def __init__(self, folder: Path, on_mail: Callable[[str, str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._on_mail = on_mail

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.content
        data = content.encode() if isinstance(content, str) else content or b""
        (self._folder / f"{new_id()}.eml").write_bytes(data)
        subject = str(make_header(decode_header(message_from_bytes(data)["Subject"] or "")))
        self._on_mail(", ".join(envelope.rcpt_tos), subject)
        return "250 Kept"


@asynccontextmanager
async def mail_sink(
    folder: Path, on_mail: Callable[[str, str], None], *, host: str = "127.0.0.1", port: int = 0
) -> AsyncGenerator[int, None]:
    """Accept every mail and yield the port.

    Args:
        folder: Where messages go, one `.eml` each, named in the order of arrival.
        on_mail: Told recipient and subject of each.
        port: 0 for any free one.
    """
    handler = _Folder(folder, on_mail)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="localhost", ident="shopkeeper", enable_SMTPUTF8=True),
        host,
        port,
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
