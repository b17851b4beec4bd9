"""What the sections about delivery run on: a database with a log of events, the
same events in tables and in a queue of PgQ, subscriptions, and other workers."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

import cases
from measure import say
from server import ServerError, run

TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE = 300                  # seconds that anything may take
FILL = 50_000                   # orders of one transaction of the fill
PGQ_BATCH = 5000                # events from one tick of PgQ to the next: ten times its default
RATE = 2000                     # orders a second, where they come in meanwhile

ORDER = f"{cases.AMOUNT}, '{cases.CURRENCY}', '{cases.ACCOUNT}', '{cases.PAYLOAD}'"
KEY = ("format('0190%s-%s-7%s-8%s-%s', lpad(to_hex(i >> 8), 4, '0'), lpad(to_hex((i & 255) << 8), 4, '0'), "
       "substr(md5(i::text), 1, 3), substr(md5(i::text), 4, 3), substr(md5(i::text), 7, 12))")

INSERT = ("INSERT INTO queue.events (key, version, type, payload) "
          "VALUES ($1, 1, 'order.created', jsonb_build_object('key', $1, 'amount', $2, 'currency', $3, "
          "'account', $4, 'payload', $5))")
INCOMING = {
    "create_order": cases.Case("incoming", "", (cases.CREATE,), expected="created"),
    "insert": cases.Case("incoming", "", (INSERT,), expected="1 rows"),
}


@dataclass(frozen=True)
class Work:
    """What a worker did."""

    events: int
    seconds: float
    cpu: float                  # seconds, of the worker and its backend

    @property
    def rate(self):
        """Events a second."""
        return self.events / self.seconds

    @property
    def cost(self):
        """CPU microseconds an event."""
        return self.cpu / max(1, self.events) * 1e6


def cpu_of(pid):
    """Seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wait_for(what, condition, pause=0.02):
    """Ask again until the answer is true; it."""
    deadline = time.monotonic() + DEADLINE
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise ServerError(f"{what}: not in {DEADLINE} s")
        time.sleep(pause)


class Subscription:
    """A subscription and its worker."""

    def __init__(self, connection, name):
        self.connection = connection
        self.name = name
        self.pid = wait_for(f"a worker for {name}", self.find_worker)

    def find_worker(self):
        """The worker's process, once it has looked at the log."""
        row = self.connection.execute(
            "SELECT w.pid FROM order_idempotency.subscription_workers() w "
            "JOIN order_idempotency.subscriptions s ON s.id = w.subscription WHERE s.name = %s "
            "AND w.state IN ('idle', 'delivering')", [self.name]).fetchone()
        return row and row[0]

    def delivered(self):
        """How many events, and when the last ones (seconds of the server's clock)."""
        return self.connection.execute(
            "SELECT c.delivered, extract(epoch FROM c.delivered_at)::float8 "
            "FROM order_idempotency.subscription_cursors c "
            "JOIN order_idempotency.subscriptions s ON s.id = c.subscription WHERE s.name = %s",
            [self.name]).fetchone()

    def cpu(self):
        """Seconds of CPU of the worker."""
        return cpu_of(self.pid)


class Streams:
    """The database, and what runs on it."""

    DATABASE = "streams"

    def __init__(self, postgres, client, workdir, sources):
        self.postgres = postgres
        self.client = client
        self.workdir = Path(workdir)
        self.sources = Path(sources)
        self.connection = None
        self.events = 0
        self.no_pgq = None      # why there is none

    def build(self):
        """Compile the programs."""
        libraries = run(["pkg-config", "--cflags", "--libs", "libpq"]).split()
        for name in ("consumer", "wake"):
            run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", self.sources / f"{name}.c", "-o",
                 self.workdir / name, *libraries, "-lpthread"])

    def conninfo(self):
        """What libpq connects with."""
        return self.postgres.conninfo(self.DATABASE)

    def psql(self, sql):
        """Run SQL."""
        return self.postgres.psql(sql, self.DATABASE)

    def make(self):
        """Make the database, without events."""
        self.build()
        self.postgres.configure(fsync="off")
        self.postgres.psql(f"DROP DATABASE IF EXISTS {self.DATABASE}")
        self.postgres.psql(f"CREATE DATABASE {self.DATABASE}")
        files = self.workdir / "files"
        files.mkdir(exist_ok=True)
        for old in files.iterdir():
            old.unlink()
        self.psql(f"""
            CREATE EXTENSION order_idempotency;
            CREATE FOREIGN DATA WRAPPER order_idempotency_null;
            CREATE SERVER accepts FOREIGN DATA WRAPPER order_idempotency_null;
            CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file
                OPTIONS (path '{files}', fsync 'off')""")
        self.psql((self.sources / "queues.sql").read_text(encoding="utf-8"))
        self.connection = psycopg.connect(self.conninfo(), autocommit=True)

    def fill(self, events):
        """Write the log's events: one for each order."""
        say(f"writing {events:,} events")
        for first in range(0, events, FILL):
            last = min(first + FILL, events)
            self.psql(f"SELECT count(*) FROM generate_series({first + 1}, {last}) i, "
                      f"LATERAL order_idempotency.create_order({KEY}, {ORDER})")
        self.events = events

    def fill_queues(self):
        """The same events for the others, where PgQ can be had at all."""
        say("copying them for the others")
        self.psql("CALL queue.fill_events(); CALL queue.fill_jobs()")
        try:
            self.psql("CREATE EXTENSION pgq; SELECT pgq.create_queue('events')")
        except ServerError as error:
            self.no_pgq = str(error).strip().splitlines()[0]
            say(f"without PgQ: {self.no_pgq}")
        else:
            self.psql(f"CALL queue.fill_pgq({PGQ_BATCH})")

    def stock(self, table, condition=""):
        """Fill a worker's table again if half of its events are gone; leave nothing to be cleaned up."""
        left = self.connection.execute(f"SELECT count(*) FROM queue.{table} {condition}").fetchone()[0]
        if left < self.events / 2:
            self.postgres.configure(fsync="off")
            self.psql(f"CALL queue.fill_{table}()")
        self.vacuum(f"queue.{table}")

    def vacuum(self, tables=""):
        """Leave nothing to be cleaned up by who comes next."""
        self.psql(f"VACUUM (ANALYZE) {tables}")

    def ready(self, fsync):
        """Before something is measured."""
        self.postgres.configure(fsync=fsync)
        self.postgres.psql("CHECKPOINT")

    def clock(self):
        """The server's time in seconds."""
        return self.connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()[0]

    @contextlib.contextmanager
    def subscribed(self, name, server="accepts", topic=None, options=None):
        """A subscription to what comes from now on, for a while."""
        self.connection.execute(
            "SELECT order_idempotency.create_subscription(%s, %s, topic => %s, options => %s::jsonb)",
            [name, server, topic, options])
        try:
            yield Subscription(self.connection, name)
        finally:
            self.connection.execute("SELECT order_idempotency.drop_subscription(%s)", [name])

    def deliver_all(self, subscription):
        """Have it begin at the log's beginning, until it has been through what was there at first."""
        return self.deliver_from(subscription, 0, self.events)

    def deliver_last(self, subscription, events):
        """Have it deliver so many events, the last that were written by this session or before."""
        return self.deliver_from(subscription, self.position() - events, events)

    def position(self):
        """The last position in the log."""
        return self.connection.execute("SELECT last_value FROM order_idempotency.outbox_position").fetchone()[0]

    def deliver_from(self, subscription, position, events):
        """Have it begin behind a position, until it has delivered so many events."""
        before, cpu = subscription.delivered()[0], subscription.cpu()
        begin = self.clock()
        self.connection.execute("SELECT order_idempotency.seek_to_position(%s, %s)", [subscription.name, position])
        wait_for("the drain", lambda: subscription.delivered()[0] >= before + events)
        delivered, end = subscription.delivered()
        return Work(delivered - before, end - begin, subscription.cpu() - cpu)

    @contextlib.contextmanager
    def snapshot_held(self, held):
        """Somebody with an old snapshot and an open transaction, or nobody."""
        if not held:
            yield
            return
        with psycopg.connect(self.conninfo(), autocommit=True) as other:
            other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            other.execute("SELECT pg_current_xact_id(), count(*) FROM pg_class")
            yield
            other.execute("ROLLBACK")

    @contextlib.contextmanager
    def incoming(self, kind):
        """Orders that come in, so many a second, for a while."""
        words = self.client.command(INCOMING[kind], self.conninfo(), seconds=DEADLINE, rate=RATE)
        with subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL,
                              start_new_session=True) as running:
            try:
                time.sleep(0.5)
                if running.poll() is not None:
                    raise ServerError("the clients failed")
                yield
            finally:
                os.killpg(running.pid, signal.SIGKILL)

    def consume(self, kind, *options):
        """Have one of the others work until it ends."""
        printed = run([self.workdir / "consumer", *options, kind, self.conninfo()]).split()
        return Work(int(printed[0]), float(printed[1]), float(printed[2]) + float(printed[3]))

    @contextlib.contextmanager
    def consumer(self, kind, *options):
        """One of the others that works until it is not needed any more."""
        words = [self.workdir / "consumer", *options, kind, self.conninfo()]
        with subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL) as running:
            try:
                yield
                if running.poll() is not None:
                    raise ServerError(f"consumer {kind} failed")
            finally:
                running.kill()

    def drop(self):
        """Make room."""
        self.stop()
        self.postgres.psql(f"DROP DATABASE {self.DATABASE}")

    def stop(self):
        """Let go of the server."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
