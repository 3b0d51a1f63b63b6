"""Closing sums of the ledger"""

from alembic import op
import sqlalchemy as sa

import db.types
from db.migrations.statements import statements

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('ledger_day',
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('closed_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('day', name=op.f('pk_ledger_day'))
    )
    op.create_table('ledger_closing',
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('account', sa.String(length=32), nullable=False),
    sa.Column('currency', sa.String(length=3), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['day'], ['ledger_day.day'], name=op.f('fk_ledger_closing_day_ledger_day')),
    sa.PrimaryKeyConstraint('day', 'account', 'currency', name=op.f('pk_ledger_closing'))
    )
    op.create_index('ix_ledger_entry_occurred_at', 'ledger_entry', ['occurred_at'])
    for statement in statements("functions_0014.sql"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER ledger_entry_late ON ledger_entry")
    op.execute("DROP FUNCTION ledger_entry_late()")
    op.execute("DROP FUNCTION ledger_close_next(date, timestamptz)")
    op.drop_index('ix_ledger_entry_occurred_at', table_name='ledger_entry')
    op.drop_table('ledger_closing')
    op.drop_table('ledger_day')
