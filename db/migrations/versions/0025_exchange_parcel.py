"""The parcel of an exchange's replacements, known before it leaves"""

from alembic import op
import sqlalchemy as sa

revision = '0025'
down_revision = '0024'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('order_exchange', sa.Column('carrier', sa.String(length=64), server_default='', nullable=False))
    op.add_column('order_exchange', sa.Column('tracking_number', sa.String(length=100), server_default='', nullable=False))


def downgrade() -> None:
    op.drop_column('order_exchange', 'tracking_number')
    op.drop_column('order_exchange', 'carrier')
