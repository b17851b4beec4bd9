"""The kills: a client's backend, the publisher and the postmaster, with -9.

Each strikes once, at the same points of progress on both sides.  The
publisher is what carries events out: on our side the subscription's worker,
on the usual one the client process, which publishes by itself.
"""

import os
import random
import signal

import psycopg

# What is killed when this share of the requests is answered.
SCHEDULE = ((0.25, "backend"), (0.50, "publisher"), (0.75, "postmaster"))

BUSY_BACKEND = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend'
  AND application_name = 'demo client'
ORDER BY state = 'active' DESC, random() LIMIT 1"""

WORKER = """
SELECT pid FROM order_idempotency.subscription_workers() WHERE pid IS NOT NULL"""


class Faults:
    """Strikes as the feed advances; left is what has not been killed yet."""

    def __init__(self, server, database, report):
        self.server = server
        self.database = database
        self.report = report
        self.left = list(SCHEDULE)

    def progress(self, dispatcher):
        """Strike if it is time to; where there is no victim, at the next answer."""
        while self.left and len(dispatcher.answers) >= self.left[0][0] * dispatcher.total:
            killed = getattr(self, f"_kill_{self.left[0][1]}")(dispatcher)
            if killed is None:
                return
            self.left.pop(0)
            self.report(f"kill -9: {killed}")

    def _kill_backend(self, _dispatcher):
        pid = self._kill_found(BUSY_BACKEND)
        return pid and f"backend {pid} of a client"

    def _kill_publisher(self, dispatcher):
        if self.database == "ours":
            pid = self._kill_found(WORKER)
            return pid and f"subscription worker {pid}"
        client = random.choice(dispatcher.busy_clients() or dispatcher.clients)
        pid = client.process.pid
        dispatcher.kill_client(client)
        return f"publishing client {pid}"

    def _kill_postmaster(self, _dispatcher):
        pid = self.server.kill_postmaster()
        self.server.start()
        return f"postmaster {pid}, and started again"

    def _kill_found(self, query):
        """Kill the process that a query names; its pid, None without one."""
        pid = self._look(query)
        return pid if pid is not None and kill(pid) else None

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
