"""The demo's private PostgreSQL server: make, start, crash, stop.

One server with two databases, "usual" and "ours", in a working directory of
its own.  It listens on a Unix-domain socket only, and its settings are the
defaults where durability is concerned: fsync and synchronous_commit are on.
"""

import os
import shutil
import subprocess
import time

import psycopg
from psycopg.conninfo import make_conninfo

PORT = 54329                    # names the socket; nothing listens on TCP
START_DEADLINE = 60.0           # seconds
POLL = 0.05

CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
port = {port}
cluster_name = 'order_idempotency demo'
shared_preload_libraries = 'order_idempotency'
fsync = on
synchronous_commit = on
max_connections = 60
max_worker_processes = 16
shared_buffers = 128MB
log_line_prefix = '%m [%p] %q%a '
log_statement = none
"""


class ServerError(Exception):
    """The server did not do what it was asked to."""


class Server:
    """The demo's server, found by its working and socket directories.

    The torture run makes servers of its own of this (test/torture/cluster.py).
    """

    configuration = CONFIGURATION
    start_deadline = START_DEADLINE

    def __init__(self, bindir, workdir, sockets):
        self.bindir = bindir
        self.data = os.path.join(workdir, "data")
        self.log = os.path.join(workdir, "server.log")
        self.sockets = sockets
        self.port = PORT
        self.process = None

    @classmethod
    def from_environment(cls):
        """The server that OI_BINDIR, OI_WORKDIR and OI_SOCKETDIR describe."""
        try:
            return cls(*(os.path.abspath(os.environ[name])
                         for name in ("OI_BINDIR", "OI_WORKDIR", "OI_SOCKETDIR")))
        except KeyError as missing:
            raise ServerError(f"{missing.args[0]} is not set; "
                              "use \"make demo\", which sets it") from None

    def program(self, name):
        """The path of one of the server's programs."""
        return os.path.join(self.bindir, name)

    def conninfo(self, database, user="postgres", name="demo"):
        """A connection string."""
        return make_conninfo(
            host=self.sockets, port=self.port, dbname=database, user=user,
            application_name=name, connect_timeout=10)

    def connect(self, database):
        """A superuser's connection for what the demo itself does."""
        return psycopg.connect(self.conninfo(database, name="demo control"),
                               autocommit=True)

    def create(self):
        """A new data directory, in place of a former one."""
        self.stop()
        if os.path.exists(self.data):
            shutil.rmtree(self.data)
        with open(self.log, "wb") as log:
            run([self.program("initdb"), "-D", self.data, "-U", "postgres",
                 "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"], log)
        with open(os.path.join(self.data, "postgresql.conf"), "a", encoding="utf-8") as conf:
            conf.write(self.configuration.format(sockets=self.sockets, port=self.port))

    def start(self):
        """Start the postmaster, and again until it is up.

        After a kill -9 the first attempts may fail: as long as an orphaned
        backend of the former postmaster lives, the new one refuses to start.
        """
        deadline = time.monotonic() + self.start_deadline
        self._launch()
        while not self.is_up():
            if time.monotonic() > deadline:
                raise ServerError(f"the server did not start; see {self.log}")
            if self.process.poll() is not None:
                self._launch()
            time.sleep(POLL)

    def _launch(self):
        """Start the postmaster in a session of its own, to outlive the demo."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=self.environment())

    def command(self):
        """The postmaster's command."""
        return [self.program("postgres"), "-D", self.data]

    def environment(self):
        """The postmaster's environment; None: ours."""
        return None

    def is_up(self):
        """Does it accept connections?"""
        try:
            self.connect("postgres").close()
            return True
        except psycopg.OperationalError:
            return False

    def kill_postmaster(self):
        """Kill the postmaster with -9 and reap it; its pid.

        Not reaped it would remain a zombie, which a new postmaster takes for
        the old one still running.
        """
        pid = self.process.pid
        self.process.kill()
        self.process.wait()
        return pid

    def stop(self):
        """Stop it fast, if it runs; True if it did."""
        if not os.path.exists(os.path.join(self.data, "postmaster.pid")):
            return False
        stopped = subprocess.run(
            [self.program("pg_ctl"), "stop", "-D", self.data, "-m", "fast", "-w"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if self.process is not None:
            self.process.wait()
        return stopped.returncode == 0

    def is_running(self):
        """Does pg_ctl find a live postmaster?"""
        status = subprocess.run([self.program("pg_ctl"), "status", "-D", self.data],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                check=False)
        return status.returncode == 0


def run(command, log):
    """Run a program that must succeed."""
    if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                      check=False).returncode:
        raise ServerError(f"{os.path.basename(command[0])} failed; see {log.name}")
