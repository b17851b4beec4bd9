"""The end of a run: until all is quiet, and what is measured then.

final.json, for the checker:

    processes_begin, processes_end
                    each process of ours: pid, kind, rss_anon (bytes), descriptors
    sizes           of the tables, in bytes
    subscription_status
    snapshots       sessions and prepared transactions that hold old rows
    not_quiet       what did not come to rest in time, if anything
"""

import os
import time

from session import finishing

# seconds in which a worker has to have woken up, or looked by itself: poll_interval, and
# much more for a machine that is busy.  A timer of its last delivery, which may come later
# and wakes it too, ends after 30.
WAKE_UP = 20.0
PROBES = 3
PROBE_PAUSE = 1.5

# What has to be empty, or zero, when all is quiet.
QUIET = """
SELECT 'events before ' || name || ': ' || lag_events FROM order_idempotency.subscription_status
WHERE lag_events > 0
UNION ALL
SELECT 'parked events of ' || subscription || ': ' || count(*)
FROM order_idempotency.parked_events GROUP BY subscription
UNION ALL
SELECT 'deadlines that are over: ' || count(*) FROM order_idempotency.payment_deadlines
WHERE due_at < clock_timestamp() - interval '3 s' HAVING count(*) > 0
UNION ALL
SELECT 'prepared transactions: ' || count(*) FROM pg_prepared_xacts HAVING count(*) > 0"""

# Workers that have not taken what the log has for them.
ASLEEP = """
SELECT name || ' sleeps before ' || lag_events || ' events'
FROM order_idempotency.subscription_status WHERE lag_events > parked"""

PROCESSES = """
SELECT pid, backend_type, COALESCE((SELECT name FROM order_idempotency.subscription_status s
                                    WHERE s.pid = a.pid), '')
FROM pg_stat_activity a WHERE backend_type LIKE 'order\\_idempotency%' ORDER BY 2, 3"""

SIZES = """
SELECT c.relname, pg_total_relation_size(c.oid)
FROM pg_class c WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind = 'r'
ORDER BY 1"""

SNAPSHOTS = """
SELECT pid, backend_type, application_name, state, backend_xmin::text, xact_start::text
FROM pg_stat_activity
WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
  AND clock_timestamp() - xact_start > interval '5 s'
  AND backend_type NOT IN ('walsender', 'autovacuum worker')"""


def finish_prepared(cluster):
    """Do with prepared transactions that clients left what their names say."""
    for gid, in cluster.execute("SELECT gid FROM pg_prepared_xacts"):
        cluster.execute(finishing(gid))


def quiesce(cluster, seconds):
    """Until nothing is left to be done; what is left when the time is over, by lines."""
    finish_prepared(cluster)
    for name, in cluster.execute("SELECT name FROM order_idempotency.subscriptions"):
        cluster.execute("SELECT order_idempotency.resume_subscription(%s)", (name,))
    return (lines_left(cluster, QUIET, seconds) or probe(cluster)
            or lines_left(cluster, QUIET, seconds))


def probe(cluster):
    """When all sleep, an event has to wake them, some times over."""
    for number in range(PROBES):
        time.sleep(PROBE_PAUSE)         # let them sleep
        cluster.execute("SELECT order_idempotency.emit_event('torture.probe', %s)",
                        (f"probe-{number}",))
        asleep = lines_left(cluster, ASLEEP, WAKE_UP)
        if asleep:
            return asleep
    return []


def lines_left(cluster, query, seconds):
    """Wait until a query finds nothing; what it still finds when the time is over."""
    left = []

    def nothing():
        left[:] = [line for line, in cluster.execute(query)]
        return not left
    try:
        cluster.wait_for("quiet", nothing, seconds)
    except Exception as error:          # pylint: disable=broad-except
        return left or [str(error)]
    return []


def measure(cluster):
    """Processes of ours now."""
    processes = []
    for pid, kind, name in cluster.execute(PROCESSES):
        found = measure_process(pid)
        if found:
            processes.append({"pid": pid, "kind": f"{kind} {name}".strip(), **found})
    return processes


def measure_process(pid):
    """A process's own memory in bytes, and how many descriptors it has; None: it is gone.

    Files of the data directory do not count: the server keeps those that it may need again
    open, up to max_files_per_process.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            rss, = (int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
        data = os.readlink(f"/proc/{pid}/cwd") + "/"
        return {"rss_anon": rss, "descriptors": sum(
            not name.startswith(data) for name in descriptors(pid))}
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


def descriptors(pid):
    """What each descriptor of a process is."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            yield os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            pass                # it was closed


def rows(cluster, query):
    """Rows as objects."""
    with cluster.connect() as connection:
        cursor = connection.execute(query)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor]


def look(cluster, begin, not_quiet):
    """All of final.json."""
    return {"processes_begin": begin, "processes_end": measure(cluster),
            "sizes": dict(cluster.execute(SIZES)), "not_quiet": not_quiet,
            "subscription_status":
                rows(cluster, "SELECT * FROM order_idempotency.subscription_status"),
            "snapshots": rows(cluster, SNAPSHOTS)}
