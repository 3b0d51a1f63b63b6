"""Settings from the environment (and `.env`); every variable starts with `SHOPKEEPER_` except the
two addresses and the model key that other tools share."""

from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PLACEHOLDER_SECRET = "development-only-secret-change-me-please"


class Environment(StrEnum):
    DEVELOPMENT = "development"
    PRODUCTION = "production"


TaxPercent = Annotated[Decimal, Field(ge=0, le=100, decimal_places=2)]


class CaptureMode(StrEnum):
    """When money is taken: with the order, or by staff as they ship."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="SHOPKEEPER_", env_file=".env", extra="ignore", populate_by_name=True
    )

    environment: Environment = Environment.DEVELOPMENT
    data_dir: Path = Field(default=Path(".shopkeeper"), description="Embedded servers' home.")
    database_url: str | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_URL", "SHOPKEEPER_DATABASE_URL")
    )
    redis_url: str | None = Field(
        default=None, validation_alias=AliasChoices("REDIS_URL", "SHOPKEEPER_REDIS_URL")
    )
    secret: SecretStr = SecretStr(PLACEHOLDER_SECRET)
    currency: str = Field(default="EUR", pattern="^[A-Z]{3}$")
    shop_name: str = "Harbour & Pine"
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    database_pool_size: int = Field(default=10, ge=1, le=200)
    database_hot_pool_size: int = Field(
        default=6,
        ge=1,
        le=200,
        description="Connections for single statements, on top; about three for each core.",
    )
    statement_timeout_ms: int = Field(default=10_000, ge=100)
    lock_timeout_ms: int = Field(default=5_000, ge=100)
    access_token_ttl_s: int = Field(default=900, ge=30)
    refresh_token_ttl_s: int = Field(default=30 * 86_400, ge=60)
    smtp_host: str = "127.0.0.1"
    smtp_port: int = 1025
    smtp_username: str | None = None
    smtp_password: SecretStr | None = None
    smtp_starttls: bool = False
    mail_from: str = "orders@shop.example"
    support_email: str = Field(
        default="help@shop.example",
        description="Where people are told to write, and who is told "
        "when a conversation is handed over.",
    )
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("OPENAI_API_KEY", "SHOPKEEPER_OPENAI_API_KEY")
    )
    openai_base_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OPENAI_BASE_URL", "SHOPKEEPER_OPENAI_BASE_URL"),
    )
    models: str = Field(
        default="gpt-5-mini", description="Model names, comma-separated: the fallback chain."
    )
    agent_models: dict[str, str] = Field(
        default_factory=dict,
        description='Chains of single agents, as JSON: {"coordinator": "gpt-5-nano,gpt-5-mini"}.',
    )
    person_daily_turns_max: int = Field(default=1_000, ge=0)
    person_daily_tokens_max: int = Field(default=3_000_000, ge=0)
    person_daily_cost_micros_max: int = Field(
        default=10_000_000, ge=0, description="Millionths of a US dollar."
    )
    shop_daily_turns_max: int = Field(default=200_000, ge=0)
    shop_daily_tokens_max: int = Field(default=300_000_000, ge=0)
    shop_daily_cost_micros_max: int = Field(default=500_000_000, ge=0)
    otlp_endpoint: str | None = None
    payment_provider: str = Field(
        default="scripted",
        pattern="^(scripted|stripe|paypal)$",
        description="Where payments by card go.",
    )
    payment_return_url: str | None = Field(
        default=None, description="Where a provider sends shoppers back to."
    )
    stripe_secret_key: SecretStr | None = None
    stripe_webhook_secret: SecretStr | None = None
    stripe_api_base: str | None = Field(default=None, description="Stripe's own if unset.")
    paypal_client_id: str | None = None
    paypal_client_secret: SecretStr | None = None
    paypal_webhook_id: str | None = None
    paypal_api_base: str | None = Field(
        default=None, description="PayPal's live one if unset; sandboxes have another."
    )
    capture: CaptureMode = CaptureMode.AUTOMATIC
    tax_rates: dict[Annotated[str, Field(pattern=r"^([A-Z]{2}|\*)$")], TaxPercent] = Field(
        default_factory=dict,
        description="Per cent that come on top of goods and delivery, by the country of the "
        'delivery, as JSON: {"US": "8.25", "*": "0"}. Elsewhere prices contain their tax.',
    )
    scripted_gateway_file: Path | None = Field(
        default=None, description="Where the scripted provider remembers; none: in the process."
    )
    refund_window_days: int = Field(
        default=180, ge=0, description="How long after placement an order may be refunded."
    )
    refund_approval_amount: int = Field(
        default=50_000, ge=0, description="Minor units; a higher refund needs a second person."
    )
    link_hosts: str = Field(
        default="", description="Hosts that replies of agents may link to, comma-separated."
    )
    agent_second_approver_amount: int = Field(
        default=50_000,
        ge=0,
        description="Staff's actions that move more, in minor units, need another's approval.",
    )
    agent_refunds_per_person_amount: int = Field(
        default=200_000,
        ge=0,
        description="Refunds by way of agents in 24 hours, after which another has to approve.",
    )
    agent_refunds_per_shop_amount: int = Field(
        default=1_000_000,
        ge=0,
        description="The same for the whole shop; then none is made.",
    )
    agent_discount_percent_max: int = Field(
        default=50, ge=0, le=100, description="How far an agent's action may lower a price."
    )
    request_body_bytes_max: int = 1_048_576
    request_timeout_s: float = 30.0
    allowed_origins: str = Field(
        default="",
        pattern=r"^(\s*https?://[^\s/*,]+\s*(,|$))*$",
        description="Other sites whose pages may call the API from a browser, comma-separated: "
        "https://shop.example. They send tokens; our cookies are not theirs.",
    )
    rate_limits: bool = Field(default=True, description="Off for benchmarks and tests only.")
    trace_sample_ratio: float = Field(default=0.1, ge=0.0, le=1.0)

    def tax_rate(self, country_code: str | None) -> int:
        """Return the tax that comes on top in a country, in hundredths of a per cent."""
        if country_code is None or not self.tax_rates:
            return 0
        percent = self.tax_rates.get(country_code, self.tax_rates.get("*", Decimal(0)))
        return int(percent * 100)

    @property
    def link_host_names(self) -> frozenset[str]:
        names = (name.strip().lower() for name in self.link_hosts.split(","))
        return frozenset(name for name in names if name)

    @property
    def allowed_origin_list(self) -> list[str]:
        origins = (origin.strip() for origin in self.allowed_origins.split(","))
        return [origin for origin in origins if origin]

    @model_validator(mode="after")
    def _refuse_placeholder_secrets(self) -> Self:
        if self.environment is Environment.PRODUCTION:
            secret = self.secret.get_secret_value()
            if secret == PLACEHOLDER_SECRET or len(secret) < 32:
                raise ValueError(
                    "SHOPKEEPER_SECRET must be set to at least 32 random characters in production "
                    "(make one with: openssl rand -hex 32)"
                )
        return self

    @model_validator(mode="after")
    def _refuse_a_provider_without_keys(self) -> Self:
        keys: dict[str, dict[str, SecretStr | str | None]] = {
            "stripe": {"STRIPE_SECRET_KEY": self.stripe_secret_key},
            "paypal": {
                "PAYPAL_CLIENT_ID": self.paypal_client_id,
                "PAYPAL_CLIENT_SECRET": self.paypal_client_secret,
            },
            "scripted": {},
        }
        needed = keys[self.payment_provider]
        missing = [f"SHOPKEEPER_{name}" for name, value in needed.items() if not value]
        if missing:
            raise ValueError(
                f"SHOPKEEPER_PAYMENT_PROVIDER is {self.payment_provider}, so "
                f"{' and '.join(missing)} must be set"
            )
        if self.payment_provider == "scripted" and self.environment is Environment.PRODUCTION:
            raise ValueError(
                "SHOPKEEPER_PAYMENT_PROVIDER must be stripe or paypal in production: the scripted "
                "provider takes no money"
            )
        return self
