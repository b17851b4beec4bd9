"""The database of the torture run: extension, lifecycle, roles, a subscription for each sink."""

import os

from psycopg import sql
from psycopg.types.json import Jsonb

from brokers import TOPIC
from cluster import APPLICATION, DATABASE

# What fails is tried again soon, and for ever: no event is to become a dead letter.
FILE = "events.jsonl"
OPTIONS = {"from": "start", "batch_size": 100, "backoff_min": 50, "backoff_max": 1000,
           "max_attempts": 1000000}

PAID_ORDERS_CAN_BE_CANCELLED = """
BEGIN;
SELECT order_idempotency.copy_default_lifecycle();
INSERT INTO order_idempotency.lifecycle VALUES ('paid', 'cancelled', 'order.refunded', 'refund');
COMMIT"""


def create_database(cluster, version):
    """The database with the extension, and a role that may call its functions."""
    cluster.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
    cluster.execute(f"CREATE ROLE {APPLICATION} LOGIN", database="postgres")
    cluster.execute(f"CREATE EXTENSION order_idempotency {version}")
    cluster.execute(sql.SQL("SELECT order_idempotency.grant_application({})").format(
        sql.Literal(APPLICATION)))
    cluster.execute(PAID_ORDERS_CAN_BE_CANCELLED)


def subscribe(cluster, name, options, topic):
    """A server of a sink and a subscription to it, both named after the sink."""
    listed = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(k), sql.Literal(v))
                                for k, v in options.items())
    cluster.execute(sql.SQL(
        "CREATE SERVER IF NOT EXISTS {} FOREIGN DATA WRAPPER {} OPTIONS ({})").format(
            sql.Identifier(name), sql.Identifier(f"order_idempotency_{name}"), listed))
    cluster.execute("SELECT order_idempotency.create_subscription(%s, %s, NULL, %s, %s)",
                    (f"to-{name}", name, topic, Jsonb(OPTIONS)))


def subscribe_all(cluster, rundir, brokers):
    """A subscription to a file and to each broker, from the beginning of the log on.

    Version 1.0 has other ones; so this is done after the update, and again where that was
    broken off.
    """
    there = {name for name, in cluster.execute("SELECT name FROM order_idempotency.subscriptions")}
    wanted = [("file", {"path": directory(rundir), "rotate_size": "64kB"}, FILE)]
    wanted += [(broker.sink, broker.options(), TOPIC) for broker in brokers]
    for name, options, topic in wanted:
        if f"to-{name}" not in there:
            subscribe(cluster, name, options, topic)


def directory(rundir):
    """Where the sink file writes to."""
    path = os.path.join(rundir, "events")
    os.makedirs(path, exist_ok=True)
    return path


def listed(rundir, brokers):
    """The sinks for run.json."""
    yield {"sink": "file", "subscription": "to-file", "exactly_once": True,
           "path": os.path.join(directory(rundir), FILE)}
    for broker in brokers:
        yield {"sink": broker.sink, "subscription": f"to-{broker.sink}",
               "exactly_once": broker.exactly_once, **broker.consumer()}
