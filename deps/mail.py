"""Outgoing mail over SMTP."""

from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Protocol

import aiosmtplib

from deps.settings import Settings
from deps.transaction import external

SMTP_TIMEOUT_S = 10


class MailError(Exception):
    """The server refused the message or could not be reached; worth another try later."""


@dataclass(frozen=True, slots=True)
class Mail:
    """`message_id` is stable over retries, so a second delivery can be recognised."""

    message_id: str
    recipient: str
    subject: str
    body: str


class Mailer(Protocol):
    async def send(self, mail: Mail) -> None: ...


@dataclass(frozen=True, slots=True)
class SmtpMailer:
    settings: Settings
    timeout_s: float = SMTP_TIMEOUT_S

    async def send(self, mail: Mail) -> None:
        """Hand `mail` to the SMTP server.

        Raises:
            MailError: The server is away or says no.
        """
        external()
        settings = self.settings
        message = EmailMessage()
        message["From"] = Address(settings.shop_name, addr_spec=settings.mail_from)
        message["To"] = mail.recipient
        message["Subject"] = " ".join(mail.subject.split())  # A header has no line breaks.
        domain = settings.mail_from.rpartition("@")[2]
        message["Message-ID"] = f"<{mail.message_id}@{domain}>"
        message.set_content(mail.body)
        password = settings.smtp_password
        try:
            await aiosmtplib.send(
                message,
                hostname=settings.smtp_host,
                port=settings.smtp_port,
                username=settings.smtp_username,
                password=password.get_secret_value() if password else None,
                start_tls=settings.smtp_starttls,
                timeout=self.timeout_s,
            )
        except (aiosmtplib.SMTPException, OSError) as error:
            raise MailError(str(error)[:500]) from error
