"""Work on the database that is done again until there is an answer.

A call that carries an idempotency key may be made again when nobody knows what
became of it: the repeat gets the first one's answer.  So one rule does for lost
connections, serialization failures and deadlocks alike: once more, a little later.
"""

import random
import time

import psycopg

FIRST_PAUSE = 0.02              # seconds, doubled each time up to the longest
LONGEST_PAUSE = 1.0

# Connection trouble, serialization failure, deadlock, too many connections,
# lock_timeout, server going down or coming up, key held by another transaction.
AGAIN = ("08", "40001", "40P01", "53300", "55P03", "57P01", "57P02", "57P03", "OI002")


class TryAgain(Exception):
    """What work raises that wants to be done again."""


class Database:
    """One connection to the database, made anew after it was lost."""

    def __init__(self, **options):
        self.options = options
        self.connection = None

    def connect(self):
        """The connection, in working order."""
        if self.connection is None or self.connection.closed:
            self.connection = psycopg.connect(**self.options)
        return self.connection

    def close(self):
        """End the connection; the next use makes another."""
        if self.connection is not None:
            self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def may_retry(error):
    """Is the error one that another try may cure?"""
    if isinstance(error, TryAgain):
        return True
    if error.sqlstate is not None:
        return error.sqlstate.startswith(AGAIN)
    # without a word of the server: the connection broke, or could not be made
    return isinstance(error, psycopg.OperationalError)


def retry(database, work, tries=10):
    """Call work(connection) until it returns.

    It may be called several times, so whatever it does outside of the database
    must bear that.
    """
    for tried in range(1, tries + 1):
        try:
            return work(database.connect())
        except (psycopg.Error, TryAgain) as error:
            if not may_retry(error) or tried == tries:
                raise
        time.sleep(pause(tried))


def pause(tried):
    """How long to wait after so many tries: at random, so that rivals part."""
    return random.uniform(0, min(FIRST_PAUSE * 2 ** tried, LONGEST_PAUSE))
