"""Where a movement of money came from: one query from the ledger to the words that asked for it."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import text

from deps.core import UnitOfWork
from tools.errors import InvalidInput, NotFound
from tools.registry import Risk, operation

# An event carries the trace of what caused it; an approval and a call carry theirs. So the chain
# ledger → event → approval → call → run → words holds across requests, processes and restarts.
_CHAIN = text("""
    WITH about AS (
        SELECT o.id, o.number, o.email FROM orders o
         WHERE o.number = :number
            OR o.id = (SELECT order_id FROM refund WHERE id = :refund)
            OR o.number = (SELECT CAST(arguments ->> 'number' AS bigint) FROM pending_action
                            WHERE id = :action AND arguments ->> 'number' ~ '^[0-9]{1,18}$')
    ), given_back AS (
        SELECT r.* FROM refund r JOIN about ON r.order_id = about.id
         WHERE CAST(:refund AS uuid) IS NULL OR r.id = :refund
    ), facts AS (
        SELECT e.* FROM outbox e JOIN about ON e.aggregate_id = about.id
         WHERE CAST(:refund AS uuid) IS NULL OR e.payload ->> 'refund_id' = CAST(:refund AS text)
    ), approvals AS (
        SELECT a.* FROM pending_action a
         WHERE a.id = ANY(ARRAY(SELECT p.id FROM facts f JOIN pending_action p
                                    ON p.trace_id = f.trace_id
                                 UNION SELECT CAST(:action AS uuid)))
    ), calls AS (
        SELECT c.*, r.words, r.conversation_id, r.actor_id, r.actor_role
          FROM agent_call c JOIN agent_run r ON r.id = c.run_id
         WHERE c.action_id = ANY(ARRAY(SELECT id FROM approvals))
            OR c.trace_id = ANY(ARRAY(SELECT trace_id FROM facts))
    )
    SELECT (SELECT number FROM about) AS number,
      (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'words', c.words, 'conversation_id', c.conversation_id, 'run_id', c.run_id,
            'asked_by', c.actor_id, 'role', c.actor_role, 'route', c.route,
            'operation', c.operation, 'arguments', c.arguments,
            'arguments_sha256', c.arguments_sha256, 'outcome', c.outcome,
            'result_sha256', c.result_sha256, 'trace_id', c.trace_id, 'at', c.started_at,
            'approval', (SELECT jsonb_build_object(
                'action_id', a.id, 'status', a.status, 'decided_by', a.decided_by,
                'decided_at', a.decided_at, 'arguments_sha256', a.arguments_sha256,
                'state_sha256', a.state_sha256, 'trace_id', a.trace_id)
                FROM approvals a WHERE a.id = c.action_id)) ORDER BY c.id), '[]')
         FROM calls c WHERE c.operation NOT LIKE '%.get') AS calls,
      (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'refund_id', g.id, 'amount', g.amount, 'currency', g.currency, 'state', g.state,
            'reason', g.reason, 'requested_by', g.requested_by, 'at', g.created_at)
            ORDER BY g.id), '[]') FROM given_back g) AS refunds,
      (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'transaction_id', l.transaction_id, 'account', l.account, 'amount', l.amount,
            'currency', l.currency, 'at', l.occurred_at) ORDER BY l.id), '[]')
         FROM ledger_entry l
        WHERE l.order_id = (SELECT id FROM about)
          AND (CAST(:refund AS uuid) IS NULL
               OR l.transaction_id IN (SELECT p.id FROM refund_part p
                                        WHERE p.refund_id = :refund))) AS ledger,
      (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'seq', f.seq, 'type', f.type, 'by', f.actor_id, 'role', f.actor_role,
            'trace_id', f.trace_id, 'at', f.occurred_at) ORDER BY f.seq), '[]')
         FROM facts f) AS events,
      (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'id', n.id, 'template', n.template, 'recipient', n.recipient, 'subject', n.subject,
            'status', n.status, 'sent_at', n.sent_at) ORDER BY n.id), '[]')
         FROM notification n JOIN about ON n.recipient = about.email
        WHERE n.dedupe_key LIKE '%' || about.id || '%'
           OR EXISTS (SELECT 1 FROM given_back g
                       WHERE n.dedupe_key LIKE '%' || g.id || '%')) AS mails
""")


class Provenance(BaseModel):
    """All that led to what happened to an order's money, and all that came of it.

    `calls` are what agents did, each with the person's words, the desk, the arguments and their
    sha256, and the approval; empty when people did it themselves, whom `events` name.
    """

    number: int
    calls: list[dict[str, Any]]
    refunds: list[dict[str, Any]]
    ledger: list[dict[str, Any]]
    events: list[dict[str, Any]]
    mails: list[dict[str, Any]]


@operation(
    scope="event:read",
    risk=Risk.READ,
    idempotent=True,
    domain="order",
    examples=(
        "who asked for the refund of order {number}",
        "where did the refund of order {number} come from",
        "show the audit trail of order {number}",
        "who approved the refund of order {number}",
    ),
)
async def provenance(
    uow: UnitOfWork,
    number: int | None = None,
    refund_id: UUID | None = None,
    action_id: UUID | None = None,
) -> Provenance:
    """Trace money back to the words that asked for it: run, approval, ledger, events, mail.

    Args:
        number: The order's number; or one of the others.
        refund_id: Only what belongs to this refund.
        action_id: An approved action about an order.

    Raises:
        InvalidInput: None of them, or more than one, is given.
        NotFound: There is no such thing.
    """
    given = [value for value in (number, refund_id, action_id) if value is not None]
    if len(given) != 1:
        raise InvalidInput("Give number, refund_id or action_id, one of them.", field="number")
    values = {"number": number, "refund": refund_id, "action": action_id}
    if number is not None and not 0 <= number < 2**63:
        raise NotFound("No such order.")
    row = (await uow.session.execute(_CHAIN, values)).one()
    if row.number is None:
        raise NotFound("No such order.")
    return Provenance.model_validate(row._asdict())
