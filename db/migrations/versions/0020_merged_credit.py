"""Credit of a cart that is merged into another"""

from alembic import op

from db.migrations.statements import statements

revision = '0020'
down_revision = '0019'
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in statements('functions_0020.sql'):
        op.execute(statement)


def downgrade() -> None:
    (before,) = (s for s in statements('functions_0002.sql') if "FUNCTION cart_merge(" in s)
    op.execute(before.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
