"""Turns"""

from alembic import op
from db.migrations.statements import statements

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in statements("functions_0012.sql"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION chat_finish")
    op.execute("DROP FUNCTION chat_begin")
