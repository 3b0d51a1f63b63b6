"""Channels"""

from alembic import op
import sqlalchemy as sa
import sqlmodel
from sqlalchemy.dialects import postgresql
import db.types
from db.migrations.statements import statements

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'chat_turn',
        sa.Column('id', sa.Uuid(), nullable=False),
        sa.Column('conversation_id', sa.Uuid(), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('asked', sqlmodel.sql.sqltypes.AutoString(length=4000), nullable=False),
        sa.Column('reply', sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column('cards', postgresql.JSONB(), nullable=False),
        sa.Column('approvals', postgresql.JSONB(), nullable=False),
        sa.Column('state', sa.Enum('running', 'done', 'failed', 'cancelled', 'interrupted', name='turnstate', native_enum=False, create_constraint=True, length=32), nullable=False),
        sa.Column('channel', sqlmodel.sql.sqltypes.AutoString(length=20), nullable=False),
        sa.Column('error_code', sqlmodel.sql.sqltypes.AutoString(length=60), nullable=True),
        sa.Column('runner', sa.Integer(), nullable=True),
        sa.Column('first_event', sa.Integer(), nullable=False),
        sa.Column('cancel_requested_at', db.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column('heartbeat_at', db.types.UtcDateTime(timezone=True), nullable=True),
        sa.Column('trace_id', sqlmodel.sql.sqltypes.AutoString(length=64), nullable=True),
        sa.Column('created_at', db.types.UtcDateTime(timezone=True), nullable=False),
        sa.Column('finished_at', db.types.UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(['conversation_id'], ['conversation.id'], name=op.f('fk_chat_turn_conversation_id_conversation'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_chat_turn')),
        sa.UniqueConstraint('conversation_id', 'number', name='uq_chat_turn_number'),
    )
    op.create_index('uq_chat_turn_running', 'chat_turn', ['conversation_id'], unique=True, postgresql_where=sa.text("state = 'running'"))
    op.create_table(
        'chat_event',
        sa.Column('conversation_id', sa.Uuid(), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('turn_id', sa.Uuid(), nullable=True),
        sa.Column('name', sqlmodel.sql.sqltypes.AutoString(length=40), nullable=False),
        sa.Column('data', postgresql.JSONB(), nullable=False),
        sa.Column('occurred_at', db.types.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(['conversation_id'], ['conversation.id'], name=op.f('fk_chat_event_conversation_id_conversation'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('conversation_id', 'number', name=op.f('pk_chat_event')),
    )
    op.add_column('conversation', sa.Column('thread_key', sqlmodel.sql.sqltypes.AutoString(length=200), nullable=True))
    op.add_column('conversation', sa.Column('turn_count', sa.Integer(), server_default='0', nullable=False))
    op.add_column('conversation', sa.Column('event_count', sa.Integer(), server_default='0', nullable=False))
    op.alter_column('conversation', 'turn_count', server_default=None)
    op.alter_column('conversation', 'event_count', server_default=None)
    # What was said so far becomes turns: an entry of the shop's follows the person's it answers.
    op.execute("""
        INSERT INTO chat_turn (id, conversation_id, number, asked, reply, cards, approvals, state,
                               channel, first_event, created_at, finished_at)
        SELECT gen_random_uuid(), c.id, e.position,
               CASE WHEN e.value ->> 'role' = 'user' THEN left(e.value ->> 'text', 4000) ELSE '' END,
               CASE WHEN e.value ->> 'role' = 'user' THEN '' ELSE coalesce(e.value ->> 'text', '') END,
               coalesce(e.value -> 'cards', '[]'), coalesce(e.value -> 'approvals', '[]'),
               'done', 'sse', 1, c.updated_at, c.updated_at
        FROM conversation c, jsonb_array_elements(c.transcript) WITH ORDINALITY AS e (value, position)
    """)
    op.execute("UPDATE conversation SET turn_count = jsonb_array_length(transcript)")
    op.drop_column('conversation', 'transcript')
    op.create_index('ix_conversation_user_id_updated_at', 'conversation', ['user_id', 'updated_at'])
    op.create_index('ix_conversation_secret_sha256_updated_at', 'conversation', ['secret_sha256', 'updated_at'])
    op.create_index('uq_conversation_thread_key', 'conversation', ['user_id', 'secret_sha256', 'thread_key'], unique=True, postgresql_nulls_not_distinct=True, postgresql_where=sa.text("thread_key IS NOT NULL"))
    for statement in statements("functions_0008.sql"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP FUNCTION chat_is_orphan(integer, timestamptz)")
    op.execute("DROP FUNCTION chat_append(uuid, uuid, jsonb, timestamptz)")
    op.drop_index('uq_conversation_thread_key', table_name='conversation')
    op.drop_index('ix_conversation_secret_sha256_updated_at', table_name='conversation')
    op.drop_index('ix_conversation_user_id_updated_at', table_name='conversation')
    op.add_column('conversation', sa.Column('transcript', postgresql.JSONB(), server_default='[]', nullable=False))
    op.alter_column('conversation', 'transcript', server_default=None)
    op.execute("""
        UPDATE conversation c SET transcript = t.entries
        FROM (SELECT conversation_id, jsonb_agg(entry ORDER BY number, part) AS entries
              FROM (SELECT conversation_id, number, 1 AS part,
                           jsonb_build_object('role', 'user', 'text', asked, 'cards', '[]'::jsonb,
                                              'approvals', '[]'::jsonb) AS entry
                    FROM chat_turn WHERE asked <> ''
                    UNION ALL
                    SELECT conversation_id, number, 2,
                           jsonb_build_object('role', 'assistant', 'text', reply, 'cards', cards,
                                              'approvals', approvals)
                    FROM chat_turn WHERE reply <> '' OR asked = '') said
              GROUP BY conversation_id) t
        WHERE t.conversation_id = c.id
    """)
    op.drop_column('conversation', 'event_count')
    op.drop_column('conversation', 'turn_count')
    op.drop_column('conversation', 'thread_key')
    op.drop_table('chat_event')
    op.drop_table('chat_turn')
