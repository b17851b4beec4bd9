"""The database of the torture run: extension, lifecycle, roles, a subscription for each sink."""

import os

from psycopg import sql
from psycopg.types.json import Jsonb

from brokers import TOPIC
from cluster import APPLICATION, DATABASE

# What fails is tried again soon, and for ever: no event is to become a dead letter.
OPTIONS = {"from": "start", "batch_size": 100, "backoff_min": 50, "backoff_max": 1000,
           "max_attempts": 1000000}

PAID_ORDERS_CAN_BE_CANCELLED = """
BEGIN;
SELECT order_idempotency.copy_default_lifecycle();
INSERT INTO order_idempotency.lifecycle VALUES ('paid', 'cancelled', 'order.refunded', 'refund');
COMMIT"""


def create_database(cluster):
    """The database with the extension, and a role that may call its functions."""
    cluster.execute(f"CREATE DATABASE {DATABASE}", database="postgres")
    cluster.execute(f"CREATE ROLE {APPLICATION} LOGIN", database="postgres")
    cluster.execute("CREATE EXTENSION order_idempotency")
    cluster.execute(sql.SQL("SELECT order_idempotency.grant_application({})").format(
        sql.Literal(APPLICATION)))
    cluster.execute(PAID_ORDERS_CAN_BE_CANCELLED)


def subscribe(cluster, name, options, topic):
    """A server of a sink and a subscription to it, both named after the sink."""
    listed = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(k), sql.Literal(v))
                                for k, v in options.items())
    cluster.execute(sql.SQL(
        "CREATE SERVER {} FOREIGN DATA WRAPPER {} OPTIONS ({})").format(
            sql.Identifier(name), sql.Identifier(f"order_idempotency_{name}"), listed))
    cluster.execute("SELECT order_idempotency.create_subscription(%s, %s, NULL, %s, %s)",
                    (f"to-{name}", name, topic, Jsonb(OPTIONS)))


def subscribe_all(cluster, rundir, brokers):
    """A subscription to a file and one to each broker; a list of sinks for run.json."""
    directory = os.path.join(rundir, "events")
    os.makedirs(directory, exist_ok=True)
    subscribe(cluster, "file", {"path": directory, "rotate_size": "64kB"}, "events.jsonl")
    sinks = [{"sink": "file", "subscription": "to-file", "exactly_once": True,
              "path": os.path.join(directory, "events.jsonl")}]
    for broker in brokers:
        subscribe(cluster, broker.sink, broker.options(), TOPIC)
        sinks.append({"sink": broker.sink, "subscription": f"to-{broker.sink}",
                      "exactly_once": broker.exactly_once, **broker.consumer()})
    return sinks
