"""The functions of order_idempotency, as this program calls them."""

import os
from datetime import timedelta

from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from retry import Database, TryAgain, retry


def open_database():
    """The server, or the pooler before it.

    Through PgBouncer in transaction mode the next statement may meet another
    session, where nothing was prepared.  A threshold of None prepares nothing.
    """
    pooled = os.environ.get("POOLED") == "1"
    return Database(conninfo=os.environ["DATABASE_URL"], autocommit=True,
                    prepare_threshold=None if pooled else 5)


def query(connection, text, values):
    """Run a statement, prepared at once unless the threshold forbids it."""
    cursor = connection.cursor(row_factory=namedtuple_row)
    return cursor.execute(text, values, prepare=True)


def jsonb(value):
    """A value as jsonb.  Json would not do: no function takes type json."""
    return None if value is None else Jsonb(value)


def create_order(connection, key, amount, currency, account=None, *, payload=None,
                 pay_within=None, on_conflict="error"):
    """Create an order; the same key again gives the same answer."""
    return query(connection, """
        SELECT * FROM order_idempotency.create_order(%s, %s, %s, account => %s, payload => %s,
                                                     pay_within => %s, on_conflict => %s)
        """, (key, amount, currency, account, jsonb(payload), pay_within, on_conflict)).fetchone()


def transition_order(connection, key, to_state, request_key=None, *, on_conflict="error"):
    """Take an order to a state."""
    return query(connection, """
        SELECT * FROM order_idempotency.transition_order(%s, %s, request_key => %s,
                                                         on_conflict => %s)
        """, (key, to_state, request_key, on_conflict)).fetchone()


def get_order(connection, key):
    """All of an order, or None."""
    return query(connection, "SELECT * FROM order_idempotency.get_order(%s)", (key,)).fetchone()


def order_history(connection, key):
    """The changes of an order, oldest first."""
    return query(connection, "SELECT * FROM order_idempotency.order_history(%s)", (key,)).fetchall()


def claim_key(connection, key, request=None, *, scope="default", lease=None):
    """Claim a key.  With a lease, a timedelta, the work may follow after the commit."""
    return query(connection, """
        SELECT * FROM order_idempotency.claim_key(%s, %s, scope => %s, lease => %s)
        """, (key, jsonb(request), scope, lease)).fetchone()


def complete_key(connection, key, response=None, *, scope="default", attempt=None):
    """Store the response of the work that a claim was for; returns the outcome."""
    return query(connection, """
        SELECT order_idempotency.complete_key(%s, %s, scope => %s, attempt => %s) AS outcome
        """, (key, jsonb(response), scope, attempt)).fetchone().outcome


def try_transition(connection, key, to_state, request_key):
    """Take an order to a state in a transaction that has other work to commit.

    It is to commit whatever comes of this.  What is for good is an outcome.  The
    order in another transaction's hands is not: to commit that would be to forget
    the change.
    """
    order = transition_order(connection, key, to_state, request_key, on_conflict="report")
    if order.outcome == "in_progress":
        raise TryAgain(f"order {key} is in progress")
    return order


def pay(database, provider, key, amount, lease=timedelta(seconds=30)):
    """Pay for an order by a provider outside of the database.

    The claim is committed first, with a lease.  A worker that dies leaves it to the
    next one, which asks the provider under the same key, so that the customer is
    charged once.  Returns the claim, what came of completing it, and the order.

    A claim whose answer was lost is in_progress for its own worker too, until its
    lease is over.  Where the order was cancelled meanwhile, its outcome is illegal:
    refund.
    """
    claim = retry(database, lambda connection: claim_key(
        connection, key, {"amount": amount}, scope="payments", lease=lease))
    if claim.outcome != "claimed":
        return claim, None, None

    charge = provider.charge(key, amount)

    def finish(connection):
        with connection.transaction():
            completed = complete_key(connection, key, charge, scope="payments",
                                     attempt=claim.attempt)
            if completed == "stale":            # another worker's now
                return claim, completed, None
            return claim, completed, try_transition(connection, key, "paid", charge["id"])

    return retry(database, finish)


def receive(database, delivery):
    """Take in a webhook: the inbox claim and its effect commit together.

    Returns the claim's outcome and the response.  An event that the order cannot
    follow is recorded as that; raising would have it sent for ever.  One that overtook
    its order raises, and is to be sent again.
    """
    def take(connection):
        with connection.transaction():
            connection.execute("SET LOCAL order_idempotency.in_flight_wait = '1s'")
            claim = claim_key(connection, delivery["id"], delivery, scope="webhooks")
            if claim.outcome != "claimed":
                return claim.outcome, claim.response
            order = try_transition(connection, delivery["order"], delivery["state"],
                                   delivery["id"])
            if order.outcome == "missing":
                raise LookupError(f"there is no order {delivery['order']}")
            response = {"outcome": order.outcome}
            complete_key(connection, delivery["id"], response, scope="webhooks")
            return claim.outcome, response

    return retry(database, take)
