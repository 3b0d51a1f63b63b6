"""What lists walk along"""

from alembic import op
import sqlalchemy as sa

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None

STATES = ['status', 'payment_status', 'fulfillment_status']
ADDED = (
    ('orders', ['created_at', 'number']),
    ('orders', ['total_amount', 'number']),
    ('orders', ['customer_id', 'created_at', 'number']),
    ('orders', ['email', 'created_at', 'number']),
    ('refund', ['amount', 'id']),
    ('refund', ['state', 'created_at', 'id']),
    ('refund', ['state', 'amount', 'id']),
    ('notification', ['customer_id', 'id']),
    ('notification', ['status', 'id']),
    ('notification', ['template', 'id']),
)


def upgrade() -> None:
    for table, columns in ADDED:
        op.create_index('_'.join(['ix', table, *columns]), table, columns)
    op.create_index('ix_orders_states_created_at_number', 'orders', [*STATES, 'created_at', 'number'])
    op.create_index('ix_orders_states_total_amount_number', 'orders', [*STATES, 'total_amount', 'number'])
    op.create_index('ix_orders_guest_created_at_number', 'orders', ['guest_secret_sha256', 'created_at', 'number'],
                    postgresql_where=sa.text('customer_id IS NULL'))
    op.drop_index('ix_orders_customer_id_id', table_name='orders')
    op.drop_index('ix_orders_status_id', table_name='orders')
    op.drop_index('ix_notification_customer_id', table_name='notification')


def downgrade() -> None:
    op.create_index('ix_notification_customer_id', 'notification', ['customer_id'])
    op.create_index('ix_orders_status_id', 'orders', ['status', 'id'])
    op.create_index('ix_orders_customer_id_id', 'orders', ['customer_id', 'id'])
    for name in ('guest_created_at', 'states_total_amount', 'states_created_at'):
        op.drop_index(f'ix_orders_{name}_number', table_name='orders')
    for table, columns in ADDED:
        op.drop_index('_'.join(['ix', table, *columns]), table_name=table)
