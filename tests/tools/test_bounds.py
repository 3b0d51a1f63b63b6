"""What operations refuse before they do anything: each breach is named, and nothing changes."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from db.models.stock_rule import RuleKind
from db.models.user import Role
from deps.core import Deps
from tests import factories
from tools.bundle import PARTS_MAX, BundlePartInput
from tools.errors import Conflict, DomainError, InvalidInput, NotFound, NotRefundable
from tools.location import LocationDetails
from tools.registry import OPERATIONS
from tools.stock_rule import RULES_MAX, Rule
from tools.surface import load_operations

load_operations()
Refused = tuple[str, dict[str, Any], type[DomainError], str | None]
LONG = "x" * 501
NAIVE = datetime(2026, 1, 30)  # noqa: DTZ001  It names no moment: that is the point.
NEVER = datetime.fromisoformat("9999-12-31T23:59:59-23:59")
MANY = 10**9
PLACE = LocationDetails(name="Hamburg", priority=1, is_active=True)
PREFERRED = RuleKind.PREFERRED

BOUNDS: list[Refused] = [
    ("location.save", {"code": " HAM"}, InvalidInput, "code"),
    ("location.save", {"code": "x" * 33}, InvalidInput, "code"),
    ("location.save", {"code": "HAM", "country_code": "DEU"}, InvalidInput, "country_code"),
    ("location.save", {"code": "HAM", "country_code": "ßß"}, InvalidInput, "country_code"),
    ("location.save", {"code": "HAM", "name": ""}, InvalidInput, "name"),
    ("location.save", {"code": "HAM", "name": "x" * 201}, InvalidInput, "name"),
    ("location.save", {"code": "HAM", "priority": -1}, InvalidInput, "priority"),
    ("location.save", {"code": "HAM", "priority": 2**31}, InvalidInput, "priority"),
    ("location.forget", {"code": "x" * 33, "before": PLACE}, InvalidInput, "code"),
    ("location.save", {"code": "HAM", "latitude": 91, "longitude": 0}, InvalidInput, "latitude"),
    ("location.save", {"code": "HAM", "latitude": 0, "longitude": 181}, InvalidInput, "longitude"),
    ("location.save", {"code": "HAM", "latitude": 1}, InvalidInput, "latitude"),
    ("product.search", {"query": LONG}, InvalidInput, "query"),
    ("order.ship", {"number": 0, "carrier": "x" * 65}, InvalidInput, None),
    ("order.ship", {"number": 0, "tracking_number": "x" * 101}, InvalidInput, None),
    ("credit.issue_gift_card", {"amount": 0}, InvalidInput, "amount"),
    ("credit.issue_gift_card", {"amount": MANY * 100}, InvalidInput, "amount"),
    ("credit.issue_gift_card", {"amount": 1, "life_days": 0}, InvalidInput, "life_days"),
    ("credit.grant", {"email": "PERSON", "amount": 0, "reason": "x"}, InvalidInput, "amount"),
    ("credit.grant", {"email": "PERSON", "amount": 1, "reason": " "}, InvalidInput, "reason"),
    ("credit.grant", {"email": "PERSON", "amount": 1, "reason": LONG}, InvalidInput, "reason"),
    ("credit.grant", {"email": "x@y.example", "amount": 1, "reason": "x"}, NotFound, "email"),
    ("method.add", {"token": ""}, InvalidInput, "token"),
    ("method.add", {"token": "x" * 201}, InvalidInput, "token"),
    ("method.add", {"token": "x", "provider": "credit"}, NotFound, "provider"),
    (
        "bundle.define",
        {"sku": "MUG", "parts": [BundlePartInput(sku=f"P{n}") for n in range(PARTS_MAX + 1)]},
        InvalidInput,
        "parts",
    ),
    (
        "inventory.receive",
        {"sku": "MUG", "location": "HAM", "quantity": 0},
        InvalidInput,
        "quantity",
    ),
    (
        "inventory.set_thresholds",
        {"sku": "MUG", "location": "HAM", "safety_stock": -1},
        InvalidInput,
        "safety_stock",
    ),
    (
        "inventory.set_thresholds",
        {"sku": "MUG", "location": "ROT", "safety_stock": 1},
        Conflict,
        "location",
    ),
    (
        "stock_rule.replace",
        {"rules": [Rule(kind=RuleKind.FEWEST_SPLITS)] * (RULES_MAX + 1)},
        InvalidInput,
        "rules",
    ),
    ("stock_rule.replace", {"rules": [Rule(kind=PREFERRED)]}, InvalidInput, "rules"),
    ("stock_rule.replace", {"rules": [Rule(kind=PREFERRED, location="")]}, NotFound, "rules"),
    (
        "stock_rule.replace",
        {"rules": [Rule(kind=RuleKind.NEAREST, country_code="ßß")]},
        InvalidInput,
        "rules",
    ),
    (
        "stock_rule.place_area",
        {"country_code": "ßß", "latitude": 0, "longitude": 0},
        InvalidInput,
        "country_code",
    ),
    (
        "stock_rule.place_area",
        {"country_code": "DE", "latitude": 0, "longitude": 0, "prefix": "ß" * 10},
        InvalidInput,
        "prefix",
    ),
    (
        "stock_rule.place_area",
        {"country_code": "DEU", "latitude": 0, "longitude": 0},
        InvalidInput,
        "country_code",
    ),
    (
        "stock_rule.place_area",
        {"country_code": "DE", "latitude": 0, "longitude": 0, "prefix": "2 0"},
        InvalidInput,
        "prefix",
    ),
    (
        "stock_rule.place_area",
        {"country_code": "DE", "latitude": 0, "longitude": 200},
        InvalidInput,
        "latitude",
    ),
    ("user.find_by_name", {"name": "Ada", "postal_code": " "}, InvalidInput, "name"),
    ("user.rename", {"name": " "}, InvalidInput, "name"),
    ("order.list_all", {"since": NAIVE}, InvalidInput, "since"),
    ("order.list_all", {"until": NAIVE}, InvalidInput, "until"),
    ("order.list_all", {"since": NEVER}, InvalidInput, "since"),
    ("order.provenance", {"number": 2**63}, NotFound, None),
    ("order.provenance", {"number": 77}, NotFound, None),
    ("order.provenance", {}, InvalidInput, "number"),
    ("capture.take", {"number": 0, "amount": 0}, InvalidInput, "amount"),
    ("refund.preview", {"number": 0, "amount": 1, "shipping_amount": 1}, InvalidInput, "amount"),
    ("refund.preview", {"number": 0, "lines": {}}, InvalidInput, "lines"),
    ("refund.preview", {"number": 0, "shipping_amount": 1}, InvalidInput, "lines"),
    (
        "refund.preview",
        {"number": 0, "lines": {f"S{n}": 1 for n in range(1000)}},
        InvalidInput,
        "lines",
    ),
    ("refund.preview", {"number": 0, "lines": {"MUG": 9}}, NotRefundable, "lines.MUG"),
    (
        "refund.preview",
        {"number": 0, "lines": {"MUG": 1}, "shipping_amount": MANY},
        NotRefundable,
        "shipping_amount",
    ),
    ("cart.add_item", {"sku": "MUG", "quantity": 0}, InvalidInput, "quantity"),
    ("cart.add_item", {"sku": "MUG", "quantity": MANY}, InvalidInput, "quantity"),
    ("cart.change_item", {"sku": "MUG", "quantity": -1}, InvalidInput, "quantity"),
    ("cart.add_item", {"sku": "NONE", "quantity": 1}, NotFound, "sku"),
    ("dispute.submit_evidence", {"dispute_id": uuid4(), "evidence": {}}, InvalidInput, "evidence"),
    ("analytics.sales_recent", {"days": 0}, InvalidInput, "days"),
]  # fmt: skip


async def test_every_bound_is_refused_by_its_field_and_changes_nothing(deps: Deps) -> None:
    staff = await factories.user(deps, role=Role.ADMIN, email="person@example.com")
    await factories.product(staff, "MUG", stock=10)
    await factories.receive(staff, "TEA", 1, "ROT")
    order = await factories.placed_order(staff, MUG=2)
    named = {"number": order.number, "email": "person@example.com"}
    before = await rows_of(staff)
    wrong = []
    for key, arguments, error, field in BOUNDS:
        given = {
            name: named[name] if value in (0, "PERSON") and name in named else value
            for name, value in arguments.items()
        }
        try:
            await OPERATIONS[key](staff, **given)
        except DomainError as refused:
            if type(refused) is error and refused.field == field:
                continue
            wrong.append(f"{key} {arguments}: {refused!r} of {refused.field}")
        else:
            wrong.append(f"{key} {arguments}: it was done")
    assert not wrong, "\n".join(wrong)
    assert await rows_of(staff) == before


async def rows_of(deps: Deps) -> dict[str, int]:
    """Count the rows of what a refused call must not have touched."""
    tables = ("location", "credit_account", "stored_method", "bundle_part", "stock_movement",
              "payment_attempt", "refund", "stock_rule", "outbox")  # fmt: skip
    async with deps.begin() as uow:
        return {name: await uow.fetchval(f"SELECT count(*) FROM {name}") for name in tables}
