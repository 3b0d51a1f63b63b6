"""What agents cost, and conversations handed over to a person"""

from alembic import op
import sqlalchemy as sa
import sqlmodel
from sqlalchemy.dialects import postgresql
import db.types

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('agent_spend',
    sa.Column('spender', sqlmodel.sql.sqltypes.AutoString(length=80), nullable=False),
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('requests', sa.BigInteger(), nullable=False),
    sa.Column('tokens', sa.BigInteger(), nullable=False),
    sa.Column('cost_micros', sa.BigInteger(), nullable=False),
    sa.CheckConstraint('requests >= 0 AND tokens >= 0 AND cost_micros >= 0', name=op.f('ck_agent_spend_only_ever_added_to')),
    sa.PrimaryKeyConstraint('spender', 'day', name=op.f('pk_agent_spend'))
    )
    op.create_table('handover',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('number', sa.BigInteger(), sa.Identity(always=False, start=1), nullable=False),
    sa.Column('conversation_id', sa.Uuid(), nullable=True),
    sa.Column('user_id', sa.Uuid(), nullable=True),
    sa.Column('secret_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
    sa.Column('email', sqlmodel.sql.sqltypes.AutoString(length=254), nullable=True),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('transcript', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('status', sa.Enum('open', 'claimed', 'resolved', name='handover_status', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('claimed_by', sa.Uuid(), nullable=True),
    sa.Column('note', sa.Text(), nullable=False),
    sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('resolved_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['conversation_id'], ['conversation.id'], name=op.f('fk_handover_conversation_id_conversation'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_handover')),
    sa.UniqueConstraint('number', name=op.f('uq_handover_number'))
    )
    op.create_index('ix_handover_status_id', 'handover', ['status', 'id'], unique=False)
    op.create_index(op.f('ix_handover_user_id'), 'handover', ['user_id'], unique=False)
    op.create_index('uq_handover_conversation_id_unresolved', 'handover', ['conversation_id'], unique=True, postgresql_where=sa.text("status <> 'resolved'"))


def downgrade() -> None:
    op.drop_table('handover')
    op.drop_table('agent_spend')
