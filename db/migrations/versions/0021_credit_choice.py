"""Credit that was taken off a cart"""

from alembic import op
import sqlalchemy as sa

from db.migrations.statements import statements

revision = '0021'
down_revision = '0020'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('cart_credit', sa.Column('is_chosen', sa.Boolean(), server_default='true', nullable=False))
    for statement in statements('functions_0021.sql'):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DELETE FROM cart_credit WHERE NOT is_chosen")
    (before,) = (s for s in statements('functions_0020.sql') if "FUNCTION cart_merge(" in s)
    op.execute(before)
    op.drop_column('cart_credit', 'is_chosen')
