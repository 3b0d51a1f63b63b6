"""Speaking with PayPal: its token, its errors, its money and the shapes of its answers."""

import asyncio
import logging
from datetime import datetime
from decimal import Decimal
from time import monotonic
from typing import Any, Final

import httpx
import orjson
from pydantic import BaseModel, Field, SecretStr, ValidationError

from db.types import Money, exponent
from deps.gateway import GatewayTimeout
from deps.provider import ProviderRefused
from deps.transaction import external

log = logging.getLogger(__name__)

LIVE_API: Final = "https://api-m.paypal.com"
TIMEOUT_S: Final = 6.0
DEADLINE_S: Final = 9.0  # With a new token: to ask, to look and to call fits into a lease.
RENEW_BEFORE_S: Final = 60.0

# Of these PayPal knows no fractions: https://developer.paypal.com/reference/currency-codes/
_WHOLE: Final = frozenset({"HUF", "JPY", "TWD"})


class Link(BaseModel):
    href: str
    rel: str


class PayPalMoney(BaseModel):
    currency_code: str
    value: str

    @property
    def money(self) -> Money:
        """The amount in ISO 4217 minor units."""
        scaled = Decimal(self.value).scaleb(exponent(self.currency_code))
        if scaled != scaled.to_integral_value():
            raise ProviderRefused(f"paypal: {self.value} {self.currency_code} has a fraction")
        return Money(int(scaled), self.currency_code)


class Authorization(BaseModel):
    id: str
    status: str
    amount: PayPalMoney
    expiration_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def has_expired(self) -> bool:
        """PayPal voids what runs out; only the time of it tells."""
        if self.status != "VOIDED" or self.expiration_time is None or self.update_time is None:
            return False
        return self.update_time >= self.expiration_time


class Capture(BaseModel):
    id: str
    status: str
    amount: PayPalMoney
    invoice_id: str | None = None


class PayPalRefund(BaseModel):
    id: str
    status: str
    amount: PayPalMoney
    custom_id: str | None = None
    links: list[Link] = Field(default_factory=list)

    @property
    def capture_id(self) -> str | None:
        up = next((link.href for link in self.links if link.rel == "up"), None)
        return up.rstrip("/").rpartition("/")[2] if up else None


class Payments(BaseModel):
    authorizations: list[Authorization] = Field(default_factory=list)
    captures: list[Capture] = Field(default_factory=list)
    refunds: list[PayPalRefund] = Field(default_factory=list)


class PurchaseUnit(BaseModel):
    custom_id: str | None = None
    amount: PayPalMoney
    payments: Payments = Field(default_factory=Payments)


class PayPalOrder(BaseModel):
    """The fields of an order that we read: https://developer.paypal.com/docs/api/orders/v2/"""

    id: str
    status: str
    purchase_units: list[PurchaseUnit] = Field(min_length=1)
    links: list[Link] = Field(default_factory=list)

    @property
    def unit(self) -> PurchaseUnit:
        return self.purchase_units[0]

    @property
    def authorization(self) -> Authorization | None:
        """The newest: a renewed authorisation takes the place of the one before."""
        found = self.unit.payments.authorizations
        return found[-1] if found else None


class _Token(BaseModel):
    access_token: SecretStr
    expires_in: int


class _ErrorDetail(BaseModel):
    issue: str = ""


class _Error(BaseModel):
    name: str = ""
    debug_id: str = ""
    details: list[_ErrorDetail] = Field(default_factory=list)
    links: list[Link] = Field(default_factory=list)


class Refusal(Exception):
    """PayPal answered 4xx. Callers know which issues are outcomes; the rest is `refused`."""

    def __init__(self, status: int, error: _Error) -> None:
        self.status = status
        self.issue = error.details[0].issue if error.details else error.name
        self.links = error.links
        super().__init__(f"paypal: {status} {self.issue} ({error.debug_id})")


def tag(key: str) -> str:
    """Return `key` in the letters that PayPal keeps in `custom_id`."""
    assert "." not in key, "the dot stands for the colon"
    return key.replace(":", ".")


def untag(custom_id: str | None) -> str | None:
    """Return the key behind a `custom_id`; a refund's carries its total after an underscore."""
    return custom_id.partition("_")[0].replace(".", ":") if custom_id else None


def as_paypal(money: Money) -> dict[str, str]:
    """Return `money` as PayPal writes it.

    Raises:
        ProviderRefused: PayPal takes no fractions of this currency.
    """
    plain = str(money).partition(" ")[2]
    if money.currency in _WHOLE and "." in plain:
        plain, _, fraction = plain.partition(".")
        if int(fraction):
            raise ProviderRefused(f"paypal: {money.currency} is taken in whole units only")
    return {"currency_code": money.currency, "value": plain}


class PayPalClient:
    """Sends requests with a token that it renews. Every request has a timeout."""

    def __init__(
        self, client_id: str, client_secret: str, api_base: str | None, timeout_s: float
    ) -> None:
        self.api_base = (api_base or LIVE_API).rstrip("/")
        self._credentials = (client_id, client_secret)
        self._http = httpx.AsyncClient(base_url=self.api_base, timeout=timeout_s)
        self._token: str | None = None
        self._token_until = 0.0
        self._token_lock = asyncio.Lock()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        key: str | None = None,
        content: bytes | None = None,
        files: Any = None,
        params: Any = None,
    ) -> dict[str, Any]:
        """Send one request, with a fresh token if the one we have is refused.

        Raises:
            GatewayTimeout: No answer, or none to rely on: 5xx, 429, or the key is in use.
            Refusal: 4xx, for the caller to judge.
        """
        external()
        try:
            async with asyncio.timeout(DEADLINE_S):
                for is_last in (False, True):
                    headers = {
                        "Authorization": f"Bearer {await self._access_token()}",
                        "Prefer": "return=representation",
                    }
                    if key is not None:
                        headers["PayPal-Request-Id"] = key
                    if content is not None or (json is None and method == "POST" and not files):
                        headers["Content-Type"] = "application/json"
                    answer = await self._http.request(
                        method,
                        path,
                        json=json,
                        content=content,
                        files=files,
                        params=params,
                        headers=headers,
                    )
                    if answer.status_code != 401 or is_last:
                        return _read(answer)
                    self._token = None
        except TimeoutError:
            raise GatewayTimeout("paypal: no answer in time") from None
        except httpx.TransportError as error:
            raise GatewayTimeout(f"paypal: {type(error).__name__}") from None
        raise AssertionError("unreachable")

    async def _access_token(self) -> str:
        """Return the cached token, renewed a minute before its end; one caller renews for all."""
        async with self._token_lock:
            if self._token is None or monotonic() >= self._token_until:
                answer = await self._http.post(
                    "/v1/oauth2/token",
                    data={"grant_type": "client_credentials"},
                    auth=self._credentials,
                )
                try:
                    token = _Token.model_validate(_read(answer))
                except Refusal as refusal:
                    raise refused(refusal) from None
                self._token = token.access_token.get_secret_value()
                self._token_until = monotonic() + token.expires_in - RENEW_BEFORE_S
            return self._token


def _read(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code >= 500 or answer.status_code in (409, 429):
        raise GatewayTimeout(f"paypal: HTTP {answer.status_code}")
    try:
        body = orjson.loads(answer.content) if answer.content else {}
        if answer.status_code < 400 and isinstance(body, dict):
            return body
        error = _Error.model_validate(body)
    except (orjson.JSONDecodeError, ValidationError):
        # Not PayPal's own words: something in between answered.
        raise GatewayTimeout(f"paypal: HTTP {answer.status_code}, unreadable") from None
    raise Refusal(answer.status_code, error)


def refused(refusal: Refusal) -> ProviderRefused:
    log.error("%s", refusal)
    return ProviderRefused(str(refusal))
