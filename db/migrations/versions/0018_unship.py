"""Parcels that had not left"""

from alembic import op

from db.migrations.statements import statements

revision = '0018'
down_revision = '0017'
branch_labels = None
depends_on = None


def upgrade() -> None:
    for statement in statements('functions_0018.sql'):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION stock_unship(uuid, uuid, timestamptz)")
