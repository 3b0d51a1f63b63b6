"""The benchmark's names for things, and ours: derived, so that nothing has to be stored."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

from babel import Locale
from babel.core import get_global

from db.types import exponent
from tools.address import Address

_SPACE = UUID("8c5a9d2e-4a51-4b0e-8d59-6f1f6d7f2b01")
CURRENCY = "USD"
_SCALE = 10 ** exponent(CURRENCY)
_ALPHA3: Mapping[str, str] = {
    alias: codes[0]
    for alias, codes in get_global("territory_aliases").items()
    if len(alias) == 3 and alias.isalpha() and len(codes) == 1
}
_SHORT = {short: alias for alias, short in _ALPHA3.items()}
_NAMED = {name.lower(): code for code, name in Locale("en").territories.items() if len(code) == 2}


def user_uuid(user_id: str) -> UUID:
    return uuid5(_SPACE, f"user/{user_id}")


def method_uuid(method_id: str) -> UUID:
    return uuid5(_SPACE, f"method/{method_id}")


def account_uuid(method_id: str) -> UUID:
    return uuid5(_SPACE, f"account/{method_id}")


def order_number(order_id: str) -> int | None:
    """Return the number in `#W0000000`, or None for what is no such id."""
    digits = order_id.removeprefix("#W")
    return int(digits) if digits != order_id and digits.isdigit() and len(digits) < 18 else None


def order_id(number: int) -> str:
    return f"#W{number:07d}"


def cents(amount: float | int | str) -> int:
    """Return an amount of the benchmark's, a float of dollars, as whole cents."""
    return round(float(amount) * int(_SCALE))


def dollars(amount: int) -> float:
    return amount / int(_SCALE)


def country_code(country: str) -> str:
    """Return ISO 3166-1 alpha-2 of a country named in any usual way, or what was given."""
    text = country.strip()
    if len(text) == 2:
        return text.upper()
    return _ALPHA3.get(text.upper()) or _NAMED.get(text.lower()) or text


def country(code: str) -> str:
    return _SHORT.get(code, code)


def to_address(given: Mapping[str, Any], name: str) -> Address:
    return Address(
        name=name,
        line1=given["address1"],
        line2=given.get("address2") or None,
        city=given["city"],
        region=given.get("state") or None,
        postal_code=given["zip"],
        country_code=country_code(given["country"]),
    )


def from_address(stored: Mapping[str, Any]) -> dict[str, str]:
    return {
        "address1": stored["line1"],
        "address2": stored.get("line2") or "",
        "city": stored["city"],
        "country": country(stored["country_code"]),
        "state": stored.get("region") or "",
        "zip": stored["postal_code"],
    }
