"""Edits, returns and exchanges of placed orders"""

from alembic import op
import sqlalchemy as sa
import sqlmodel
from sqlalchemy.dialects import postgresql
import db.types
from db.migrations.statements import statements

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('aftersales_policy',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('item_edits_max', sa.Integer(), nullable=True),
    sa.Column('payment_changes_max', sa.Integer(), nullable=True),
    sa.Column('requests_max', sa.Integer(), nullable=True),
    sa.Column('item_edit_closes', sa.Boolean(), nullable=False),
    sa.Column('refunds_to_any_method', sa.Boolean(), nullable=False),
    sa.Column('return_window_days', sa.Integer(), nullable=True),
    sa.Column('cancel_reasons', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.CheckConstraint('id = 1', name=op.f('ck_aftersales_policy_one_row')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_aftersales_policy'))
    )
    op.create_table('customer_address',
    sa.Column('customer_id', sa.Uuid(), nullable=False),
    sa.Column('postal_code', sqlmodel.sql.sqltypes.AutoString(length=20), nullable=False),
    sa.Column('address', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('updated_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['app_user.id'], name=op.f('fk_customer_address_customer_id_app_user'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('customer_id', name=op.f('pk_customer_address'))
    )
    op.create_index('ix_customer_address_postal_code', 'customer_address', ['postal_code'], unique=False)
    op.create_table('fulfillment',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('state', sa.Enum('shipped', 'delivered', 'cancelled', name='fulfillmentstate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('carrier', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('tracking_number', sqlmodel.sql.sqltypes.AutoString(length=100), nullable=False),
    sa.Column('shipped_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('delivered_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['order_id'], ['orders.id'], name=op.f('fk_fulfillment_order_id_orders')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_fulfillment'))
    )
    op.create_index(op.f('ix_fulfillment_order_id'), 'fulfillment', ['order_id'], unique=False)
    op.create_index(op.f('ix_fulfillment_tracking_number'), 'fulfillment', ['tracking_number'], unique=False)
    op.create_table('fulfillment_line',
    sa.Column('fulfillment_id', sa.Uuid(), nullable=False),
    sa.Column('line_id', sa.Uuid(), nullable=False),
    sa.Column('sku', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.CheckConstraint('quantity > 0', name=op.f('ck_fulfillment_line_quantity_positive')),
    sa.ForeignKeyConstraint(['fulfillment_id'], ['fulfillment.id'], name=op.f('fk_fulfillment_line_fulfillment_id_fulfillment'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('fulfillment_id', 'line_id', 'sku', name=op.f('pk_fulfillment_line'))
    )
    op.create_table('order_edit',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('kind', sa.Enum('items', 'address', 'payment', name='editkind', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('state', sa.Enum('pending', 'applied', 'failed', name='editstate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('request_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('method_id', sa.Uuid(), nullable=True),
    sa.Column('difference_amount', sa.BigInteger(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('payment_id', sa.Uuid(), nullable=True),
    sa.Column('refund_id', sa.Uuid(), nullable=True),
    sa.Column('before', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('after', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('failure', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=False),
    sa.Column('requested_by', sa.Uuid(), nullable=True),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['method_id'], ['stored_method.id'], name=op.f('fk_order_edit_method_id_stored_method')),
    sa.ForeignKeyConstraint(['order_id'], ['orders.id'], name=op.f('fk_order_edit_order_id_orders')),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_order_edit_payment_id_payment')),
    sa.ForeignKeyConstraint(['refund_id'], ['refund.id'], name=op.f('fk_order_edit_refund_id_refund')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_order_edit'))
    )
    op.create_index('ix_order_edit_order_id_id', 'order_edit', ['order_id', 'id'], unique=False)
    op.create_index('uq_order_edit_pending', 'order_edit', ['order_id'], unique=True, postgresql_where="state = 'pending'")
    op.create_table('order_exchange',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('state', sa.Enum('requested', 'received', 'completed', 'cancelled', name='requeststate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('request_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('method_id', sa.Uuid(), nullable=True),
    sa.Column('difference_amount', sa.BigInteger(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('reason', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.Column('payment_id', sa.Uuid(), nullable=True),
    sa.Column('refund_id', sa.Uuid(), nullable=True),
    sa.Column('requested_by', sa.Uuid(), nullable=True),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['method_id'], ['stored_method.id'], name=op.f('fk_order_exchange_method_id_stored_method')),
    sa.ForeignKeyConstraint(['order_id'], ['orders.id'], name=op.f('fk_order_exchange_order_id_orders')),
    sa.ForeignKeyConstraint(['payment_id'], ['payment.id'], name=op.f('fk_order_exchange_payment_id_payment')),
    sa.ForeignKeyConstraint(['refund_id'], ['refund.id'], name=op.f('fk_order_exchange_refund_id_refund')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_order_exchange'))
    )
    op.create_index('ix_order_exchange_order_id_id', 'order_exchange', ['order_id', 'id'], unique=False)
    op.create_table('order_return',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('order_id', sa.Uuid(), nullable=False),
    sa.Column('state', sa.Enum('requested', 'received', 'completed', 'cancelled', name='requeststate', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('request_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('method_id', sa.Uuid(), nullable=True),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), nullable=False),
    sa.Column('reason', sqlmodel.sql.sqltypes.AutoString(length=500), nullable=False),
    sa.Column('refund_id', sa.Uuid(), nullable=True),
    sa.Column('requested_by', sa.Uuid(), nullable=True),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['method_id'], ['stored_method.id'], name=op.f('fk_order_return_method_id_stored_method')),
    sa.ForeignKeyConstraint(['order_id'], ['orders.id'], name=op.f('fk_order_return_order_id_orders')),
    sa.ForeignKeyConstraint(['refund_id'], ['refund.id'], name=op.f('fk_order_return_refund_id_refund')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_order_return'))
    )
    op.create_index('ix_order_return_order_id_id', 'order_return', ['order_id', 'id'], unique=False)
    op.create_table('order_edit_line',
    sa.Column('edit_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('line_id', sa.Uuid(), nullable=False),
    sa.Column('sku', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('unit_price_amount', sa.BigInteger(), nullable=False),
    sa.Column('new_sku', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('new_unit_price_amount', sa.BigInteger(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.CheckConstraint('quantity > 0', name=op.f('ck_order_edit_line_quantity_positive')),
    sa.ForeignKeyConstraint(['edit_id'], ['order_edit.id'], name=op.f('fk_order_edit_line_edit_id_order_edit'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('edit_id', 'position', name=op.f('pk_order_edit_line'))
    )
    op.create_table('order_exchange_line',
    sa.Column('exchange_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('line_id', sa.Uuid(), nullable=False),
    sa.Column('sku', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('unit_price_amount', sa.BigInteger(), nullable=False),
    sa.Column('new_sku', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('new_unit_price_amount', sa.BigInteger(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.CheckConstraint('quantity > 0', name=op.f('ck_order_exchange_line_quantity_positive')),
    sa.ForeignKeyConstraint(['exchange_id'], ['order_exchange.id'], name=op.f('fk_order_exchange_line_exchange_id_order_exchange'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('exchange_id', 'position', name=op.f('pk_order_exchange_line'))
    )
    op.create_table('order_return_line',
    sa.Column('return_id', sa.Uuid(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('line_id', sa.Uuid(), nullable=False),
    sa.Column('sku', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('unit_price_amount', sa.BigInteger(), nullable=False),
    sa.Column('quantity', sa.Integer(), nullable=False),
    sa.Column('restocked_quantity', sa.Integer(), nullable=False),
    sa.CheckConstraint('quantity > 0', name=op.f('ck_order_return_line_quantity_positive')),
    sa.CheckConstraint('restocked_quantity BETWEEN 0 AND quantity', name=op.f('ck_order_return_line_restocked_within_returned')),
    sa.ForeignKeyConstraint(['return_id'], ['order_return.id'], name=op.f('fk_order_return_line_return_id_order_return'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('return_id', 'position', name=op.f('pk_order_return_line'))
    )
    op.add_column('refund_part', sa.Column('method_id', sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f('fk_refund_part_method_id_stored_method'), 'refund_part', 'stored_method', ['method_id'], ['id'])
    for statement in statements("functions_0006.sql"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION stock_swap(uuid, uuid, text[], integer[], uuid, timestamptz)")
    op.execute("DROP FUNCTION stock_inherit(uuid, uuid)")
    op.execute("DROP FUNCTION stock_give_up(uuid, text[], integer[], uuid, timestamptz)")
    op.execute("DROP FUNCTION stock_lock(uuid, text[])")
    op.drop_constraint(op.f('fk_refund_part_method_id_stored_method'), 'refund_part', type_='foreignkey')
    op.drop_column('refund_part', 'method_id')
    op.drop_table('order_return_line')
    op.drop_table('order_exchange_line')
    op.drop_table('order_edit_line')
    op.drop_index('ix_order_return_order_id_id', table_name='order_return')
    op.drop_table('order_return')
    op.drop_index('ix_order_exchange_order_id_id', table_name='order_exchange')
    op.drop_table('order_exchange')
    op.drop_index('uq_order_edit_pending', table_name='order_edit', postgresql_where="state = 'pending'")
    op.drop_index('ix_order_edit_order_id_id', table_name='order_edit')
    op.drop_table('order_edit')
    op.drop_table('fulfillment_line')
    op.drop_index(op.f('ix_fulfillment_tracking_number'), table_name='fulfillment')
    op.drop_index(op.f('ix_fulfillment_order_id'), table_name='fulfillment')
    op.drop_table('fulfillment')
    op.drop_index('ix_customer_address_postal_code', table_name='customer_address')
    op.drop_table('customer_address')
    op.drop_table('aftersales_policy')
