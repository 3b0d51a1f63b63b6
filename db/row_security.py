"""Which rows an agent may see and change: one table of predicates, and the SQL made from it.

Agents' transactions run in the role `shopkeeper_agent`. It owns nothing, may not log in, and sees a
row of a guarded table only when the predicate holds for the actor that `deps.core` announced to the
transaction (`agent_actor()`, `agent_guest()`, `agent_may(scope)`; migration 0007). A subquery in a
predicate is itself under row-level security, so a line or payment is visible exactly when its order
is. The application's own role owns the tables and is not restricted.

`tests/db/test_row_security.py` fails when a table is in none of the four lists below: a table that
nobody classified is closed to agents.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

ROLE: Final = "shopkeeper_agent"


@dataclass(frozen=True, slots=True)
class Guard:
    """`sees`: which rows exist for the actor. `writes`: which it may insert or leave changed; None
    is the same rows, and the empty text none at all."""

    sees: str
    writes: str | None = None


READ_ONLY: Final = ""


def _of_staff(scope: str) -> Guard:
    return Guard("true", f"agent_may('{scope}')")


def _part_of(whole: str, column: str) -> str:
    # OFFSET keeps PostgreSQL from collecting all wholes once instead of looking up each: a page of
    # refunds would read every order there is.
    return f"EXISTS (SELECT 1 FROM {whole} WHERE {whole}.id = {column} OFFSET 0)"


def _of_order(column: str = "order_id") -> Guard:
    return Guard(_part_of("orders", column))


GUARDED: Final[Mapping[str, Guard]] = {
    "app_user": Guard("id = agent_actor() OR agent_may('user:read_all')"),
    "cart": Guard(
        # A guest's cart comes along when the same browser signs in.
        "agent_owns(customer_id, secret_sha256)"
    ),
    "cart_line": Guard(_part_of("cart", "cart_id")),
    "conversation": Guard("agent_owns(user_id, secret_sha256)"),
    # An agent reads what was said; turns are the runner's to write.
    "chat_turn": Guard(_part_of("conversation", "conversation_id"), READ_ONLY),
    "pending_action": Guard("actor_id = agent_key() OR agent_may('event:read')", READ_ONLY),
    "audit_run": Guard("agent_may('event:read')", READ_ONLY),
    "agent_run": Guard("actor_id = agent_key() OR agent_may('event:read')", READ_ONLY),
    "agent_call": Guard(_part_of("agent_run", "run_id"), READ_ONLY),
    "orders": Guard(
        "agent_owns(customer_id, guest_secret_sha256) OR agent_may('order:read_all')",
    ),
    "order_line": _of_order(),
    "payment": _of_order(),
    "payment_attempt": Guard(_part_of("payment", "payment_id")),
    "ledger_entry": Guard(f"agent_may('payment:read') OR {_part_of('orders', 'order_id')}"),
    "ledger_day": Guard("agent_may('payment:read')", READ_ONLY),
    "ledger_closing": Guard("agent_may('payment:read')", READ_ONLY),
    "refund": _of_order(),
    "refund_part": Guard(_part_of("refund", "refund_id")),
    "order_edit": _of_order(),
    "order_edit_line": Guard(_part_of("order_edit", "edit_id")),
    "order_return": _of_order(),
    "order_return_line": Guard(_part_of("order_return", "return_id")),
    "order_exchange": _of_order(),
    "order_exchange_line": Guard(_part_of("order_exchange", "exchange_id")),
    "fulfillment": _of_order(),
    "fulfillment_line": Guard(_part_of("fulfillment", "fulfillment_id")),
    "search_word": Guard("true", READ_ONLY),
    # What staff decide and others read: the shop's own, but not for a shopper's agent to change.
    "aftersales_policy": _of_staff("order:manage"),
    "stock_count": _of_staff("stock:write"),
    "stock_count_line": _of_staff("stock:write"),
    "stock_rebuild": _of_staff("stock:write"),
    "stock_rule": _of_staff("stock:write"),
    "stock_transfer": _of_staff("stock:write"),
    "stock_transfer_line": _of_staff("stock:write"),
    "bundle_part": _of_staff("stock:write"),
    "postal_area": _of_staff("stock:write"),
    # Staff take orders back and change them for people: where the money goes is among it.
    "customer_address": Guard("customer_id = agent_actor() OR agent_may('order:manage')"),
    "stored_method": Guard("customer_id = agent_actor() OR agent_may('order:manage')"),
    # An account without an owner is a gift card: whoever knows its code may spend it.
    "credit_account": Guard(
        "customer_id IS NULL OR customer_id = agent_actor() OR agent_may('payment:read')"
    ),
    "credit_movement": Guard(_part_of("credit_account", "account_id")),
    # Shoppers name a code to `discount_terms`; they do not look through them.
    "discount": Guard("agent_may('promotion:write')"),
    "dispute": Guard("agent_may('payment:read')"),
    "webhook_event": Guard("agent_may('payment:read')"),
    "reconciliation_run": Guard("agent_may('payment:read')"),
    "reconciliation_difference": Guard("agent_may('payment:read')"),
    "balance_entry": Guard("agent_may('payment:read')"),
    "handover": Guard("agent_owns(user_id, secret_sha256) OR agent_may('support:write')"),
    "credit_hold": Guard(_part_of("credit_account", "account_id"), READ_ONLY),
    "cart_credit": Guard(_part_of("cart", "cart_id")),
    "credit_lookup": Guard("caller IN (agent_actor()::text, agent_guest(), 'nobody')"),
    "notification": Guard("customer_id = agent_actor() OR agent_may('notification:read_all')"),
    # An event is about an order, a user or a product; the first two are personal.
    "outbox": Guard(
        "aggregate_type IN ('product', 'stock') OR agent_may('event:read')"
        f" OR (aggregate_type = 'order' AND {_part_of('orders', 'aggregate_id')})"
        " OR (aggregate_type = 'user' AND aggregate_id = agent_actor())",
        READ_ONLY,
    ),
    "idempotency_key": Guard("scope IN ('user:' || agent_actor(), 'guest:' || agent_guest())"),
}

SHARED: Final[Mapping[str, str]] = {
    "category": "the catalogue is public",
    "product": "the catalogue is public",
    "variant": "the catalogue is public",
    "location": "the shop's own places",
    "stock_level": "counts of goods",
    "stock_movement": "counts of goods; appended by selling, too",
    "stock_item": "counts of goods",
    "stock_snapshot": "counts of goods",
    "stock_snapshot_day": "counts of goods",
    "backorder": "counts of goods",
    "reservation": "counts of goods",
    "reservation_bundle": "counts of goods",
    "reservation_line": "counts of goods",
}

# Views that ask for a scope themselves, once, where a policy would have to test every row.
ASKING: Final[Mapping[str, str]] = {"staff_user": "user:read_all"}

CLOSED: Final[Mapping[str, str]] = {
    "chat_event": "what clients follow; the runner's",
    "alembic_version": "migrations only",
    "catalog_change": "from trigger to trigger, within a transaction",
    "aggregate_counter": "advanced after the agent's part of the transaction",
    "refresh_token": "sign-in only",
    "agent_spend": "counted by the coordinator, not by an operation",
    "inbox": "the worker's",
    "event_retry": "the worker's",
    "dead_letter": "the worker's",
    "event_checkpoint": "the worker's",
    "credit_call": "the credit provider's own memory, in its own transactions",
}


# What a function does for the shop, beyond what the actor may see: numbering events, and moving
# stock that other people wait for. With the triggers, these run as the owner of the tables.
AS_OWNER: Final = (
    "discount_terms",
    "outbox_add",
    "stock_announce",
    "stock_reserve",
    "stock_allocate",
    "stock_release",
    "stock_ship",
    "stock_unship",
    "stock_extend",
    "stock_fill",
    "stock_lock",
    "stock_give_up",
    "stock_inherit",
    "stock_swap",
)


def statements(tables: Collection[str]) -> list[str]:
    """Return the SQL that brings the policies of the existing `tables` to what is declared here."""
    return [s for table in sorted(tables) if table in GUARDED for s in _guard(table)]


def grants(tables: Collection[str]) -> list[str]:
    """Return the SQL that gives the role what it may do with each of `tables`, and no more."""
    given = [
        f"GRANT {may} ON {table} TO {ROLE}" for table in sorted(tables) if (may := _may(table))
    ]
    return [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {ROLE}",
        f"GRANT USAGE ON SCHEMA public TO {ROLE}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {ROLE}",
        *given,
    ]


def _guard(table: str) -> list[str]:
    """Put the guard on `table`, whatever was there before.

    The role is compared within the predicate instead of in `TO`, so that the policies do not depend
    on the role: a dump restores, and a shop migrates, where the role is not yet made.
    """
    guard = GUARDED[table]
    others = f"current_user <> '{ROLE}'"
    sees = f"{others} OR ({guard.sees})"
    writes = sees if guard.writes is None else f"{others} OR ({guard.writes or 'false'})"
    made = [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"DROP POLICY IF EXISTS agent ON {table}",
        f"DROP POLICY IF EXISTS agent_sees ON {table}",
        f"CREATE POLICY agent ON {table} USING ({writes}) WITH CHECK ({writes})",
    ]
    if guard.writes is not None:
        # Apart, or a row that may be seen could be deleted: a deletion asks `USING` alone.
        made.append(f"CREATE POLICY agent_sees ON {table} FOR SELECT USING ({sees})")
    return made


def _may(table: str) -> str:
    if table in SHARED:
        return "SELECT, INSERT, UPDATE, DELETE"
    if table in ASKING:
        return "SELECT"
    guard = GUARDED.get(table)
    if guard is None:
        return ""
    return "SELECT" if guard.writes == READ_ONLY else "SELECT, INSERT, UPDATE, DELETE"
