"""Tenders, credit, refunds and stored methods"""

from alembic import op
import sqlalchemy as sa
import sqlmodel
from sqlalchemy.dialects import postgresql
import db.types
from db.migrations.statements import set_values, statements

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

# Table, column, enum, values before, values after.
ENUMS = [('cart', 'status', 'cartstatus', ['open', 'completing', 'completed'], ['open', 'completing', 'completed', 'merged']),
 ('orders',
  'payment_status',
  'paymentstatus',
  ['pending', 'authorized', 'captured', 'failed', 'voided', 'refund_pending', 'refunded'],
  ['pending',
   'requires_action',
   'authorized',
   'partially_captured',
   'captured',
   'failed',
   'voided',
   'refund_pending',
   'partially_refunded',
   'refunded']),
 ('orders',
  'fulfillment_status',
  'fulfillmentstatus',
  ['unfulfilled', 'fulfilled'],
  ['unfulfilled', 'in_progress', 'partially_fulfilled', 'fulfilled', 'delivered']),
 ('payment',
  'state',
  'paymentstate',
  ['created', 'authorized', 'captured', 'declined', 'voided', 'unknown'],
  ['created',
   'requires_action',
   'authorized',
   'captured',
   'declined',
   'voided',
   'expired',
   'unknown']),
 ('ledger_entry',
  'account',
  'account',
  ['clearing', 'revenue', 'shipping_revenue', 'tax_payable', 'refunds'],
  ['receivable',
   'clearing',
   'revenue',
   'shipping_revenue',
   'tax_payable',
   'refunds',
   'gift_card_liability',
   'store_credit_liability',
   'credit_issued',
   'fees',
   'payouts',
   'disputes'])]


def upgrade() -> None:
    op.create_table('credit_account',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('kind', sa.Enum('gift_card', 'store_credit', name='creditkind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('customer_id', sa.Uuid(), nullable=True),
    sa.Column('code_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
    sa.Column('code_last4', sqlmodel.sql.sqltypes.AutoString(length=4), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('balance_amount', sa.BigInteger(), nullable=False),
    sa.Column('held_amount', sa.BigInteger(), nullable=False),
    sa.Column('expires_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('is_active', sa.Boolean(), nullable=False),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.CheckConstraint('held_amount >= 0 AND held_amount <= balance_amount', name=op.f('ck_credit_account_no_overdraft')),
    sa.ForeignKeyConstraint(['customer_id'], ['app_user.id'], name=op.f('fk_credit_account_customer_id_app_user')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_credit_account')),
    sa.UniqueConstraint('code_sha256', name=op.f('uq_credit_account_code_sha256'))
    )
    op.create_index(op.f('ix_credit_account_customer_id'), 'credit_account', ['customer_id'], unique=False)
    op.create_table('credit_movement',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('account_id', sa.Uuid(), nullable=False),
    sa.Column('balance_delta', sa.BigInteger(), nullable=False),
    sa.Column('held_delta', sa.BigInteger(), nullable=False),
    sa.Column('key', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('reason', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.Column('reference_id', sa.Uuid(), nullable=True),
    sa.Column('actor_id', sa.Uuid(), nullable=True),
    sa.Column('occurred_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.CheckConstraint('balance_delta <> 0 OR held_delta <> 0', name=op.f('ck_credit_movement_moves')),
    sa.ForeignKeyConstraint(['account_id'], ['credit_account.id'], name=op.f('fk_credit_movement_account_id_credit_account')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_credit_movement')),
    sa.UniqueConstraint('key', name=op.f('uq_credit_movement_key'))
    )
    op.create_index('ix_credit_movement_account_id_id', 'credit_movement', ['account_id', 'id'], unique=False)
    op.create_index('ix_credit_movement_reference_id', 'credit_movement', ['reference_id'], unique=False)
    op.create_table('stored_method',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('customer_id', sa.Uuid(), nullable=False),
    sa.Column('provider', sqlmodel.sql.sqltypes.AutoString(length=32), nullable=False),
    sa.Column('token', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('kind', sa.Enum('card', 'paypal', 'credit', name='methodkind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('brand', sqlmodel.sql.sqltypes.AutoString(length=40), nullable=False),
    sa.Column('last4', sqlmodel.sql.sqltypes.AutoString(length=4), nullable=False),
    sa.Column('expires_on', sa.Date(), nullable=True),
    sa.Column('credit_account_id', sa.Uuid(), nullable=True),
    sa.Column('is_default', sa.Boolean(), nullable=False),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['credit_account_id'], ['credit_account.id'], name=op.f('fk_stored_method_credit_account_id_credit_account')),
    sa.ForeignKeyConstraint(['customer_id'], ['app_user.id'], name=op.f('fk_stored_method_customer_id_app_user'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_stored_method')),
    sa.UniqueConstraint('customer_id', 'provider', 'token', name='once')
    )
    op.create_index(op.f('ix_stored_method_credit_account_id'), 'stored_method', ['credit_account_id'], unique=False)
    op.create_table('refund',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('kind', sa.Enum('refund', 'adjustment', name='refundkind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('reason', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.Column('state', sa.Enum('pending', 'succeeded', 'failed', name='refundstate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('breakdown', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('requested_by', sa.Uuid(), nullable=True),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('lease_until', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.CheckConstraint('amount > 0', name=op.f('ck_refund_amount_positive')),
    sa.ForeignKeyConstraint(['order_id'], ['orders.id'], name=op.f('fk_refund_order_id_orders')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_refund'))
    )
    op.create_index('ix_refund_order_id_id', 'refund', ['order_id', 'id'], unique=False)
    op.create_index('ix_refund_pending', 'refund', ['created_at'], unique=False, postgresql_where="state = 'pending'")
    op.create_table('refund_part',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('refund_id', sa.Uuid(), nullable=False),
    sa.Column('payment_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('state', sa.Enum('pending', 'succeeded', 'failed', name='refundstate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('provider_reference', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=True),
    sa.Column('failure', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.CheckConstraint('amount > 0', name=op.f('ck_refund_part_amount_positive')),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_refund_part_payment_id_payment')),
    sa.ForeignKeyConstraint(['refund_id'], ['refund.id'], name=op.f('fk_refund_part_refund_id_refund'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_refund_part')),
    sa.UniqueConstraint('refund_id', 'payment_id', name='once_per_tender')
    )
    op.create_index(op.f('ix_refund_part_payment_id'), 'refund_part', ['payment_id'], unique=False)
    op.alter_column('ledger_entry', 'order_id',
               existing_type=sa.UUID(),
               nullable=True)
    op.add_column('cart', sa.Column('version', sa.Integer(), server_default='1', nullable=False))
    op.add_column('orders', sa.Column('captures_later', sa.Boolean(), server_default='false', nullable=False))
    op.add_column('orders', sa.Column('version', sa.Integer(), server_default='1', nullable=False))
    op.add_column('payment', sa.Column('position', sa.Integer(), server_default='0', nullable=False))
    op.add_column('payment', sa.Column('action', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('payment', sa.Column('expires_at', db.types.UtcDateTime(timezone=True), nullable=True))
    op.create_index('ix_payment_provider_reference', 'payment', ['provider', 'provider_reference'], unique=False)
    op.add_column('payment_attempt', sa.Column('number', sa.Integer(), server_default='1', nullable=False))
    op.add_column('payment_attempt', sa.Column('amount', sa.BigInteger(), server_default='0', nullable=False))
    op.drop_constraint(op.f('one_attempt_per_kind'), 'payment_attempt', type_='unique')
    op.create_unique_constraint('one_attempt_per_number', 'payment_attempt', ['payment_id', 'kind', 'number'])
    for table, column in (('cart', 'version'), ('orders', 'captures_later'), ('orders', 'version'), ('payment', 'position'), ('payment_attempt', 'number'), ('payment_attempt', 'amount')):
        op.alter_column(table, column, server_default=None)
    for table, column, enum, _, values in ENUMS:
        set_values(table, column, enum, values)
    # Room on each page for the versions of rows that every sale changes: such updates then touch
    # no index.
    for table in ('cart', 'orders', 'payment', 'payment_attempt', 'reservation', 'stock_level'):
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 75)")
    for statement in statements("functions_0002.sql"):
        op.execute(statement)


def downgrade() -> None:
    for function in ('checkout_place', 'checkout_confirm', 'checkout_prepare', 'cart_merge', 'cart_describe', 'cart_put', 'cart_open', 'commit_lazily', 'cart_document', 'cart_locked', 'cart_is_of', 'cart_lines', 'outbox_add'):
        op.execute(f"DROP FUNCTION {function}")
    for table, column, enum, values, _ in ENUMS:
        set_values(table, column, enum, values)
    op.drop_constraint('one_attempt_per_number', 'payment_attempt', type_='unique')
    op.create_unique_constraint(op.f('one_attempt_per_kind'), 'payment_attempt', ['payment_id', 'kind'])
    op.drop_column('payment_attempt', 'amount')
    op.drop_column('payment_attempt', 'number')
    op.drop_index('ix_payment_provider_reference', table_name='payment')
    op.drop_column('payment', 'expires_at')
    op.drop_column('payment', 'action')
    op.drop_column('payment', 'position')
    op.drop_column('cart', 'version')
    op.drop_column('orders', 'version')
    op.drop_column('orders', 'captures_later')
    op.alter_column('ledger_entry', 'order_id',
               existing_type=sa.UUID(),
               nullable=False)
    op.drop_index(op.f('ix_refund_part_payment_id'), table_name='refund_part')
    op.drop_table('refund_part')
    op.drop_index('ix_refund_pending', table_name='refund', postgresql_where="state = 'pending'")
    op.drop_index('ix_refund_order_id_id', table_name='refund')
    op.drop_table('refund')
    op.drop_index(op.f('ix_stored_method_credit_account_id'), table_name='stored_method')
    op.drop_table('stored_method')
    op.drop_index('ix_credit_movement_reference_id', table_name='credit_movement')
    op.drop_index('ix_credit_movement_account_id_id', table_name='credit_movement')
    op.drop_table('credit_movement')
    op.drop_index(op.f('ix_credit_account_customer_id'), table_name='credit_account')
    op.drop_table('credit_account')
    op.execute("DROP FUNCTION credit_movement_apply()")
    op.execute("DROP FUNCTION credit_account_guard()")
    for table in ('cart', 'orders', 'payment', 'payment_attempt', 'reservation', 'stock_level'):
        op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
