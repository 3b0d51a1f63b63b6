"""When the invariants were checked"""

from alembic import op
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
import db.types

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('audit_run',
    sa.Column('slot', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('started_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('violations', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('slot', name=op.f('pk_audit_run'))
    )


def downgrade() -> None:
    op.drop_table('audit_run')
