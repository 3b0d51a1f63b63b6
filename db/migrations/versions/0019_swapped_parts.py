"""Parts of a bundle that a change gives back"""

from alembic import op

from db.migrations.statements import statements

revision = '0019'
down_revision = '0018'
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in statements('functions_0019.sql'):
        op.execute(statement)


def downgrade() -> None:
    (before,) = (s for s in statements('functions_0006.sql') if "FUNCTION stock_swap(" in s)
    op.execute(before.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
