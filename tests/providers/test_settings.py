"""Providers come from settings: with keys, or not at all."""

import pytest
from pydantic import ValidationError

from deps.providers import configured
from deps.settings import Environment, Settings

SECRET = "sk_live_0123456789"


async def test_a_provider_without_keys_is_absent() -> None:
    assert configured(Settings(_env_file=None)) == {}
    found = configured(Settings(_env_file=None, stripe_secret_key=SECRET))
    assert list(found) == ["stripe"]
    await found["stripe"].aclose()
    both = Settings(
        _env_file=None,
        stripe_secret_key=SECRET,
        paypal_client_id="client",
        paypal_client_secret="secret",
    )
    found = configured(both)
    assert list(found) == ["stripe", "paypal"]
    for provider in found.values():
        await provider.aclose()


def test_choosing_a_provider_without_keys_says_which_are_missing() -> None:
    with pytest.raises(ValidationError, match="SHOPKEEPER_STRIPE_SECRET_KEY must be set"):
        Settings(_env_file=None, payment_provider="stripe")
    with pytest.raises(ValidationError, match="CLIENT_ID and SHOPKEEPER_PAYPAL_CLIENT_SECRET"):
        Settings(_env_file=None, payment_provider="paypal")


def test_production_takes_money_in_earnest() -> None:
    with pytest.raises(ValidationError, match="takes no money"):
        Settings(_env_file=None, environment=Environment.PRODUCTION, secret="x" * 32)


@pytest.mark.parametrize("secret", [None, "short", "x" * 31])
def test_production_needs_a_secret_of_its_own(secret: str | None) -> None:
    given = {} if secret is None else {"secret": secret}
    with pytest.raises(ValidationError, match="SHOPKEEPER_SECRET must be set to at least 32"):
        Settings(_env_file=None, environment=Environment.PRODUCTION, **given)  # type: ignore[arg-type]


def test_secrets_do_not_show() -> None:
    settings = Settings(_env_file=None, stripe_secret_key=SECRET, stripe_webhook_secret="whsec_1")
    assert SECRET not in repr(settings)
    assert "whsec_1" not in repr(settings)
