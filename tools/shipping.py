"""Ways to deliver: simple rules, until carriers answer."""

from functools import cache

from pydantic import BaseModel

from db.types import exponent


class ShippingMethod(BaseModel):
    """A way to deliver. `amount` and `free_from_amount` are minor units of the shop's currency."""

    code: str
    name: str
    amount: int
    free_from_amount: int | None = None


@cache
def shipping_methods(currency: str) -> dict[str, ShippingMethod]:
    """Return what a shopper may choose; amounts scale with the currency's minor unit."""
    unit = 10 ** exponent(currency)
    methods = (
        ShippingMethod(
            code="standard",
            name="Standard, 2 to 4 days",
            amount=490 * unit // 100,
            free_from_amount=60 * unit,
        ),
        ShippingMethod(code="express", name="Express, next day", amount=990 * unit // 100),
        ShippingMethod(code="pickup", name="Pick up in the shop", amount=0),
    )
    return {method.code: method for method in methods}
