#!/usr/bin/python3
"""The scenario of examples/clients.md.

DATABASE_URL says where the database is; POOLED=1, that PgBouncer in transaction
mode is before it.
"""

import os
import socket
import sys
import time
import traceback
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import psycopg
from psycopg import errors

import orders
from provider import Provider
from retry import retry

PREFIX = f"python-{uuid4()}"    # each run has keys of its own


class Crash(Exception):
    """The worker's process ends here."""


def check(got, wanted):
    """Raise unless a value is as it must be."""
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def cut_connection(connection):
    """The connection breaks, as the driver sees it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
    connection.execute("SELECT 1")


def create_with_retry(database):
    """The create commits, its answer is lost, and the same call gets it."""
    seen = []

    def create(connection):
        order = orders.create_order(connection, f"{PREFIX}-create", 4990, "EUR", "alice")
        seen.append(order)
        if len(seen) == 1:
            cut_connection(connection)
        return order

    order = retry(database, create)
    check([answer.outcome for answer in seen], ["created", "replayed"])
    check(order.event_id, seen[0].event_id)


def retry_on_40001(database):
    """A rival commits after the snapshot was taken; the transaction is run again."""
    request = (f"{PREFIX}-rival", 100, "EUR")
    rivals, failures = [], []

    def create(connection):
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            before = orders.get_order(connection, request[0])
            if not rivals:
                check(before, None)
                with orders.open_database() as other:
                    rivals.append(orders.create_order(other.connect(), *request))
            try:
                return orders.create_order(connection, *request)
            except errors.SerializationFailure as failure:
                failures.append(failure.sqlstate)
                raise

    order = retry(database, create)
    check(failures, ["40001"])
    check(order.outcome, "replayed")
    check(order.event_id, rivals[0].event_id)


def check_conflict(sqlstate, outcome, detail, hint, call):
    """Make a call that cannot be done, for an error and for an outcome."""
    try:
        call(on_conflict="error")
        raise AssertionError(f"no error {sqlstate}")
    except psycopg.DatabaseError as error:
        check(error.sqlstate, sqlstate)
        check(detail in (error.diag.message_detail or ""), True)
        check(hint in (error.diag.message_hint or ""), True)
    order = call(on_conflict="report")
    check(order.outcome, outcome)
    check(detail in (order.detail or ""), True)


def outcome_and_sqlstate(database):
    """What cannot be done is an error with a SQLSTATE, or an outcome."""
    key = f"{PREFIX}-conflict"
    connection = database.connect()

    orders.create_order(connection, key, 4990, "EUR")
    check_conflict("OI001", "mismatch", "amount", "", lambda **conflict: orders.create_order(
        connection, key, 9990, "EUR", **conflict))
    check_conflict("OI003", "illegal", '"created"', '"paid"', lambda **conflict: orders.transition_order(
        connection, key, "completed", **conflict))
    check_conflict("OI004", "missing", "", "", lambda **conflict: orders.transition_order(
        connection, f"{PREFIX}-none", "paid", **conflict))


class CrashingProvider:
    """A provider that answers a worker which is no more."""

    def __init__(self, provider):
        self.provider = provider

    def charge(self, key, amount):
        """Charge, then end the worker."""
        self.provider.charge(key, amount)
        raise Crash


def pay_and_crash(provider, *payment):
    """Pay with a worker whose process ends right after the charge."""
    with orders.open_database() as worker:
        try:
            orders.pay(worker, CrashingProvider(provider), *payment)
        except Crash:
            return
    raise AssertionError("the worker did not crash")


def pay_after_lease(database, provider, *payment):
    """Pay once the lease of whoever has the claim is over; returns those claims too."""
    waiting = []
    while True:
        claim, completed, order = orders.pay(database, provider, *payment)
        if claim.outcome != "in_progress":
            return claim, completed, order, waiting
        waiting.append(claim)
        time.sleep(0.1)


def pay_with_a_lease(database):
    """A worker dies between charge and commit; the next one finishes, with one charge."""
    key = f"{PREFIX}-pay"
    payment = (key, 2500, timedelta(seconds=2))
    provider = Provider()

    orders.create_order(database.connect(), key, 2500, "EUR", "bob")
    pay_and_crash(provider, *payment)
    claim, completed, order, waiting = pay_after_lease(database, provider, *payment)
    check(claim.attempt, 2)
    for earlier in waiting:
        check(earlier.attempt, 1)
        check(claim.claimed_at >= earlier.lease_until, True)
    check((completed, order.outcome, order.state), ("completed", "applied", "paid"))
    check(len(provider.charges), 1)

    check(orders.complete_key(database.connect(), key, {}, scope="payments", attempt=1), "stale")
    again, _, _ = orders.pay(database, provider, *payment)
    check((again.outcome, again.response), ("replayed", provider.charges[0]))


def webhook_inbox(database):
    """Every delivery comes twice; its effect and its answer are the first one's.

    The first of all comes too early, and leaves nothing.
    """
    key = f"{PREFIX}-webhook"
    paid = {"id": f"{key}-1", "order": key, "state": "paid"}
    out_of_place = {"id": f"{key}-2", "order": key, "state": "cancelled"}

    try:
        orders.receive(database, paid)
        raise AssertionError("there was no order")
    except LookupError:
        pass
    orders.create_order(database.connect(), key, 700, "EUR", "carol")
    for delivery, outcome in (paid, "applied"), (out_of_place, "illegal"):
        check(orders.receive(database, delivery), ("claimed", {"outcome": outcome}))
        check(orders.receive(database, delivery), ("replayed", {"outcome": outcome}))
    check(orders.receive(database, {**paid, "state": "completed"}), ("mismatch", None))
    history = orders.order_history(database.connect(), key)
    check([step.state for step in history], ["created", "paid"])


def read_the_order(database):
    """Values come as Python's own types."""
    key = f"{PREFIX}-read"
    payload = {"sku": "bø👟k", "lines": [{"n": 1, "price": 12.5}, None]}
    amount = 2 ** 53 + 1        # which a float could not hold
    connection = database.connect()

    created = orders.create_order(connection, key, amount, "EUR", "dave", payload=payload,
                                  pay_within=timedelta(minutes=15))
    paid = orders.transition_order(connection, key, "paid", "charge")
    order = orders.get_order(connection, key)
    history = orders.order_history(connection, key)

    check(isinstance(created.event_id, UUID), True)
    check((order.amount, order.payload, order.tombstone), (amount, payload, False))
    check(order.allowed_transitions, ["completed"])
    check(isinstance(order.created_at, datetime) and order.created_at.tzinfo is not None, True)
    check([(step.version, step.state, step.event_id, step.request_key) for step in history],
          [(1, "created", created.event_id, None), (2, "paid", paid.event_id, "charge")])
    check([step.at for step in history], [order.created_at, order.changed_at])
    check(orders.get_order(connection, f"{key}-none"), None)


STEPS = {
    "create with retry": create_with_retry,
    "retry on 40001": retry_on_40001,
    "outcome and SQLSTATE": outcome_and_sqlstate,
    "pay with a lease": pay_with_a_lease,
    "webhook inbox": webhook_inbox,
    "read the order": read_the_order,
}


def run(name, step, database):
    """Run one step and tell how it went."""
    try:
        step(database)
        print(f"ok - {name}", flush=True)
        return True
    except Exception as error:  # whatever it is, the next step is to be run
        traceback.print_exc()
        print(f"not ok - {name}: {' '.join(str(error).split())}", flush=True)
        return False


def main():
    """Run all steps; returns the exit status."""
    with orders.open_database() as database:
        good = [run(name, step, database) for name, step in STEPS.items()]
    print(f"1..{len(good)}")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
