"""The role that agents' transactions run in: made after migrations, and checked by the doctor."""

import hashlib
import logging

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from db import row_security
from db.row_security import ROLE

log = logging.getLogger(__name__)

_EXISTS_ALREADY = ("42710", "23505")  # duplicate_object; unique_violation, when two are at it.
_NOT_PERMITTED = "42501"
MEND = (
    f"As a superuser of the server: CREATE ROLE {ROLE} NOLOGIN; "
    f"GRANT {ROLE} TO <the user in DATABASE_URL> WITH INHERIT FALSE, SET TRUE; "
    "then run ./shopkeeper migrate."
)

_TABLES = text("""
    SELECT tablename FROM pg_tables WHERE schemaname = 'public'
    UNION ALL SELECT viewname FROM pg_views WHERE schemaname = 'public'
""")
_READY = text("SELECT to_regprocedure('public.agent_owns(uuid,text)') IS NOT NULL")
_MARK = text("SELECT obj_description('public.agent_owns(uuid,text)'::regprocedure)")
_INVOKED = text("""
    SELECT p.oid::regprocedure::text FROM pg_proc p
     WHERE p.pronamespace = 'public'::regnamespace
       AND (p.prorettype = 'trigger'::regtype OR p.proname = ANY (:names))
       AND NOT p.prosecdef AND pg_has_role(current_user, p.proowner, 'USAGE')
""")
_STATE = text("""
    SELECT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = :role) AS exists,
           coalesce((SELECT pg_has_role(current_user, oid, 'SET') FROM pg_roles
                     WHERE rolname = :role), false) AS usable,
           coalesce((SELECT bool_or(rolsuper OR rolbypassrls OR rolcanlogin) FROM pg_roles
                     WHERE rolname = :role), false) AS powerful
""")


async def install(connection: AsyncConnection) -> None:
    """Put the declared policies in place and make the role, as far as the database user may.

    Runs after every migration and does nothing when all is as declared: `ALTER TABLE` would lock.
    Without the right to create roles the policies are there and agents are refused until somebody
    makes the role; `problem` says so.
    """
    if not await connection.scalar(_READY):
        return  # The schema was taken back to before there were policies.
    # What triggers keep in step and check must not depend on what the actor may see: a counter
    # would silently miss an update, and a sum would silently balance.
    names = list(row_security.AS_OWNER)
    for function in list((await connection.execute(_INVOKED, {"names": names})).scalars()):
        await connection.execute(
            text(f"ALTER FUNCTION {function} SECURITY DEFINER SET search_path = public, pg_temp")
        )
    usable = await _ensure_role(connection)
    tables = set((await connection.execute(_TABLES)).scalars())
    wanted = row_security.statements(tables) + (row_security.grants(tables) if usable else [])
    mark = hashlib.sha256("\n".join(wanted).encode()).hexdigest()
    if await connection.scalar(_MARK) == mark:
        return
    for statement in wanted:
        await connection.execute(text(statement))
    # A mark in the database itself: it travels with dumps and clones, as the policies do.
    await connection.execute(text(f"COMMENT ON FUNCTION agent_owns(uuid, text) IS '{mark}'"))


async def _ensure_role(connection: AsyncConnection) -> bool:
    state = (await connection.execute(_STATE, {"role": ROLE})).one()
    if not state.exists:
        await _attempt(connection, f"CREATE ROLE {ROLE} NOLOGIN NOINHERIT")
        state = (await connection.execute(_STATE, {"role": ROLE})).one()
    if state.exists and not state.usable:
        await _attempt(connection, f"GRANT {ROLE} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE")
        state = (await connection.execute(_STATE, {"role": ROLE})).one()
    if not state.usable:
        log.warning("agents are off: the role %s cannot be used. %s", ROLE, MEND)
    return bool(state.exists)


async def _attempt(connection: AsyncConnection, statement: str) -> None:
    try:
        async with connection.begin_nested():
            await connection.execute(text(statement))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in (*_EXISTS_ALREADY, _NOT_PERMITTED):
            raise


async def problem(connection: AsyncConnection) -> str | None:
    """Say why agents cannot act on this database, or None when they can."""
    state = (await connection.execute(_STATE, {"role": ROLE})).one()
    if not state.exists:
        return f"the role {ROLE} does not exist"
    if not state.usable:
        return f"this database user may not SET ROLE {ROLE}"
    if state.powerful:
        return f"the role {ROLE} may log in or bypass row-level security, and must not"
    closed = await connection.scalar(
        text("SELECT NOT has_table_privilege(:role, 'orders', 'SELECT')"), {"role": ROLE}
    )
    return f"the role {ROLE} was given no tables yet" if closed else None
