"""The words of what is listed, and how much of it is in each category"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from db.migrations.statements import statements

revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('search_word',
    sa.Column('word', sa.String(length=40), nullable=False),
    sa.Column('products', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('word', name=op.f('pk_search_word'))
    )
    op.create_index('ix_search_word_trgm', 'search_word', ['word'], postgresql_using='gin', postgresql_ops={'word': 'gin_trgm_ops'})
    op.create_table('catalog_change',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('changes', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_catalog_change'))
    )
    op.add_column('category', sa.Column('products', sa.Integer(), server_default='0', nullable=False))
    for statement in statements("functions_0015.sql"):
        op.execute(statement)


def downgrade() -> None:
    for event in ("inserted", "updated", "deleted"):
        op.execute(f"DROP TRIGGER product_{event} ON product")
    op.drop_column('category', 'products')
    op.drop_table('catalog_change')
    op.execute("DROP FUNCTION catalog_change_apply()")
    op.execute("DROP FUNCTION product_listed()")
    op.execute("DROP FUNCTION listed_unit(product, integer)")
    op.execute("DROP FUNCTION search_share(tsquery)")
    op.execute("DROP FUNCTION search_words(text)")
    op.drop_table('search_word')
