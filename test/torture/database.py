"""The rows of a run's database that the rules look at, as plain values."""

import json

import psycopg

ORDERS = """
SELECT o.key, o.state, o.version, o.amount, o.currency, o.account, o.tombstone, o.payload::text,
       (SELECT json_agg(json_build_array(h.version, h.state, h.event_id, h.request_key)
                        ORDER BY h.n)
        FROM unnest(o.history) WITH ORDINALITY
             AS h (version, state, at, event_id, request_key, reason, n))::text
FROM order_idempotency.orders o ORDER BY o.key"""

LEDGER = """
SELECT order_key, version, effect, debit_account, credit_account, amount, currency
FROM order_idempotency.ledger ORDER BY order_key, version, effect"""

OUTBOX = """
SELECT position, event_id::text, key, version, type, payload::text, headers::text,
       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
FROM order_idempotency.outbox ORDER BY position"""

FAILED = """
SELECT s.name, f.event_id::text, f.state
FROM order_idempotency.failed_events f
     JOIN order_idempotency.subscriptions s ON s.id = f.subscription"""

CLAIMS = """
SELECT scope, key, attempt, completed_at IS NOT NULL, response::text
FROM order_idempotency.claims WHERE key IS NOT NULL"""

STATUS = "SELECT to_json(s)::text FROM order_idempotency.subscription_status s"

LIFECYCLE = """
SELECT from_state, to_state, event_type, ledger_effect
FROM order_idempotency.current_lifecycle"""

# what holds an old version of a row, and not for a moment; standbys and autovacuum are the server's
SNAPSHOTS = """
SELECT pid, backend_type, application_name, state, backend_xmin::text, xact_start::text
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND backend_type NOT IN ('walsender', 'autovacuum worker')
  AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
  AND clock_timestamp() - xact_start > interval '5 s'
UNION ALL
SELECT NULL, 'prepared transaction', gid, NULL, NULL, prepared::text FROM pg_prepared_xacts"""

# has the log been emptied of anything?
LOG_GENERATIONS = """
SELECT COALESCE(max(generation), 1) - count(*) FROM order_idempotency.generations
WHERE store = 'outbox' HAVING count(*) > 0"""


def rows(connection, query):
    """All rows of a query, as lists."""
    return [list(row) for row in connection.execute(query)]


def loaded(table, *columns):
    """Rows with columns of JSON loaded."""
    for row in table:
        for column in columns:
            row[column] = json.loads(row[column]) if row[column] is not None else None
    return table


def read_state(dsn):
    """The rows, all of one moment, but for what tells of sessions."""
    with psycopg.connect(dsn, autocommit=True, client_encoding="utf8",
                         application_name="torture check") as connection:
        snapshots = rows(connection, SNAPSHOTS)
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        emptied = rows(connection, LOG_GENERATIONS)
        outbox = loaded(rows(connection, OUTBOX), 6)
        for row in outbox:
            row[6] = row[6] or {}
        state = {
            "orders": loaded(rows(connection, ORDERS), 8),
            "ledger": rows(connection, LEDGER),
            "outbox": outbox,
            "log_was_emptied": bool(emptied and emptied[0][0] > 0),
            "failed": rows(connection, FAILED),
            "claims": loaded(rows(connection, CLAIMS), 4),
            "status": [json.loads(row[0]) for row in rows(connection, STATUS)],
            "lifecycle": rows(connection, LIFECYCLE),
            "snapshots": snapshots,
        }
        connection.execute("COMMIT")
    return state
