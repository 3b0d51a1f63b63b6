"""Refunds and credit"""

from alembic import op
import sqlalchemy as sa
import sqlmodel
from sqlalchemy.dialects import postgresql
import db.types
from db.migrations.statements import set_values, statements

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

STATES_BEFORE = ['pending', 'succeeded', 'failed']
STATES = ['awaiting_approval', 'rejected', *STATES_BEFORE]


def upgrade() -> None:
    op.add_column('payment', sa.Column('refunding_amount', sa.BigInteger(), server_default='0', nullable=False))
    op.create_check_constraint(
        op.f('ck_payment_refunding_within_captured'), 'payment',
        'refunding_amount >= 0 AND refunded_amount + refunding_amount <= captured_amount')
    op.create_index('ix_payment_attempt_open', 'payment_attempt', ['started_at'], unique=False, postgresql_where="state IN ('started', 'unknown')")
    for table in ('refund', 'refund_part'):
        set_values(table, 'state', 'refundstate', STATES)
    op.add_column('refund', sa.Column('decided_by', sa.Uuid(), nullable=True))
    op.create_index('ix_refund_created_at_id', 'refund', ['created_at', 'id'], unique=False)
    op.add_column('refund_part', sa.Column('attempt_number', sa.Integer(), server_default='0', nullable=False))
    op.add_column('refund_part', sa.Column('credit_account_id', sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f('fk_refund_part_credit_account_id_credit_account'), 'refund_part', 'credit_account',
        ['credit_account_id'], ['id'])
    op.create_table('credit_hold',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('account_id', sa.Uuid(), nullable=False),
    sa.Column('authorized_amount', sa.BigInteger(), nullable=False),
    sa.Column('captured_amount', sa.BigInteger(), nullable=False),
    sa.Column('released_amount', sa.BigInteger(), nullable=False),
    sa.Column('refunded_amount', sa.BigInteger(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.CheckConstraint('authorized_amount > 0', name=op.f('ck_credit_hold_authorized_positive')),
    sa.CheckConstraint('captured_amount >= 0 AND released_amount >= 0 AND captured_amount + released_amount <= authorized_amount', name=op.f('ck_credit_hold_within_authorized')),
    sa.CheckConstraint('refunded_amount BETWEEN 0 AND captured_amount', name=op.f('ck_credit_hold_refunded_within_captured')),
    sa.ForeignKeyConstraint(['account_id'], ['credit_account.id'], name=op.f('fk_credit_hold_account_id_credit_account')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_credit_hold'))
    )
    op.create_index(op.f('ix_credit_hold_account_id'), 'credit_hold', ['account_id'], unique=False)
    op.create_table('credit_call',
    sa.Column('key', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('kind', sqlmodel.sql.sqltypes.AutoString(length=16), nullable=False),
    sa.Column('hold_id', sa.Uuid(), nullable=True),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('decline_code', sqlmodel.sql.sqltypes.AutoString(length=100), nullable=True),
    sa.Column('occurred_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['hold_id'], ['credit_hold.id'], name=op.f('fk_credit_call_hold_id_credit_hold')),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_credit_call'))
    )
    op.add_column('cart', sa.Column('uses_credit', sa.Boolean(), server_default='false', nullable=False))
    op.create_table('cart_credit',
    sa.Column('cart_id', sa.Uuid(), nullable=False),
    sa.Column('account_id', sa.Uuid(), nullable=False),
    sa.Column('seen_amount', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['account_id'], ['credit_account.id'], name=op.f('fk_cart_credit_account_id_credit_account')),
    sa.ForeignKeyConstraint(['cart_id'], ['cart.id'], name=op.f('fk_cart_credit_cart_id_cart'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('cart_id', 'account_id', name=op.f('pk_cart_credit'))
    )
    op.create_table('credit_lookup',
    sa.Column('caller', sqlmodel.sql.sqltypes.AutoString(length=100), nullable=False),
    sa.Column('window_start', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('count', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('caller', name=op.f('pk_credit_lookup'))
    )
    for statement in statements("functions_0005.sql"):
        op.execute(statement)


def downgrade() -> None:
    for function in ('credit_refund', 'credit_void', 'credit_capture', 'credit_authorize', 'credit_answered', 'credit_answer'):
        op.execute(f'DROP FUNCTION {function}')
    op.drop_table('credit_lookup')
    op.drop_table('cart_credit')
    op.drop_column('cart', 'uses_credit')
    op.drop_table('credit_call')
    op.drop_index(op.f('ix_credit_hold_account_id'), table_name='credit_hold')
    op.drop_table('credit_hold')
    op.drop_constraint(op.f('fk_refund_part_credit_account_id_credit_account'), 'refund_part', type_='foreignkey')
    op.drop_column('refund_part', 'credit_account_id')
    op.drop_column('refund_part', 'attempt_number')
    op.drop_index('ix_refund_created_at_id', table_name='refund')
    op.drop_column('refund', 'decided_by')
    for table in ('refund_part', 'refund'):
        set_values(table, 'state', 'refundstate', STATES_BEFORE)
    op.drop_index('ix_payment_attempt_open', table_name='payment_attempt', postgresql_where="state IN ('started', 'unknown')")
    op.drop_constraint(op.f('ck_payment_refunding_within_captured'), 'payment', type_='check')
    op.drop_column('payment', 'refunding_amount')
