"""Two servers of one system: a primary and its synchronous standby.

Commits wait for the standby.  It can be promoted in the primary's place, which
comes back as its standby by pg_rewind.  Both have one configuration, so that
pg_rewind and pg_basebackup may copy it; what differs is on the command line.
"""

import os
import shutil
import subprocess
import sys
import time

import psycopg
from psycopg.conninfo import make_conninfo

HERE = os.path.dirname(os.path.abspath(__file__))
# behind our own, which has modules of the same names
sys.path.append(os.path.join(HERE, "..", "..", "examples", "demo"))

from servers import Server, ServerError, run     # noqa: E402  pylint: disable=wrong-import-position

FIRST_PORT = 54341              # names sockets; nothing listens on TCP
DATABASE = "torture"
APPLICATION = "torture_app"
POLL = 0.05
REWIND_DEADLINE = 60.0        # seconds

# fsync: what dies here are processes, and what they wrote the kernel has.
CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
shared_preload_libraries = 'order_idempotency{more_libraries}'
fsync = off
synchronous_commit = on
synchronous_standby_names = '*'
max_connections = 120
max_worker_processes = 40
max_prepared_transactions = 64
max_wal_senders = 8
wal_keep_size = 4GB
max_wal_size = 256MB
min_wal_size = 64MB
checkpoint_timeout = 30s
wal_log_hints = on
wal_retrieve_retry_interval = 200ms
wal_receiver_status_interval = 1s
shared_buffers = 64MB
autovacuum_naptime = 5s
restart_after_crash = on
log_line_prefix = '%m [%p] %e %q%d %a: '
log_statement = none
log_lock_waits = on
order_idempotency.environment = 'torture'
order_idempotency.key_retention = '{key_retention}s'
order_idempotency.outbox_retention = '1h'
order_idempotency.in_flight_wait = '3s'
"""


class Node(Server):
    """One of the two servers."""

    start_deadline = 120.0
    key_retention = 40
    preload = None              # a library that fails writes while told to
    more_libraries = ""

    def __init__(self, bindir, directory, sockets, number):
        super().__init__(bindir, directory, sockets)
        self.name = "ab"[number]
        self.directory = directory
        self.port = FIRST_PORT + number
        self.peer = None
        self.configuration = CONFIGURATION.replace(
            "{key_retention}", str(self.key_retention)).replace(
                "{more_libraries}", self.more_libraries)

    def command(self):
        """The postmaster's command, with what is this server's own."""
        upstream = make_conninfo(host=self.sockets, port=self.peer.port, user="postgres",
                                 application_name=self.name, connect_timeout=3)
        return [*super().command(), "-p", str(self.port), "-c", f"cluster_name={self.name}",
                "-c", f"primary_conninfo={upstream}"]

    def environment(self):
        """With the library that fails writes, which looks at a file of this server's."""
        if self.preload is None:
            return None
        return {**os.environ, "LD_PRELOAD": self.preload, "TORTURE_FULL": self.full_flag}

    @property
    def full_flag(self):
        """The file that says whether this server's disk is full."""
        return os.path.join(self.directory, "full")

    @property
    def standby_signal(self):
        """The file that has it start as a standby."""
        return os.path.join(self.data, "standby.signal")

    def connect(self, database, **more):
        """A superuser's connection for what the run itself does."""
        return psycopg.connect(
            self.conninfo(database, name="torture control"), autocommit=True, **more)

    def start(self):
        """Start it, and again until it is up."""
        if not os.path.exists(self.full_flag):
            with open(self.full_flag, "wb") as flag:
                flag.write(b"\0" * 8)
        super().start()

    def kill(self):
        """Kill the postmaster with -9; orphans of its end by themselves."""
        if self.process is not None and self.process.poll() is None:
            self.kill_postmaster()

    def ended(self):
        """Has the postmaster ended by itself?"""
        return self.process is None or self.process.poll() is not None

    def control(self, mode):
        """Stop it as pg_ctl does: fast or immediate."""
        subprocess.run([self.program("pg_ctl"), "stop", "-D", self.data, "-m", mode, "-w",
                        "-t", "120"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       check=False)
        if self.process is not None:
            self.process.wait()


class Cluster:
    """Both servers, and which of them is the primary."""

    def __init__(self, bindir, workdir, sockets):
        self.nodes = []
        for number in range(2):
            directory = os.path.join(workdir, "ab"[number])
            os.makedirs(directory, exist_ok=True)
            self.nodes.append(Node(bindir, directory, sockets, number))
        self.nodes[0].peer, self.nodes[1].peer = self.nodes[1], self.nodes[0]
        self.sockets = sockets
        self.primary, self.standby = self.nodes
        self.rewind_due = False
        self.promotions = 0
        self.rewinds = 0

    def conninfo(self, user=APPLICATION, name="torture client"):
        """A connection string that finds the primary, whichever it is."""
        return make_conninfo(
            host=",".join(n.sockets for n in self.nodes),
            port=",".join(str(n.port) for n in self.nodes), dbname=DATABASE, user=user,
            application_name=name, connect_timeout=3, target_session_attrs="read-write")

    def create(self):
        """New servers, both up, the standby following."""
        for node in self.nodes:
            node.stop()
        self.primary.create()
        self.primary.start()
        self.copy_primary()
        self.standby.start()

    def copy_primary(self):
        """A standby from nothing."""
        node = self.standby
        shutil.rmtree(node.data, ignore_errors=True)
        with open(node.log, "ab") as log:
            run([node.program("pg_basebackup"), "-D", node.data, "-h", self.sockets,
                 "-p", str(self.primary.port), "-U", "postgres", "-X", "stream", "-c", "fast",
                 "--no-sync"], log)
        with open(node.standby_signal, "wb"):
            pass

    def connect(self, database=DATABASE):
        """A superuser's connection to the primary."""
        return self.primary.connect(database)

    def execute(self, statement, parameters=None, database=DATABASE):
        """One statement on the primary, in a connection of its own; its rows, if any."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def wait_for(self, what, check, seconds=120.0):
        """Wait until a function returns something true, whatever it raises until then."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = check()
                if answer:
                    return answer
            except (psycopg.Error, ServerError):
                pass
            if time.monotonic() > deadline:
                raise ServerError(f"waited {seconds:.0f} s in vain for {what}")
            time.sleep(POLL)

    def bring_up(self):
        """Both servers up, started again where they have ended; commits are acknowledged."""
        self.wait_for("the primary", self._accepts)
        self.wait_for("the standby to follow", self._followed)

    def _accepts(self):
        if self.primary.ended():
            self.primary.start()
        return self.execute("SELECT NOT pg_is_in_recovery()", database="postgres")[0][0]

    def _followed(self):
        if self.standby.ended():
            self.follow()
        return self.execute("SELECT count(*) > 0 FROM pg_stat_replication "
                            "WHERE sync_state = 'sync' AND state = 'streaming'",
                            database="postgres")[0][0]

    def promote(self):
        """The primary is dead: the standby takes its place, and it comes back as the standby."""
        old, new = self.primary, self.standby
        run_quietly([new.program("pg_ctl"), "promote", "-D", new.data, "-w", "-t", "120"])
        self.primary, self.standby = new, old
        self.promotions += 1
        self.rewind_due = True
        self.follow()

    def follow(self):
        """Start the standby; first rewind it, if it is a former primary."""
        if self.rewind_due:
            # pg_rewind reads the timeline there
            self.execute("CHECKPOINT", database="postgres")
            self._rewind()
            self.rewind_due = False
        self.standby.start()

    def _rewind(self):
        """Have the former primary follow the new one.

        pg_rewind first starts and ends it by itself, which fails as long as it has orphans.
        Whatever comes of it, it must never again start as a primary.
        """
        old, new = self.standby, self.primary
        source = make_conninfo(host=self.sockets, port=new.port, user="postgres",
                               dbname="postgres")
        deadline = time.monotonic() + REWIND_DEADLINE
        while not self._try_rewind(old, source):
            if time.monotonic() > deadline:
                raise ServerError(f"pg_rewind failed; see {old.log}")
            time.sleep(1.0)
        self.rewinds += 1

    @staticmethod
    def _try_rewind(old, source):
        """One attempt; False: it failed."""
        with open(old.log, "ab") as log:
            done = subprocess.run(
                [old.program("pg_rewind"), "-D", old.data, "--source-server", source, "--no-sync"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode:
            return False
        with open(old.standby_signal, "wb"):
            pass
        return True

    def stop(self):
        """Stop both, the standby last: the primary's shutdown sends it everything."""
        for node in (self.primary, self.standby):
            node.stop()


def run_quietly(command):
    """Run a program that must succeed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise ServerError(f"{os.path.basename(command[0])} failed: {done.stdout}")
