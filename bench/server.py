"""The servers that are measured: PostgreSQL and Redis, private and by Unix socket."""

import os
import shutil
import subprocess
import time
from pathlib import Path

PORT = "5432"                   # only names a socket
USER = "postgres"
STOP_DEADLINE = 120             # seconds

# Nothing of the machine's own runs in between: no autovacuum, and checkpoints
# only where they are asked for.
SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
port = {port}
shared_preload_libraries = 'order_idempotency'
max_connections = 60
shared_buffers = '{shared_buffers}'
max_wal_size = '4GB'
min_wal_size = '1GB'
checkpoint_timeout = '1d'
autovacuum = off
maintenance_work_mem = '512MB'
"""


class ServerError(Exception):
    """A program did not do what it was asked to."""


def run(command, **options):
    """Run a program; what it prints."""
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, **options)
    if done.returncode != 0:
        raise ServerError(f"{Path(str(command[0])).name} failed ({done.returncode}): "
                          + (done.stderr or done.stdout).strip()[-2000:])
    return done.stdout


def memory():
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Postgres:
    """A server of our own, in a directory of ours."""

    def __init__(self, bindir, workdir, sockets):
        self.bindir = Path(bindir)
        self.data = Path(workdir) / "data"
        self.log = Path(workdir) / "server.log"
        self.sockets = sockets
        # an eighth of the memory, as is usual on a machine with other work
        self.shared_buffers = f"{max(128, memory() // 8 // 2**20)}MB"

    def create(self):
        """A fresh data directory, in place of a former one."""
        self.stop()
        if self.data.exists():
            shutil.rmtree(self.data)
        run([self.bindir / "initdb", "-D", self.data, "-U", USER, "-A", "trust", "-E", "UTF8",
             "--locale=C", "--no-sync"])
        with open(self.data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(SETTINGS.format(sockets=self.sockets, port=PORT,
                                       shared_buffers=self.shared_buffers))

    def start(self):
        """Start, and wait until it answers."""
        # not by run(): the server would keep a pipe open
        done = subprocess.run([self.bindir / "pg_ctl", "-D", self.data, "-l", self.log, "-w", "start"],
                              check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            raise ServerError(f"the server does not start; see {self.log}")

    def stop(self):
        """Stop, if it runs."""
        if (self.data / "postmaster.pid").exists():
            subprocess.run([self.bindir / "pg_ctl", "-D", self.data, "-m", "immediate",
                            "-t", str(STOP_DEADLINE), "-w", "stop"],
                           check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def conninfo(self, database):
        """What libpq connects with."""
        return f"host={self.sockets} port={PORT} user={USER} dbname={database}"

    def psql(self, sql, database="postgres"):
        """Run SQL; rows as lines, columns divided by "|"."""
        return run([self.bindir / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d",
                    self.conninfo(database), "-f", "-"], input=sql).strip()

    def configure(self, **settings):
        """Change settings, in effect when this returns."""
        for name, value in settings.items():
            self.psql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.psql("SELECT pg_reload_conf()")
        for name, value in settings.items():
            deadline = time.monotonic() + 60
            while self.psql(f"SHOW {name}") != value:
                if time.monotonic() > deadline:
                    raise ServerError(f"{name} does not become {value}")
                time.sleep(0.01)

    def version(self):
        """Its version, as Debian and the project count."""
        return self.psql("SHOW server_version")


class Redis:
    """Redis without persistence: only memory, which is the kindest to it."""

    def __init__(self, workdir, sockets):
        self.workdir = Path(workdir)
        self.socket = f"{sockets}/redis"
        self.process = None

    def start(self):
        """Start, and wait until it listens."""
        # Debian has the server in redis-tools, under a name by which it checks
        # files; package redis-server would start one at once.
        binary = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        if binary is None:
            raise ServerError("there is no Redis: install redis-tools")
        Path(self.socket).unlink(missing_ok=True)
        with open(self.workdir / "redis.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "",
                 "--appendonly", "no"],
                executable=binary, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.workdir)
        deadline = time.monotonic() + 30
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ServerError("Redis does not start; see redis.log")
            time.sleep(0.01)

    def version(self):
        """Its version."""
        return run(["redis-cli", "-s", self.socket, "INFO", "server"]).split(
            "redis_version:")[1].split()[0]

    def stop(self):
        """Stop, if it runs."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None
