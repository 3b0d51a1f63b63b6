"""What is particular to one provider: its money, its errors, its tokens, its shapes."""

import asyncio
import gzip
import logging
import os
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from db.types import Money
from deps.gateway import GatewayTimeout, OutcomeStatus
from deps.paypal_client import PayPalMoney, as_paypal
from deps.paypal_desk import PayPal
from deps.provider import ProviderRefused
from deps.stripe import Intent, IntentRefund, shop_amount, stripe_amount
from deps.stripe_desk import Stripe
from tests.providers import paypal_server, stripe_server
from tests.providers.paypal_server import PayPalServer
from tests.providers.server import Fault
from tests.providers.stripe_server import StripeServer

DATA = Path(os.environ.get("SHOPKEEPER_DATA", Path(__file__).parents[3] / "shared" / "data"))
FIXTURES = DATA / "stripe_fixtures" / "fixtures3.json.gz"
TOTAL = Money(2990, "EUR")


def key() -> str:
    return f"{uuid4()}:authorize:1"


@pytest.mark.parametrize(
    ("money", "stripe", "paypal"),
    [
        (Money(2990, "EUR"), 2990, "29.90"),
        (Money(5, "USD"), 5, "0.05"),
        (Money(300, "JPY"), 300, "300"),
        (Money(300, "ISK"), 30_000, "300"),
        (Money(300, "UGX"), 30_000, "300"),
        (Money(123_000, "HUF"), 123_000, "1230"),
        (Money(1_234_500, "KWD"), 1_234_500, "1234.500"),
    ],
)
def test_amounts_as_each_provider_counts(money: Money, stripe: int, paypal: str) -> None:
    assert stripe_amount(money) == stripe
    assert shop_amount(stripe, money.currency.lower()) == money.amount
    written = as_paypal(money)
    assert written == {"currency_code": money.currency, "value": paypal}
    assert PayPalMoney.model_validate(written).money == money


def test_fractions_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ProviderRefused):
        as_paypal(Money(123_050, "HUF"))
    with pytest.raises(ProviderRefused):
        shop_amount(30_050, "isk")
    with pytest.raises(ProviderRefused):
        _ = PayPalMoney(currency_code="EUR", value="1.234").money


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.ERROR_AFTER, Fault.RATE_LIMIT])
async def test_errors_of_the_provider_leave_the_outcome_open(
    stripe: Stripe,
    stripe_account: StripeServer,
    paypal: PayPal,
    paypal_account: PayPalServer,
    fault: Fault,
) -> None:
    for gateway, account, token in (
        (stripe, stripe_account, "pm_card_visa"),
        (paypal, paypal_account, "paypal/VAULT0"),
    ):
        account.faults.script.append(fault)
        name = key()
        with pytest.raises(GatewayTimeout):
            await gateway.authorize(name, TOTAL, token)
        outcome = await gateway.authorize(name, TOTAL, token)
        assert outcome.approved


async def test_nobody_listens(stripe: Stripe, paypal: PayPal) -> None:
    here = "http://127.0.0.1:9"
    away = Stripe("sk", api_base=here, timeout_s=1, retries=0)
    with pytest.raises(GatewayTimeout):
        await away.authorize(key(), TOTAL, "pm_card_visa")
    await away.aclose()
    gone = PayPal("id", "secret", api_base=here, timeout_s=1)
    with pytest.raises(GatewayTimeout):
        await gone.authorize(key(), TOTAL, "paypal")
    await gone.aclose()


async def test_wrong_keys_are_refused_and_not_logged(
    stripe_process: tuple[StripeServer, str],
    paypal_process: tuple[PayPalServer, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    wrong = Stripe("sk_wrong_secret", api_base=stripe_process[1])
    with pytest.raises(ProviderRefused):
        await wrong.authorize(key(), TOTAL, "pm_card_visa")
    await wrong.aclose()
    other = PayPal(paypal_server.CLIENT_ID, "wrong_secret", api_base=paypal_process[1])
    with pytest.raises(ProviderRefused):
        await other.authorize(key(), TOTAL, "paypal")
    await other.aclose()
    assert "wrong_secret" not in caplog.text
    assert stripe_server.SECRET_KEY not in caplog.text


async def test_a_token_that_is_none_of_theirs_is_a_decline(stripe: Stripe, paypal: PayPal) -> None:
    for gateway, token in ((stripe, "pm_rubbish"), (paypal, "paypal/rubbish")):
        outcome = await gateway.authorize(key(), TOTAL, token)
        assert outcome.status is OutcomeStatus.DECLINED
        assert outcome.decline_code == "invalid_method"


async def test_another_request_under_the_same_key_is_refused(stripe: Stripe) -> None:
    name = key()
    assert (await stripe.authorize(name, TOTAL, "pm_card_visa")).approved
    with pytest.raises(ProviderRefused):
        await stripe.authorize(name, Money(1, "EUR"), "pm_card_visa")


async def test_the_search_may_lag(stripe: Stripe, stripe_account: StripeServer) -> None:
    stripe_account.search_lag_s = 60.0
    name = key()
    stripe_account.faults.script.append(Fault.TIMEOUT_AFTER)
    with pytest.raises(GatewayTimeout):
        await stripe.authorize(name, TOTAL, "pm_card_visa")
    assert await stripe.find(name) is None
    outcome = await stripe.authorize(name, TOTAL, "pm_card_visa")
    assert outcome.approved
    stripe_account.search_lag_s = 0.0
    stripe_account.keys.clear()  # A day later the key is forgotten, and the search has caught up.
    found = await stripe.find(name)
    assert found is not None
    assert found.reference == outcome.reference


async def test_paypals_token_is_shared_and_renewed(
    paypal: PayPal, paypal_account: PayPalServer
) -> None:
    before = len(paypal_account.tokens)
    await asyncio.gather(*(paypal.authorize(key(), TOTAL, "paypal") for _ in range(5)))
    assert len(paypal_account.tokens) == before + 1
    paypal_account.tokens.clear()  # Revoked early.
    assert (await paypal.authorize(key(), TOTAL, "paypal/VAULT0")).approved
    assert len(paypal_account.tokens) == 1


async def test_paypals_refund_goes_on_where_it_stopped(
    paypal: PayPal, paypal_account: PayPalServer
) -> None:
    held = await paypal.authorize(key(), Money(9000, "EUR"), "paypal/VAULT0")
    for part, is_final in ((4000, False), (5000, True)):
        name = f"{uuid4()}:capture:1"
        taken = await paypal.capture(name, held.reference, Money(part, "EUR"), is_final=is_final)
        assert taken.approved
    name = f"{uuid4()}:refund:1"
    # The first capture is refunded; the request for the second never arrives.
    paypal_account.faults.script.extend([None, Fault.TIMEOUT_BEFORE])
    with pytest.raises(GatewayTimeout):
        await paypal.refund(name, held.reference, Money(6000, "EUR"))
    assert await paypal.find(name, held.reference) is None, "not whole yet"
    done = await paypal.refund(name, held.reference, Money(6000, "EUR"))
    assert (done.approved, done.amount) == (True, 6000)
    refunds = paypal_account.orders[held.reference]["purchase_units"][0]["payments"]["refunds"]
    assert sorted(refund["amount"]["value"] for refund in refunds) == ["20.00", "40.00"]


@pytest.mark.skipif(not FIXTURES.exists(), reason=f"{FIXTURES} is not there")
async def test_the_server_has_stripes_shapes(stripe: Stripe, stripe_account: StripeServer) -> None:
    """Every field our server sends is one that Stripe's own sample objects have, and the adapter
    reads those samples."""
    samples = orjson.loads(gzip.decompress(FIXTURES.read_bytes()))["resources"]
    Intent.model_validate(samples["payment_intent"])
    IntentRefund.model_validate(samples["refund"])
    held = await stripe.authorize(key(), TOTAL, "pm_card_visa")
    await stripe.capture(f"{uuid4()}:capture:1", held.reference, TOTAL)
    await stripe.refund(f"{uuid4()}:refund:1", held.reference, Money(100, "EUR"))
    dispute_id = stripe_account.open_dispute(held.reference)
    intent = stripe_account.intents[held.reference]
    sent = {
        "payment_intent": intent,
        "charge": stripe_account.charges[intent["latest_charge"]],
        "refund": next(iter(stripe_account.refunds.values())),
        "dispute": stripe_account.disputes[dispute_id],
        "balance_transaction": stripe_account.ledger[-1],
        "event": stripe_account.events[-1],
    }
    for name, found in sent.items():
        extra = set(found) - set(samples[name])
        assert not extra, f"{name}: {extra}"
