"""Read what a side left behind: its tables' rows, its published bytes."""

from check import Move, Order, Recorded
from feed import EVENT_TYPES

OURS_ORDERS = """
SELECT key, state, amount, currency, account
FROM order_idempotency.orders WHERE NOT tombstone"""

# The order's own history, not the outbox: what was committed, not what was
# to be published.  A tombstone has no event.
OURS_CHANGES = """
SELECT o.key, h.version, h.state
FROM order_idempotency.orders o, unnest(o.history) h WHERE NOT o.tombstone"""

OURS_MOVES = """
SELECT order_key, effect, debit_account, credit_account, amount, currency
FROM order_idempotency.ledger ORDER BY order_key, version"""

USUAL_ORDERS = "SELECT order_key, state, amount, currency, account FROM orders"

USUAL_CHANGES = "SELECT order_key, version, state FROM measured_changes"

USUAL_MOVES = """
SELECT order_key, 'charge', account, NULL, amount, currency FROM charges ORDER BY id"""


def observe_ours(connection, path):
    """What order_idempotency left behind."""
    return observe(connection, (OURS_ORDERS, OURS_CHANGES, OURS_MOVES), path)


def observe_usual(connection, path):
    """What the usual pattern left behind."""
    return observe(connection, (USUAL_ORDERS, USUAL_CHANGES, USUAL_MOVES), path)


def observe(connection, queries, path):
    """Run the three queries, read the file."""
    orders, changes, moves = queries
    recorded = Recorded()
    for key, *row in connection.execute(orders):
        recorded.orders[key] = Order(*row)
    for key, version, state in connection.execute(changes):
        recorded.changes.append((key, version, EVENT_TYPES.get(state, state)))
    for key, *row in connection.execute(moves):
        recorded.moves.setdefault(key, []).append(Move(*row))
    try:
        with open(path, "rb") as published:
            recorded.published = published.read()
    except FileNotFoundError:
        pass                    # nothing was published: every event is lost
    return recorded
