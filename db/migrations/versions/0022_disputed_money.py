"""Money that disputes hold back"""

from alembic import op
import sqlalchemy as sa

revision = '0022'
down_revision = '0021'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('payment', sa.Column('disputed_amount', sa.BigInteger(), server_default='0', nullable=False))
    op.execute("""
        UPDATE payment p SET disputed_amount = d.amount
        FROM (SELECT payment_id, sum(withdrawn_amount) AS amount FROM dispute GROUP BY payment_id) d
        WHERE d.payment_id = p.id AND d.amount > 0
    """)
    op.create_check_constraint(
        op.f('ck_payment_disputed_not_negative'), 'payment', 'disputed_amount >= 0')


def downgrade() -> None:
    op.drop_constraint(op.f('ck_payment_disputed_not_negative'), 'payment', type_='check')
    op.drop_column('payment', 'disputed_amount')
