"""Orders that cost nothing"""

from alembic import op

from db.migrations.statements import statements

revision = '0024'
down_revision = '0023'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f('ck_discount_percent_range'), 'discount')
    op.create_check_constraint(op.f('ck_discount_percent_range'), 'discount', 'percent BETWEEN 1 AND 100')
    for statement in statements('functions_0024.sql'):
        op.execute(statement)


def downgrade() -> None:
    # What takes the whole price off cannot be written as it was; it ends, and so takes nothing off.
    op.execute("UPDATE discount SET percent = 99, is_active = false WHERE percent = 100")
    op.drop_constraint(op.f('ck_discount_percent_range'), 'discount')
    op.create_check_constraint(op.f('ck_discount_percent_range'), 'discount', 'percent BETWEEN 1 AND 99')
    (before,) = (s for s in statements('functions_0023.sql') if 'FUNCTION checkout_prepare(' in s.split('$$')[0])
    op.execute(before.replace('CREATE FUNCTION', 'CREATE OR REPLACE FUNCTION', 1))
