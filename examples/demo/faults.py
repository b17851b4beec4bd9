"""The kills: a client's backend, the publisher and the postmaster, with -9.

Each strikes once, at the same points of progress on both sides.  The
publisher is what carries events out: on our side the subscription's worker,
on the usual one the client process, which publishes by itself.
"""

import os
import random
import signal
import time

import psycopg

# What is killed when this share of the requests is answered.
SCHEDULE = ((0.25, "backend"), (0.50, "publisher"), (0.75, "postmaster"))

VICTIM_DEADLINE = 30.0          # seconds to find somebody to kill
POLL = 0.01

BUSY_BACKEND = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
  AND application_name = 'demo client'
ORDER BY state = 'active' DESC, random() LIMIT 1"""

WORKER = """
SELECT pid FROM order_idempotency.subscription_workers() WHERE pid IS NOT NULL"""


class Faults:
    """Strikes as the feed advances; done lists what was killed."""

    def __init__(self, server, database, report):
        self.server = server
        self.database = database
        self.report = report
        self.left = list(SCHEDULE)
        self.done = []

    def progress(self, dispatcher):
        """Strike if it is time to."""
        while self.left and len(dispatcher.answers) >= self.left[0][0] * dispatcher.total:
            _, victim = self.left.pop(0)
            what = getattr(self, f"_kill_{victim}")(dispatcher)
            self.done.append(victim)
            self.report(f"kill -9: {what}")

    def _kill_backend(self, _dispatcher):
        pid = self._kill_found(BUSY_BACKEND)
        return f"backend {pid} of a client"

    def _kill_publisher(self, dispatcher):
        if self.database == "ours":
            return f"subscription worker {self._kill_found(WORKER)}"
        client = random.choice(dispatcher.busy_clients() or dispatcher.clients)
        pid = client.process.pid
        dispatcher.kill_client(client)
        return f"publishing client {pid}"

    def _kill_postmaster(self, _dispatcher):
        pid = self.server.kill_postmaster()
        self.server.start()
        return f"postmaster {pid}, and started again"

    def _kill_found(self, query):
        """Kill the process that a query names, once it names one."""
        deadline = time.monotonic() + VICTIM_DEADLINE
        while True:
            pid = self._look(query)
            if pid is not None and kill(pid):
                return pid
            if time.monotonic() > deadline:
                raise TimeoutError("found no process to kill within "
                                   f"{VICTIM_DEADLINE:.0f} seconds")
            time.sleep(POLL)

    def _look(self, query):
        """The pid that a query gives, None without one or without a server."""
        try:
            with self.server.connect(self.database) as connection:
                row = connection.execute(query).fetchone()
                return row[0] if row else None
        except psycopg.OperationalError:
            return None


def kill(pid):
    """Kill a process with -9; False if it has just gone by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
        return True
    except ProcessLookupError:
        return False
