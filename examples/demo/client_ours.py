"""The client of order_idempotency: one SQL function call for each request.

    client_ours.py CONNINFO

There is nothing else to it: the call is the transaction, and key, order,
ledger row and event commit with it or not at all.  The client's role has
been given the extension's functions by grant_application, no table.
"""

import sys

import psycopg
from psycopg.types.json import Jsonb

from client import serve, sqlstate
from feed import CANCEL, COMPLETE, CREATE, PAY

CREATE_ORDER = "SELECT outcome FROM order_idempotency.create_order(%s, %s, %s, %s, %s)"
TRANSITION_ORDER = ("SELECT outcome FROM order_idempotency.transition_order("
                    "%s, %s, request_key => %s)")
CANCEL_ORDER = ("SELECT outcome FROM order_idempotency.cancel_order("
                "%s, 'withdrawn by the customer', request_key => %s, if_missing => %s)")

# Errors that are answers.
OUTCOMES = {"OI001": "mismatch", "OI003": "illegal", "OI004": "missing",
            "OI005": "refused"}


def statement(request):
    """The call that carries out a request, and its arguments."""
    if request.op == CREATE:
        return CREATE_ORDER, (request.order, request.amount, request.currency,
                              request.account, Jsonb(request.payload))
    if request.op == PAY:
        return TRANSITION_ORDER, (request.order, "paid", request.request_key)
    if request.op == COMPLETE:
        return TRANSITION_ORDER, (request.order, "completed", request.request_key)
    assert request.op == CANCEL
    return CANCEL_ORDER, (request.order, request.request_key, request.if_missing)


def handle(connection, request):
    """Carry out one request; what came of it."""
    try:
        return connection.execute(*statement(request)).fetchone()[0]
    except psycopg.Error as error:
        outcome = OUTCOMES.get(sqlstate(error))
        if outcome is None:
            raise
        return outcome


if __name__ == "__main__":
    serve(handle, sys.argv[1])
