"""What both kinds of client share: serve requests, retry without an answer.

A client answers one request at a time.  As long as the server gives no
answer (connection lost, server starting up or shutting down, serialization
failure, deadlock, key in progress) it asks again, under the same identity.
"""

import json
import sys
import time

import psycopg

from feed import Request

# SQLSTATEs, or classes of them, that are no answer.
NO_ANSWER = ("08", "40001", "40P01", "53300", "57P01", "57P02", "57P03", "OI002")

RETRY_DELAY = 0.01              # seconds, doubled each time up to the maximum
RETRY_DELAY_MAX = 0.5


def sqlstate(error):
    """The error's SQLSTATE, None if the server did not give one."""
    return error.diag.sqlstate or error.sqlstate


def is_no_answer(error):
    """Does the error leave open whether the request was carried out?"""
    state = sqlstate(error)
    if state is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return state.startswith(NO_ANSWER)


class Connection:
    """A connection that is made again after it was lost."""

    def __init__(self, conninfo):
        self.conninfo = conninfo
        self.connection = None

    def get(self):
        """The open connection, in autocommit mode."""
        if self.connection is None:
            self.connection = psycopg.connect(self.conninfo, autocommit=True)
        return self.connection

    def recover(self):
        """Make ready for another try, whatever state an error left."""
        if self.connection is None:
            return
        if self.connection.closed or self.connection.broken:
            self.connection = None
            return
        self.connection.rollback()


def answer(handle, connection, request):
    """Handle one request until there is an answer to it."""
    tries = 0
    while True:
        tries += 1
        try:
            return {"id": request.id, "tries": tries,
                    "outcome": handle(connection.get(), request)}
        except psycopg.Error as error:
            if not is_no_answer(error):
                return {"id": request.id, "tries": tries,
                        "outcome": f"error {sqlstate(error)}", "detail": str(error)}
        recover(connection)
        time.sleep(min(RETRY_DELAY * 2 ** min(tries - 1, 10), RETRY_DELAY_MAX))


def recover(connection):
    """Recover, or connect anew where even that fails."""
    try:
        connection.recover()
    except psycopg.Error:
        connection.connection = None


def serve(handle, conninfo):
    """Answer requests from standard input until it ends."""
    connection = Connection(conninfo)
    for line in sys.stdin:
        result = answer(handle, connection, Request.from_json(line))
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
