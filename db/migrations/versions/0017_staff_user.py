"""Everybody, for who may see everybody"""

from alembic import op

revision = '0017'
down_revision = '0016'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of the table's owner, so not under its policies: its own condition stands before any row.
    op.execute("""
        CREATE VIEW staff_user AS
        SELECT id, email, name, role, is_active, created_at FROM app_user
        WHERE current_user <> 'shopkeeper_agent' OR agent_may('user:read_all')
    """)


def downgrade() -> None:
    op.execute("DROP VIEW staff_user")
