"""Discount codes and tax"""

from alembic import op
import sqlalchemy as sa

from db.migrations.statements import statements
from db.types import UtcDateTime

revision = '0023'
down_revision = '0022'
branch_labels = None
depends_on = None

PREPARE = (
    "checkout_prepare(uuid, uuid, text, integer, bigint, uuid, bigint, bigint, {rate}bigint, boolean,"
    " jsonb, timestamptz, timestamptz, text, text, timestamptz)"
)


def upgrade() -> None:
    op.create_table('discount',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('code', sa.String(length=32), nullable=False),
    sa.Column('percent', sa.Integer(), nullable=True),
    sa.Column('amount', sa.BigInteger(), nullable=True),
    sa.Column('currency', sa.String(length=3), nullable=False),
    sa.Column('minimum_amount', sa.BigInteger(), nullable=False),
    sa.Column('starts_at', UtcDateTime(), nullable=True),
    sa.Column('ends_at', UtcDateTime(), nullable=True),
    sa.Column('uses_max', sa.Integer(), nullable=True),
    sa.Column('uses', sa.Integer(), nullable=False),
    sa.Column('is_active', sa.Boolean(), nullable=False),
    sa.Column('created_at', UtcDateTime(), nullable=False),
    sa.CheckConstraint("code ~ '^[A-Z0-9][A-Z0-9_-]{2,31}$'", name=op.f('ck_discount_code_is_plain')),
    sa.CheckConstraint('(percent IS NULL) <> (amount IS NULL)', name=op.f('ck_discount_percent_or_amount')),
    sa.CheckConstraint('percent BETWEEN 1 AND 99', name=op.f('ck_discount_percent_range')),
    sa.CheckConstraint('amount > 0', name=op.f('ck_discount_amount_positive')),
    sa.CheckConstraint('minimum_amount >= 0', name=op.f('ck_discount_minimum_not_negative')),
    sa.CheckConstraint('uses BETWEEN 0 AND coalesce(uses_max, uses)', name=op.f('ck_discount_uses_within_max')),
    sa.CheckConstraint('ends_at > starts_at', name=op.f('ck_discount_ends_after_start')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_discount')),
    sa.UniqueConstraint('code', name=op.f('uq_discount_code'))
    )
    op.create_index('ix_discount_is_active_id', 'discount', ['is_active', 'id'], unique=False)
    op.add_column('cart', sa.Column('discount_code', sa.String(length=32), nullable=True))
    op.create_foreign_key(op.f('fk_cart_discount_code_discount'), 'cart', 'discount', ['discount_code'], ['code'])
    op.add_column('orders', sa.Column('discount_code', sa.String(length=32), nullable=True))
    op.create_foreign_key(op.f('fk_orders_discount_code_discount'), 'orders', 'discount', ['discount_code'], ['code'])
    op.add_column('orders', sa.Column('tax_rate', sa.Integer(), server_default='0', nullable=False))
    op.create_check_constraint(op.f('ck_orders_discount_of_goods'), 'orders', 'discount_amount BETWEEN 0 AND subtotal_amount')
    op.create_check_constraint(op.f('ck_orders_tax_not_negative'), 'orders', 'tax_amount >= 0 AND tax_rate >= 0')
    op.create_index('ix_orders_discount_code', 'orders', ['discount_code'], unique=False, postgresql_where='discount_code IS NOT NULL')
    op.execute(f"DROP FUNCTION {PREPARE.format(rate='')}")
    for statement in statements('functions_0023.sql'):
        op.execute(statement)


def downgrade() -> None:
    op.execute(f"DROP FUNCTION {PREPARE.format(rate='integer, ')}")
    for file, name in (('0002', 'cart_document'), ('0021', 'cart_merge'), ('0002', 'checkout_prepare')):
        (before,) = (s for s in statements(f'functions_{file}.sql') if f"FUNCTION {name}(" in s.split('$$')[0])
        op.execute(before.replace('CREATE FUNCTION', 'CREATE OR REPLACE FUNCTION', 1))
    op.execute("DROP FUNCTION cart_discount(uuid, uuid, text, text, timestamptz)")
    op.execute("DROP TRIGGER discount_used ON orders")
    op.execute("DROP TRIGGER discount_freed ON orders")
    op.execute("DROP FUNCTION discount_count()")
    op.execute("DROP FUNCTION discount_terms(text, timestamptz)")
    op.drop_index('ix_orders_discount_code', table_name='orders')
    op.drop_constraint(op.f('ck_orders_tax_not_negative'), 'orders')
    op.drop_constraint(op.f('ck_orders_discount_of_goods'), 'orders')
    op.drop_column('orders', 'tax_rate')
    op.drop_column('orders', 'discount_code')
    op.drop_column('cart', 'discount_code')
    op.drop_table('discount')
