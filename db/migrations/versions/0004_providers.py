"""Webhooks, disputes and reconciliation"""

from alembic import op
import sqlalchemy as sa
import sqlmodel
from sqlalchemy.dialects import postgresql
import db.types
from db.migrations.statements import statements

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('stored_method', sa.Column('removed_at', db.types.UtcDateTime(timezone=True), nullable=True))
    op.create_table('reconciliation_run',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('provider', sqlmodel.sql.sqltypes.AutoString(length=32), nullable=False),
    sa.Column('source', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('period_start', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('period_end', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('state', sa.Enum('running', 'finished', 'failed', name='runstate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('line_count', sa.Integer(), nullable=False),
    sa.Column('matched_count', sa.Integer(), nullable=False),
    sa.Column('difference_count', sa.Integer(), nullable=False),
    sa.Column('totals', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('detail', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.Column('requested_by', sa.Uuid(), nullable=True),
    sa.Column('started_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.CheckConstraint('period_start < period_end', name=op.f('ck_reconciliation_run_period_not_empty')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_reconciliation_run'))
    )
    op.create_table('webhook_event',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('provider', sqlmodel.sql.sqltypes.AutoString(length=32), nullable=False),
    sa.Column('event_id', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('type', sqlmodel.sql.sqltypes.AutoString(length=100), nullable=False),
    sa.Column('topic', sa.Enum('payment', 'refund', 'dispute', 'other', name='webhooktopic', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('object_id', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('reference', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=True),
    sa.Column('key', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=True),
    sa.Column('body_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('state', sa.Enum('received', 'handled', 'ignored', 'dead', name='webhookstate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('due_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('last_error', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.Column('occurred_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('received_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('handled_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.CheckConstraint('attempts >= 0', name=op.f('ck_webhook_event_attempts_not_negative')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_webhook_event')),
    sa.UniqueConstraint('provider', 'event_id', name='one_row_per_event')
    )
    op.create_index('ix_webhook_event_due', 'webhook_event', ['due_at'], unique=False, postgresql_where="state = 'received'")
    op.create_index('ix_webhook_event_reference', 'webhook_event', ['provider', 'reference'], unique=False)
    op.create_table('balance_entry',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('provider', sqlmodel.sql.sqltypes.AutoString(length=32), nullable=False),
    sa.Column('line_id', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('kind', sa.Enum('charge', 'refund', 'refund_failed', 'dispute', 'dispute_reversed', 'fee', 'payout', 'other', name='balancekind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('payment_id', sa.Uuid(), nullable=True),
    sa.Column('object_id', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=True),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('fee_amount', sa.BigInteger(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('run_id', sa.Uuid(), nullable=False),
    sa.Column('occurred_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_balance_entry_payment_id_payment')),
    sa.ForeignKeyConstraint(['run_id'], ['reconciliation_run.id'], name=op.f('fk_balance_entry_run_id_reconciliation_run')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_balance_entry')),
    sa.UniqueConstraint('provider', 'line_id', name='one_row_per_line')
    )
    op.create_index(op.f('ix_balance_entry_payment_id'), 'balance_entry', ['payment_id'], unique=False)
    op.create_index('ix_balance_entry_provider_occurred_at', 'balance_entry', ['provider', 'occurred_at'], unique=False)
    op.create_index(op.f('ix_balance_entry_run_id'), 'balance_entry', ['run_id'], unique=False)
    op.create_table('dispute',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('payment_id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('provider', sqlmodel.sql.sqltypes.AutoString(length=32), nullable=False),
    sa.Column('provider_dispute_id', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('state', sa.Enum('needs_response', 'under_review', 'won', 'lost', name='disputestate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('reason', sqlmodel.sql.sqltypes.AutoString(length=100), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('withdrawn_amount', sa.BigInteger(), nullable=False),
    sa.Column('moves', sa.Integer(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('evidence', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('evidence_due_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('evidence_submitted_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('submitted_by', sa.Uuid(), nullable=True),
    sa.Column('opened_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('updated_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('closed_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.CheckConstraint('amount > 0', name=op.f('ck_dispute_amount_positive')),
    sa.CheckConstraint('withdrawn_amount BETWEEN 0 AND amount', name=op.f('ck_dispute_withdrawn_within_amount')),
    sa.ForeignKeyConstraint(['order_id'], ['orders.id'], name=op.f('fk_dispute_order_id_orders')),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_dispute_payment_id_payment')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_dispute')),
    sa.UniqueConstraint('provider', 'provider_dispute_id', name='one_row_per_dispute')
    )
    op.create_index('ix_dispute_open', 'dispute', ['evidence_due_at'], unique=False, postgresql_where="state = 'needs_response'")
    op.create_index(op.f('ix_dispute_order_id'), 'dispute', ['order_id'], unique=False)
    op.create_index(op.f('ix_dispute_payment_id'), 'dispute', ['payment_id'], unique=False)
    op.create_table('reconciliation_difference',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('run_id', sa.Uuid(), nullable=False),
    sa.Column('kind', sa.Enum('missing_here', 'missing_there', 'amount', 'fee', 'currency', 'duplicated', name='differencekind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('line_id', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=True),
    sa.Column('object_id', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=True),
    sa.Column('payment_id', sa.Uuid(), nullable=True),
    sa.Column('expected_amount', sa.BigInteger(), nullable=True),
    sa.Column('actual_amount', sa.BigInteger(), nullable=True),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('detail', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_reconciliation_difference_payment_id_payment')),
    sa.ForeignKeyConstraint(['run_id'], ['reconciliation_run.id'], name=op.f('fk_reconciliation_difference_run_id_reconciliation_run'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_reconciliation_difference'))
    )
    op.create_index(op.f('ix_reconciliation_difference_payment_id'), 'reconciliation_difference', ['payment_id'], unique=False)
    op.create_index('ix_reconciliation_difference_run_id_id', 'reconciliation_difference', ['run_id', 'id'], unique=False)


def downgrade() -> None:
    op.drop_column('stored_method', 'removed_at')
    op.drop_index('ix_reconciliation_difference_run_id_id', table_name='reconciliation_difference')
    op.drop_index(op.f('ix_reconciliation_difference_payment_id'), table_name='reconciliation_difference')
    op.drop_table('reconciliation_difference')
    op.drop_index(op.f('ix_dispute_payment_id'), table_name='dispute')
    op.drop_index(op.f('ix_dispute_order_id'), table_name='dispute')
    op.drop_index('ix_dispute_open', table_name='dispute', postgresql_where="state = 'needs_response'")
    op.drop_table('dispute')
    op.drop_index(op.f('ix_balance_entry_run_id'), table_name='balance_entry')
    op.drop_index('ix_balance_entry_provider_occurred_at', table_name='balance_entry')
    op.drop_index(op.f('ix_balance_entry_payment_id'), table_name='balance_entry')
    op.drop_table('balance_entry')
    op.drop_index('ix_webhook_event_reference', table_name='webhook_event')
    op.drop_index('ix_webhook_event_due', table_name='webhook_event', postgresql_where="state = 'received'")
    op.drop_table('webhook_event')
    op.drop_table('reconciliation_run')
