"""The payment providers that the settings hold keys for."""

from deps.provider import Provider
from deps.settings import Settings


def configured(settings: Settings) -> dict[str, Provider]:
    """Return the providers by name; one without keys is absent. Close each with `aclose`.

    Their libraries are loaded only when used.
    """
    found: dict[str, Provider] = {}
    if settings.stripe_secret_key:
        from deps.stripe_desk import Stripe

        secret = settings.stripe_webhook_secret
        found["stripe"] = Stripe(
            settings.stripe_secret_key.get_secret_value(),
            webhook_secret=secret.get_secret_value() if secret else None,
            return_url=settings.payment_return_url,
            api_base=settings.stripe_api_base,
        )
    if settings.paypal_client_id and settings.paypal_client_secret:
        from deps.paypal_desk import PayPal

        found["paypal"] = PayPal(
            settings.paypal_client_id,
            settings.paypal_client_secret.get_secret_value(),
            webhook_id=settings.paypal_webhook_id,
            return_url=settings.payment_return_url,
            api_base=settings.paypal_api_base,
        )
    return found
