"""What agents have cost, by day: the caps on it hold across processes and restarts."""

from datetime import date

from sqlalchemy import BigInteger, CheckConstraint
from sqlmodel import Field, SQLModel


class AgentSpend(SQLModel, table=True):
    """One row per spender and UTC day; `spender` is a person's key, or `shop` for all of them.

    `cost_micros` are millionths of a US dollar, as the providers bill.
    """

    __tablename__ = "agent_spend"
    __table_args__ = (
        CheckConstraint(
            "requests >= 0 AND tokens >= 0 AND cost_micros >= 0", name="only_ever_added_to"
        ),
    )

    spender: str = Field(max_length=80, primary_key=True)
    day: date = Field(primary_key=True)
    requests: int = Field(default=0, sa_type=BigInteger)
    tokens: int = Field(default=0, sa_type=BigInteger)
    cost_micros: int = Field(default=0, sa_type=BigInteger)
