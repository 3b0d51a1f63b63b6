"""Row-level security and the limits of agents"""

from alembic import op
import sqlalchemy as sa
import sqlmodel
from sqlalchemy.dialects import postgresql
import db.types
from db.migrations.statements import statements

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('agent_run',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('conversation_id', sa.Uuid(), nullable=True),
    sa.Column('actor_id', sa.Uuid(), nullable=True),
    sa.Column('actor_role', sqlmodel.sql.sqltypes.AutoString(length=32), nullable=False),
    sa.Column('words', sa.Text(), nullable=False),
    sa.Column('trace_id', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
    sa.Column('started_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_agent_run'))
    )
    op.create_index('ix_agent_run_actor_id_id', 'agent_run', ['actor_id', 'id'], unique=False)
    op.create_index('ix_agent_run_conversation_id', 'agent_run', ['conversation_id'], unique=False)
    op.create_index(op.f('ix_agent_run_trace_id'), 'agent_run', ['trace_id'], unique=False)
    op.create_table('agent_call',
    sa.Column('id', sa.Uuid(), nullable=False),
    sa.Column('run_id', sa.Uuid(), nullable=False),
    sa.Column('route', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('operation', sqlmodel.sql.sqltypes.AutoString(length=100), nullable=False),
    sa.Column('arguments', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('arguments_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=False),
    sa.Column('outcome', sa.Enum('started', 'done', 'waiting', 'failed', 'undone', name='calloutcome', native_enum=False, create_constraint=True, length=32), nullable=False),
    sa.Column('error_code', sqlmodel.sql.sqltypes.AutoString(length=100), nullable=True),
    sa.Column('result_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
    sa.Column('action_id', sa.Uuid(), nullable=True),
    sa.Column('inverse_arguments', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('state_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
    sa.Column('trace_id', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
    sa.Column('started_at', db.types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['run_id'], ['agent_run.id'], name=op.f('fk_agent_call_run_id_agent_run'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_agent_call'))
    )
    op.create_index(op.f('ix_agent_call_run_id'), 'agent_call', ['run_id'], unique=False)
    op.create_index(op.f('ix_agent_call_action_id'), 'agent_call', ['action_id'], unique=False)
    op.create_index(op.f('ix_agent_call_trace_id'), 'agent_call', ['trace_id'], unique=False)
    for column in (
        sa.Column('effects', postgresql.JSONB(astext_type=sa.Text()), server_default='{}', nullable=False),
        sa.Column('state_sha256', sqlmodel.sql.sqltypes.AutoString(length=64), server_default='', nullable=False),
        sa.Column('approver', sa.Enum('asker', 'other', name='approver', native_enum=False, create_constraint=True, length=32), server_default='asker', nullable=False),
        sa.Column('refund_amount', sa.BigInteger(), server_default='0', nullable=False),
        sa.Column('currency', sqlmodel.sql.sqltypes.AutoString(length=3), server_default='', nullable=False),
        sa.Column('trace_id', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
    ):
        op.add_column('pending_action', column)
        if column.server_default is not None:
            op.alter_column('pending_action', column.name, server_default=None)
    op.create_index('ix_pending_action_decided_at', 'pending_action', ['decided_at'], unique=False)
    for statement in statements('functions_0007.sql'):
        op.execute(statement)


def downgrade() -> None:
    # The policies were made from `db/row_security.py` after the migrations.
    op.execute("""
        DO $$ DECLARE found record; BEGIN
            FOR found IN SELECT schemaname, tablename, policyname FROM pg_policies
                          WHERE policyname IN ('agent', 'agent_sees') AND schemaname = current_schema() LOOP
                EXECUTE format('DROP POLICY %I ON %I.%I',
                               found.policyname, found.schemaname, found.tablename);
                EXECUTE format('ALTER TABLE %I.%I DISABLE ROW LEVEL SECURITY',
                               found.schemaname, found.tablename);
            END LOOP;
        END $$
    """)
    op.execute('DROP FUNCTION agent_owns(uuid, text)')
    op.execute('DROP FUNCTION agent_may(text)')
    op.execute('DROP FUNCTION agent_guest()')
    op.execute('DROP FUNCTION agent_key()')
    op.execute('DROP FUNCTION agent_actor()')
    op.drop_index('ix_pending_action_decided_at', table_name='pending_action')
    for name in ('trace_id', 'currency', 'refund_amount', 'approver', 'state_sha256', 'effects'):
        op.drop_column('pending_action', name)
    op.drop_table('agent_call')
    op.drop_table('agent_run')
