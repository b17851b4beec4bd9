"""A client's connection, and the line that each call leaves in its log."""

import json
import time
from datetime import timedelta

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from intents import READ_COMMITTED

# SQLSTATEs, or classes of them, by which the connection or the server is lost
LOST = ("08", "57P")
# that are to be tried again as a whole: no answer yet, or no room
AGAIN = ("40001", "40P01", "OI002", "55P03", "53100", "53200", "53300", "58030", "25006")
# that end the attempt and are answers
ANSWERS = ("OI001", "OI003", "OI004", "OI005")

# how often to look for a transaction that may have been prepared
LOOKS = 20


# what sessions have it at: what commits through us has to be durable all the same
SYNCHRONOUS_COMMIT = ("on", "off", "local")


class Lost(Exception):
    """Connection lost, or an error that says: try the whole transaction again."""


class Stop(Exception):
    """There is no use in going on with this intent."""


def sqlstate(error):
    """The error's SQLSTATE, None if the server did not give one."""
    return error.diag.sqlstate or error.sqlstate


def is_lost(error, connection):
    """Has the connection gone?"""
    state = sqlstate(error)
    if state is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return state.startswith(LOST) or connection.closed or connection.broken


class Log:
    """A client's lines, flushed one by one: who is killed has written what he did."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def write(self, line):
        """Append a line."""
        self.file.write(json.dumps(line, default=str) + "\n")
        self.file.flush()


class Session:
    """A connection that is made again after it was lost."""

    def __init__(self, conninfo, client, log):
        self.conninfo = conninfo
        self.client = client
        self.log = log
        self.connection = None
        self.connections = 0
        self.transactions = 0
        self.orphans = {}       # names of transactions that may be prepared -> looks left

    def get(self):
        """The open connection; Lost where there is none to be had."""
        if self.connection is None:
            try:
                self.connection = psycopg.connect(self.conninfo, autocommit=True)
                setting = SYNCHRONOUS_COMMIT[(self.client + self.connections) % 3]
                self.connection.execute(f"SET synchronous_commit = {setting}")
            except psycopg.Error as error:
                raise Lost(str(error)) from error
            self.connections += 1
        return self.connection

    def drop(self):
        """Forget the connection."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def look_for_orphans(self):
        """Finish transactions of which nobody told whether they were prepared."""
        for gid, left in list(self.orphans.items()):
            try:
                self.get().execute(finishing(gid))
            except psycopg.errors.UndefinedObject:
                self.orphans[gid] = left - 1
                if left > 1:
                    continue
            except (psycopg.Error, Lost):
                self.drop()
                continue
            del self.orphans[gid]

    def name(self):
        """What tells this connection from others."""
        return f"{self.client}.{self.connections}"


class Transaction:
    """The calls of one transaction; their lines are written when its fate is known."""

    def __init__(self, session, step, attempt, single=False):
        self.session = session
        self.step = step
        self.attempt = attempt
        self.single = (single and step.isolation == READ_COMMITTED and not step.two_phase
                       and not step.savepoint)
        self.lines = []
        self.settled = True     # its fate is not left to others
        self.connection = session.get()
        session.transactions += 1
        self.number = f"{session.client}.{session.transactions}"

    def begin(self):
        """Open it, but for a single call that is its own."""
        if not self.single:
            self._send(f"BEGIN ISOLATION LEVEL {self.step.isolation}")

    def call(self, function, **args):
        """Call a public function; its row.  Raises Lost, or what the server says."""
        line = {"t0": time.monotonic(), "t1": None, "client": self.session.client,
                "session": self.session.name(), "iso": self.step.isolation.lower(), "call": function,
                "args": args, "intent": self.step.intent.id, "try": self.attempt,
                "retry": self.step.retry, "status": "ok", "sqlstate": None, "answer": None,
                "committed": None, "txn": None if self.single else self.number}
        self.lines.append(line)
        try:
            cursor = self.connection.execute(statement(function, args), bind(args))
            row = cursor.fetchone()
            line["answer"] = dict(zip((c.name for c in cursor.description), row))
            return line["answer"]
        except psycopg.Error as error:
            self._note(line, error)
            raise
        finally:
            line["t1"] = time.monotonic()

    def _note(self, line, error):
        """An error in a line."""
        lost = is_lost(error, self.connection)
        line.update(status="unknown" if lost else "error", sqlstate=sqlstate(error),
                    message=str(error).strip())

    def savepoint(self):
        """Set one."""
        self._send("SAVEPOINT s")

    def roll_back_to_savepoint(self):
        """What was called since then has not happened."""
        self._send("ROLLBACK TO s")
        for line in self.lines:
            line["committed"] = False

    def _send(self, command):
        self.connection.execute(command)

    def commit(self):
        """Commit or prepare it; raises where its fate is not a good one."""
        if self.step.two_phase:
            self._two_phases()
        elif not self.single:
            self._send("COMMIT")
        self.finish(True)

    def _two_phases(self):
        """Prepare it, and commit or roll it back a little later.

        The name tells whoever finds it left over what was to become of it.
        """
        decision = self.step.two_phase
        gid = f"{self.number}#{decision}"
        self.session.orphans[gid] = LOOKS
        self._send(f"PREPARE TRANSACTION '{gid}'")
        del self.session.orphans[gid]
        time.sleep(self.step.pause * 0.1)
        unsure = False
        for _ in range(200):            # somebody has to, whatever happens
            try:
                self.session.get().execute(finishing(gid))
                break
            except (psycopg.Error, Lost) as error:
                if isinstance(error, psycopg.errors.UndefinedObject):
                    unsure = True       # done by the attempt whose answer was lost, or about
                    break               # to be: the standby need not have it
                if isinstance(error, Lost) or is_lost(error, self.session.connection):
                    self.session.drop()
                time.sleep(0.1)
        else:
            self.settled = False
        if decision == "rollback":
            self.finish(False)
        elif unsure:
            self.finish(None)

    def finish(self, committed):
        """Write the lines."""
        for line in self.lines:
            if line["committed"] is None:
                line["committed"] = committed
            if committed:
                line["t_commit"] = time.monotonic() if self.settled else None
            self.session.log.write(line)
        self.lines = []

    def fail(self, error, committing):
        """After an error: what is known of the fate, and the connection ready for the next."""
        lost = is_lost(error, self.connection)
        known = not lost or not (committing or self.single)
        self.finish(False if known else None)
        if lost:
            self.session.drop()
            return
        try:
            self.connection.execute("ROLLBACK")
        except psycopg.Error:
            self.session.drop()

    def abandon(self):
        """Roll back by choice."""
        self.finish(False)
        try:
            self.connection.execute("ROLLBACK")
        except psycopg.Error:
            self.session.drop()


def finishing(gid):
    """The command that does with a prepared transaction what its name says."""
    command = "COMMIT" if gid.endswith("#commit") else "ROLLBACK"
    return f"{command} PREPARED '{gid}'"


def statement(function, args):
    """The call, by named arguments."""
    return sql.SQL("SELECT * FROM order_idempotency.{}({})").format(
        sql.Identifier(function),
        sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder(n))
                           for n in args))


def bind(args):
    """Objects as jsonb, intervals as text."""
    return {n: Jsonb(v) if isinstance(v, dict) else
            str(v) if isinstance(v, timedelta) else v for n, v in args.items()}


def run(session, step, attempt, body, single=False):
    """One attempt of a transaction: what body(transaction) returns, once it is committed.

    Raises Lost where it is to be tried again, and psycopg.Error where the server's word
    is an answer; body raises Stop to roll back for good.
    """
    transaction = Transaction(session, step, attempt, single)
    committing = False
    try:
        transaction.begin()
        if step.savepoint:
            waste(transaction)
        result = body(transaction)
        committing = True
        transaction.commit()
        return result
    except (Stop, Lost):
        transaction.abandon()
        raise
    except psycopg.Error as error:
        transaction.fail(error, committing)
        state = sqlstate(error)
        if state is None or state.startswith(LOST + AGAIN):
            raise Lost(str(error)) from error
        raise


def waste(transaction):
    """An order that never was: created behind a savepoint, and rolled back."""
    transaction.savepoint()
    transaction.call("create_order", key=f"s-{transaction.number}", amount=1, currency="EUR",
                     account="nobody")
    transaction.roll_back_to_savepoint()
