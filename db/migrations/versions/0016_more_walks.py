"""What the other lists walk along"""

from alembic import op
import sqlalchemy as sa

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None

LISTED = "status = 'active' AND sku IS NOT NULL"
ADDED = (
    ('ix_app_user_name_id', 'app_user', ['name', 'id'], None),
    ('ix_app_user_role_id', 'app_user', ['role', 'id'], None),
    ('ix_audit_run_failed_slot', 'audit_run', ['slot'], "violations <> '[]'::jsonb"),
    ('ix_cart_secret_sha256', 'cart', ['secret_sha256'], 'customer_id IS NULL'),
    ('ix_credit_account_code_last4_id', 'credit_account', ['code_last4', 'id'], None),
    ('ix_credit_account_inactive_id', 'credit_account', ['id'], 'NOT is_active'),
    ('ix_credit_account_kind_id', 'credit_account', ['kind', 'id'], None),
    ('ix_dispute_state_id', 'dispute', ['state', 'id'], None),
    ('ix_notification_recipient_id', 'notification', ['recipient', 'id'], None),
    ('ix_pending_action_trace_id', 'pending_action', ['trace_id'], None),
    ('ix_pending_action_waiting', 'pending_action', ['expires_at'], "status = 'pending'"),
    ('ix_product_listed_category_price', 'product', ['category_id', 'price_amount', 'id'], LISTED),
    ('ix_product_listed_category_title', 'product', ['category_id', 'title', 'id'], LISTED),
    ('ix_reconciliation_run_provider_id', 'reconciliation_run', ['provider', 'id'], None),
    ('ix_webhook_event_reference_id', 'webhook_event', ['reference', 'id'], None),
    ('ix_webhook_event_state_id', 'webhook_event', ['state', 'id'], None),
)


def upgrade() -> None:
    for name, table, columns, where in ADDED:
        op.create_index(name, table, columns, postgresql_where=sa.text(where) if where else None)
    op.create_index('ix_app_user_name_email_trgm', 'app_user', ['name', 'email'], postgresql_using='gin',
                    postgresql_ops={'name': 'gin_trgm_ops', 'email': 'gin_trgm_ops'})
    op.drop_index('ix_webhook_event_reference', table_name='webhook_event')


def downgrade() -> None:
    op.create_index('ix_webhook_event_reference', 'webhook_event', ['provider', 'reference'])
    op.drop_index('ix_app_user_name_email_trgm', table_name='app_user')
    for name, table, _, _ in ADDED:
        op.drop_index(name, table_name=table)
