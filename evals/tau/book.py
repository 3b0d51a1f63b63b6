"""What an import writes: rows by table, with what the rows of one table need of another's."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import SQLModel

from db.models.aftersales import AftersalesPolicy
from db.models.credit import CreditAccount, CreditHold, CreditMovement
from db.models.customer import CustomerAddress
from db.models.fulfillment import Fulfillment, FulfillmentLine
from db.models.inventory import (
    Location,
    Reservation,
    ReservationLine,
    StockMovement,
)
from db.models.order import Order, OrderLine
from db.models.outbox import AggregateCounter, OutboxMessage
from db.models.payment import (
    Account,
    LedgerEntry,
    Payment,
    StoredMethod,
)
from db.models.product import Product, Variant
from db.models.refund import Refund, RefundPart
from db.models.user import User
from db.types import OrderId
from deps.core import UnitOfWork
from evals.tau import names


class Book:
    """Rows by table, in an order that keys allow."""

    TABLES: Sequence[type[SQLModel]] = (
        AftersalesPolicy, User, CustomerAddress, CreditAccount, StoredMethod, Location, Product,
        Variant, Order, OrderLine, Payment, Refund, RefundPart, CreditHold, CreditMovement,
        LedgerEntry, Fulfillment, FulfillmentLine, Reservation, ReservationLine, StockMovement,
        AggregateCounter, OutboxMessage,
    )  # fmt: skip

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.units: dict[str, int] = {}  # Allocated, by SKU.
        self.spent: dict[UUID, int] = {}  # By credit account, less what came back.
        self.place = Location(code="SALES", name="Everything on sale")
        self.closed = Location(code="CLOSED", name="Not for sale", is_active=False)
        self._rows: dict[type[SQLModel], list[SQLModel]] = {table: [] for table in self.TABLES}
        self.add(self.place, self.closed)

    def add(self, *rows: SQLModel) -> None:
        for row in rows:
            self._rows[type(row)].append(row)

    def post(self, transaction_id: UUID, of: UUID | None, amounts: Mapping[Account, int]) -> None:
        assert sum(amounts.values()) == 0
        self.add(
            *(
                LedgerEntry(
                    transaction_id=transaction_id,
                    account=account,
                    amount=amount,
                    currency=names.CURRENCY,
                    order_id=None if of is None else OrderId(of),
                    occurred_at=self.at,
                )
                for account, amount in amounts.items()
                if amount
            )
        )

    def hold(self, hold_id: UUID) -> CreditHold:
        found = next(row for row in reversed(self._rows[CreditHold]) if row.id == hold_id)  # type: ignore[attr-defined]
        assert isinstance(found, CreditHold)
        return found

    async def write(self, uow: UnitOfWork) -> None:
        # The benchmark does not say when a card was topped up: what was added comes first.
        self._rows[CreditMovement].sort(key=lambda row: row.balance_delta < 0)  # type: ignore[attr-defined]
        for table, rows in self._rows.items():
            # The bare table: given the class, an absent value would become the column's default.
            bare = SQLModel.metadata.tables[str(table.__tablename__)]
            drawn = {c.name for c in bare.columns if c.identity is not None and c.identity.always}
            generated = drawn | {c.name for c in bare.columns if c.computed is not None}
            values = [row.model_dump(exclude=generated) for row in rows]
            if values:
                await uow.session.execute(insert(bare), values)
        await uow.session.execute(
            text(
                "SELECT setval(pg_get_serial_sequence('orders', 'number'), max(number)) FROM orders"
            )
        )
