"""What shoppers ask about the shop itself, answered from the rules the code applies.

Every statement is made from a constant or setting that decides elsewhere, so it can not drift from
what the shop does.
"""

from pydantic import BaseModel, Field

from db.types import Money
from deps.core import Deps, UnitOfWork
from tools.inventory import HOLD_TTL
from tools.registry import Risk, operation
from tools.shipping import shipping_methods
from tools.user import PASSWORD_CHARS_MIN

_PROVIDERS = {
    "scripted": "test card",
    "stripe": "card",
    "paypal": "PayPal",
    "credit": "gift card or store credit",
}


class Answer(BaseModel):
    """Facts about one subject, each a sentence of its own."""

    subject: str
    statements: list[str] = Field(min_length=1)


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what delivery options do you have",
        "how much is shipping",
        "how long does delivery take",
        "do you ship to {country}",
    ),
)
async def delivery(uow: UnitOfWork) -> Answer:
    """Tell the ways of delivery with their prices and times, and where the shop delivers to."""
    currency = uow.settings.currency
    statements = []
    for method in shipping_methods(currency).values():
        price = str(Money(method.amount, currency)) if method.amount else "free"
        free = method.free_from_amount
        above = f", free from {Money(free, currency)}" if free is not None else ""
        statements.append(f"{method.name}: {price}{above}.")
    statements.append("We deliver to every country; an address needs its two-letter country code.")
    statements.append("The times count from dispatch; an order's own state is under its number.")
    return Answer(subject="delivery", statements=statements)


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "is tax included in the prices",
        "do your prices contain vat",
        "how much tax do i have to pay",
        "does sales tax come on top",
    ),
)
async def tax(uow: UnitOfWork) -> Answer:
    """Tell whether prices contain their tax, and what comes on top where they do not."""
    rates = uow.settings.tax_rates
    on_top = {country: rate for country, rate in sorted(rates.items()) if rate and country != "*"}
    statements = [
        f"For deliveries to {country}, {rate.normalize():f} % come on top of goods and delivery."
        for country, rate in on_top.items()
    ]
    where = "elsewhere" if on_top else "everywhere"
    others = rates.get("*")
    statements.append(
        f"For deliveries {where}, {others.normalize():f} % come on top."
        if others
        else f"Prices contain their tax {where}."
    )
    statements.append("Your cart shows what tax it bears once it has an address.")
    return Answer(subject="tax", statements=statements)


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "which payment methods do you accept",
        "how can i pay",
        "can i pay with paypal",
        "list your payment options",
    ),
)
async def payment_methods(deps: Deps) -> Answer:
    """Tell which ways to pay this shop has switched on."""
    ways = sorted({_PROVIDERS.get(name, name) for name in deps.gateways})
    listed = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} and {ways[-1]}"
    return Answer(
        subject="payment methods",
        statements=[f"You can pay by {listed}.", "Card numbers never pass through this chat."],
    )


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "what does it cost to cancel an order",
        "is there a cancellation fee",
        "check the cancellation fee",
        "until when can i cancel",
    ),
)
async def cancellation(uow: UnitOfWork) -> Answer:
    """Tell until when an order can be cancelled, and that it costs nothing."""
    return Answer(
        subject="cancellation",
        statements=[
            "Cancelling costs nothing: the whole amount goes back to the way you paid.",
            "An order can be cancelled until any of it has been shipped.",
        ],
    )


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "my payment failed",
        "my card was declined",
        "report a payment problem",
        "there is an issue with my payment",
    ),
)
async def payment_problem(uow: UnitOfWork) -> Answer:
    """Tell what happens when a payment fails, and what the shopper can do."""
    minutes = int(HOLD_TTL.total_seconds() // 60)
    return Answer(
        subject="payment problems",
        statements=[
            "A payment that is declined is not charged, and the order is not placed.",
            f"What is in your cart stays there; stock is held for {minutes} minutes at a time.",
            "Try again or pay another way. If money was taken and you see no order, ask me for a "
            "person: they can look into the payment.",
        ],
    )


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "how can i contact you",
        "what is your phone number",
        "what are your support hours",
        "customer service email",
    ),
)
async def contact(uow: UnitOfWork) -> Answer:
    """Tell how to reach the shop's people."""
    address = uow.settings.support_email
    return Answer(
        subject="contact",
        statements=[
            f"You can write to {address}.",
            "Or say “talk to a person” here: I hand over this conversation, and they answer by "
            "email. There is no telephone line.",
        ],
    )


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "how do i create an account",
        "sign up for an account",
        "i have a problem with the registration",
        "open a new account",
    ),
)
async def registration(uow: UnitOfWork) -> Answer:
    """Tell how to get an account, what it needs, and that buying works without one."""
    return Answer(
        subject="registration",
        statements=[
            "To register, choose “Sign in” at the top of the page and tick that you are new: it "
            f"needs your name, email and a password of at least {PASSWORD_CHARS_MIN} characters.",
            "There is one kind of account, and it is free. You can also buy without one.",
            "If it says that the email is registered already, sign in instead.",
        ],
    )


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "i forgot my password",
        "reset my password",
        "i can not sign in",
        "switch to another account",
    ),
)
async def sign_in(uow: UnitOfWork) -> Answer:
    """Tell how signing in, changing accounts and a forgotten password work."""
    return Answer(
        subject="signing in",
        statements=[
            "You sign in with your email and password at the top of the page; to use another "
            "account, sign out there first.",
            "A password can not be read or reset in this chat. If you have lost it, say “talk to a "
            "person”: they check who you are and let you in again.",
        ],
    )


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "delete my account",
        "close my account",
        "i no longer need my account",
        "erase my personal data",
    ),
)
async def account_deletion(uow: UnitOfWork) -> Answer:
    """Tell how an account is closed."""
    return Answer(
        subject="closing an account",
        statements=[
            "I can not delete an account myself: a person does that, after checking who asks.",
            "Say “talk to a person” and I hand over your request. Orders and invoices are kept as "
            "long as the law demands.",
        ],
    )


@operation(
    scope="catalog:read",
    risk=Risk.READ,
    idempotent=True,
    examples=(
        "change my account details",
        "edit my personal information",
        "update the data on my account",
        "change my email address",
    ),
)
async def account_data(uow: UnitOfWork) -> Answer:
    """Tell which of one's own details can be changed here, and how."""
    return Answer(
        subject="your details",
        statements=[
            "I can change your name: say “change my name to …”.",
            "Addresses belong to an order: give the one you want when you buy.",
            "The email you sign in with is changed by a person: say “talk to a person”.",
        ],
    )
