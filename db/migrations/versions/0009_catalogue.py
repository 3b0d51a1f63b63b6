"""What catalogue reads need"""

from alembic import op
import sqlalchemy as sa

from db.migrations.statements import statements

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None

LISTED = sa.text("status = 'active' AND sku IS NOT NULL")


def upgrade() -> None:
    op.add_column('product', sa.Column('sku', sa.String(length=64), nullable=True))
    op.add_column('product', sa.Column('price_amount', sa.BigInteger(), nullable=True))
    op.add_column('product', sa.Column('currency', sa.String(length=3), nullable=True))
    op.add_column('product', sa.Column('variant_count', sa.Integer(), server_default='0', nullable=False))
    op.create_index('ix_product_listed_id', 'product', ['id'], postgresql_where=LISTED)
    op.create_index('ix_product_listed_price', 'product', ['price_amount', 'id'], postgresql_where=LISTED)
    op.create_index('ix_product_listed_title', 'product', ['title', 'id'], postgresql_where=LISTED)
    op.create_index('ix_variant_upper_sku', 'variant', [sa.text('upper(sku)')])
    for statement in statements("functions_0009.sql"):
        op.execute(statement)


def downgrade() -> None:
    for event in ("inserted", "updated", "deleted"):
        op.execute(f"DROP TRIGGER variant_{event} ON variant")
    op.execute("DROP FUNCTION variant_priced()")
    op.execute("DROP FUNCTION product_price_cards(uuid[])")
    op.drop_index('ix_variant_upper_sku', table_name='variant')
    for index in ("title", "price", "id"):
        op.drop_index(f'ix_product_listed_{index}', table_name='product')
    for column in ("variant_count", "currency", "price_amount", "sku"):
        op.drop_column('product', column)
