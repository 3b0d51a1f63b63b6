"""Settings: all are shown in the example, with their defaults, and a wrong one is named."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from deps.settings import Settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"
SHOWN = dict(
    line.lstrip("#").split("=", 1)
    for line in EXAMPLE.read_text().splitlines()
    if line.startswith("#") and "=" in line and line[1:2].isupper()
)


def _names(field: str) -> set[str]:
    alias = Settings.model_fields[field].validation_alias
    choices = getattr(alias, "choices", [])
    return {str(choice).upper() for choice in choices} or {f"SHOPKEEPER_{field.upper()}"}


def test_every_setting_is_in_the_example_and_nothing_else() -> None:
    named = {field: _names(field) & SHOWN.keys() for field in Settings.model_fields}
    assert [field for field, names in named.items() if len(names) != 1] == []
    assert SHOWN.keys() - set().union(*named.values()) == set()


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_the_example_shows_the_default(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = _names(field) & SHOWN.keys()
    default = Settings.model_fields[field].get_default(call_default_factory=True)
    if default is None:
        return  # Unset: what is shown says what it looks like.
    monkeypatch.setenv(name, SHOWN[name])
    assert getattr(Settings(_env_file=None), field) == default


@pytest.mark.parametrize("rates", [{"USA": "5"}, {"us": "5"}, {"US": "-1"}, {"US": "101"},
                                   {"US": "8.255"}, {"US": "much"}])  # fmt: skip
def test_a_tax_rate_that_cannot_be_is_refused(
    rates: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPKEEPER_TAX_RATES", json.dumps(rates))
    with pytest.raises(ValidationError, match="tax_rates"):
        Settings(_env_file=None)


def test_a_country_has_its_rate_or_that_of_all_others() -> None:
    shop = Settings(_env_file=None, tax_rates={"US": Decimal("8.25"), "*": Decimal(7)})
    assert [shop.tax_rate(country) for country in ("US", "DE", None)] == [825, 700, 0]
    assert Settings(_env_file=None).tax_rate("US") == 0
