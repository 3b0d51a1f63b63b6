"""Mail over SMTP, against a real server that accepts, refuses or says nothing."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from api.mail_sink import mail_sink
from deps.core import Deps
from deps.mail import Mail, MailError, SmtpMailer
from deps.settings import Settings

MAIL = Mail("0190-1", "ada@example.com", "Your order\r\n1001", "2 x Stoneware mug\n")


class Desk:
    """A mail server that answers a message with `answer` and keeps what it accepts."""

    def __init__(self, answer: str = "250 Kept", recipient: str = "250 OK") -> None:
        self.answer = answer
        self.recipient = recipient
        self.kept: list[EmailMessage] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.recipient.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.recipient

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        if self.answer.startswith("250"):
            self.kept.append(message_from_bytes(envelope.content, policy=policy.default))
        return self.answer

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)


@asynccontextmanager
async def listening(factory: Callable[[], asyncio.BaseProtocol]) -> AsyncGenerator[int, None]:
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def mailer(port: int, **changes: object) -> SmtpMailer:
    settings = Settings(
        _env_file=None, mail_from="shop@shop.example", shop_name="Harbour, Pine & Co."
    )
    at = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_starttls": False}
    return SmtpMailer(settings.model_copy(update=at | changes))


async def test_a_mail_arrives_as_it_was_written() -> None:
    desk = Desk()
    async with listening(lambda: SMTP(desk)) as port:
        await mailer(port).send(MAIL)
    (kept,) = desk.kept
    # A comma in the name does not make it two senders.
    assert kept["From"] == '"Harbour, Pine & Co." <shop@shop.example>'
    assert kept["To"] == "ada@example.com"
    assert kept["Subject"] == "Your order 1001"
    assert kept["Message-ID"] == "<0190-1@shop.example>"
    assert kept.get_content().strip() == "2 x Stoneware mug"


@pytest.mark.parametrize(
    ("desk", "said"),
    [
        (Desk(answer="451 try again later"), "try again later"),
        (Desk(answer="554 no spam here"), "no spam here"),
        (Desk(recipient="550 no such mailbox"), "no such mailbox"),
    ],
)
async def test_a_refusal_says_what_the_server_said(desk: Desk, said: str) -> None:
    async with listening(lambda: SMTP(desk)) as port:
        with pytest.raises(MailError, match=said):
            await mailer(port).send(MAIL)
    assert desk.kept == []


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async with listening(asyncio.Protocol) as port:
        silent = mailer(port)
        with pytest.raises(MailError, match=r"(?i)timed out"):
            await SmtpMailer(silent.settings, timeout_s=0.2).send(MAIL)


async def test_no_server_is_a_mail_error() -> None:
    async with listening(asyncio.Protocol) as port:
        pass
    with pytest.raises(MailError):
        await mailer(port).send(MAIL)


async def test_mail_is_not_sent_in_clear_when_tls_is_asked_for() -> None:
    desk = Desk()
    async with listening(lambda: SMTP(desk)) as port:
        with pytest.raises(MailError, match="STARTTLS"):
            await mailer(port, smtp_starttls=True).send(MAIL)
    assert desk.kept == []


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize(("password", "arrives"), [("right", 1), ("wrong", 0)])
async def test_the_password_is_given(password: str, arrives: int) -> None:
    desk = Desk()
    # Over the loopback, where there is nobody to listen.
    server = partial(
        SMTP, desk, authenticator=desk.authenticate, auth_required=True, auth_require_tls=False
    )
    async with listening(server) as port:
        one = mailer(port, smtp_username="shop", smtp_password=SecretStr(password))
        if arrives:
            await one.send(MAIL)
        else:
            with pytest.raises(MailError, match="535"):
                await one.send(MAIL)
    assert set(desk.logins) == {(b"shop", password.encode())}
    assert len(desk.kept) == arrives


async def test_no_mail_leaves_within_a_transaction(deps: Deps) -> None:
    desk = Desk()
    async with listening(lambda: SMTP(desk)) as port, deps.begin():
        with pytest.raises(AssertionError, match="inside a transaction"):
            await mailer(port).send(MAIL)
    assert desk.kept == []


async def test_the_demo_s_server_keeps_mail_as_files(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    folder = tmp_path / "mail"
    async with mail_sink(folder, lambda to, subject: told.append((to, subject))) as port:
        await mailer(port).send(MAIL)
        await mailer(port).send(Mail("2", "bob@example.com", "Grüße", "Hallo\n"))
    assert told == [("ada@example.com", "Your order 1001"), ("bob@example.com", "Grüße")]
    first, second = sorted(folder.glob("*.eml"))
    assert b"2 x Stoneware mug" in first.read_bytes()
    assert b"bob@example.com" in second.read_bytes()
