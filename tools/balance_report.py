"""A provider's balance report from a file: the columns of Stripe's itemised report.

https://docs.stripe.com/reports/report-types/balance names them. Amounts are in major units; times
are UTC. Other providers' books are brought into the same columns by whoever exports them.
"""

import csv
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import Final

from db.models.reconciliation import BalanceKind
from db.types import exponent
from deps.provider import BalanceLine
from tools.errors import InvalidInput

REQUIRED: Final = frozenset(
    {"balance_transaction_id", "created_utc", "currency", "gross", "fee", "reporting_category"}
)
CATEGORIES: Final = {
    "charge": BalanceKind.CHARGE,
    "refund": BalanceKind.REFUND,
    "refund_failure": BalanceKind.REFUND_FAILED,
    "dispute": BalanceKind.DISPUTE,
    "dispute_reversal": BalanceKind.DISPUTE_REVERSED,
    "fee": BalanceKind.FEE,
    "payout": BalanceKind.PAYOUT,
}


def parse(text: str) -> list[BalanceLine]:
    """Read a report.

    Raises:
        InvalidInput: A column or a value is not what it should be; the message names the line.
    """
    rows = csv.DictReader(StringIO(text.removeprefix("\ufeff")), strict=True)
    missing = REQUIRED - set(rows.fieldnames or ())
    if missing:
        raise InvalidInput(f"The report has no column {min(missing)}.", field="report")
    lines = []
    try:
        for row in rows:
            lines.append(_line(row))
    except (csv.Error, ValueError, ArithmeticError, AttributeError, TypeError) as error:
        raise InvalidInput(
            f"Line {rows.line_num} of the report cannot be read: {error}.", field="report"
        ) from error
    return lines


def _line(row: dict[str, str]) -> BalanceLine:
    currency = row["currency"].strip().upper()
    if len(currency) != 3 or not currency.isalpha():
        raise ValueError(f"{currency!r} is no currency")
    kind = CATEGORIES.get(row["reporting_category"].strip(), BalanceKind.OTHER)
    amount, fee = _minor(row["gross"], currency), _minor(row["fee"], currency)
    if kind is BalanceKind.FEE:
        amount, fee = 0, fee - amount
    line_id = row["balance_transaction_id"].strip()
    if not 1 <= len(line_id) <= 200:
        raise ValueError("balance_transaction_id is missing")
    return BalanceLine(
        id=line_id,
        kind=kind,
        reference=(row.get("payment_intent_id") or "").strip() or None,
        key=None,
        object_id=(row.get("source_id") or "").strip()[:200] or None,
        amount=amount,
        fee=fee,
        currency=currency,
        occurred_at=datetime.fromisoformat(row["created_utc"].strip()).replace(tzinfo=UTC),
    )


def _minor(text: str, currency: str) -> int:
    value = Decimal(text.strip()).scaleb(exponent(currency))
    if not value.is_finite() or value != value.to_integral_value() or abs(value) >= 2**62:
        raise ValueError(f"{text!r} is no amount in {currency}")
    return int(value)
