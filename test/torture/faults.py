"""What goes wrong: faults of the servers and of the brokers, in a seeded sequence.

Each fault has a generator of random numbers of its own, from the seed and its number, so the
sequence of kinds and their parameters is that of the seed; who is hit, such as which
backend is at work just then, is not.  Those of brokers go on by themselves while the next
fault strikes elsewhere.
"""

import json
import os
import random
import signal
import threading
import time

import psycopg

from broker_faults import BrokerFaults, Nobody
from cluster import DATABASE, ServerError
from storm import storm

SERVER_KINDS = (
    "kill backend", "kill worker", "kill at point", "kill launcher", "kill maintenance", "kill auxiliary",
    "kill postmaster", "immediate stop", "fast restart", "freeze", "terminate all", "promote",
    "promote behind", "kill standby", "disk full", "drop database", "update extension", "reindex",
    "vacuum full", "rotate keys", "rotate log", "clock", "pause", "claim storm")
BROKER_KINDS = (
    "broker killed", "broker restarted", "broker frozen", "broker black hole", "broker deaf",
    "broker stalled", "broker cut", "broker slow", "broker gone", "broker reset",
    "broker unbound")

# that come more than once in each round
OFTEN = ("kill at point", "kill backend", "kill worker", "kill worker", "kill auxiliary", "freeze", "terminate all",
         "broker cut", "broker black hole")

# seconds that a fault of a broker waits for the one before to be over
PATIENCE = 5.0

STORM_SECONDS = 2.0

TABLES = ("orders", "ledger", "payment_deadlines", "outbox_0", "outbox_1", "outbox_2",
          "outbox_3", "claims_0", "claims_1", "claims_2", "claims_3", "failed_events",
          "subscription_cursors", "subscriptions", "generations")

# of a worker's round, and of the sink kafka's deliveries and starts
POINTS = ("drain:read", "drain:durable", "intent:recorded", "sink:before", "sink:after",
          "drain:record", "drain:recording", "drain:recorded")
KAFKA_POINTS = ("kafka:begun", "kafka:sent", "kafka:committed", "kafka:start", "kafka:started")

AUXILIARY = ("checkpointer", "walwriter", "background writer", "walsender",
             "autovacuum launcher")

BACKEND = """
SELECT pid FROM pg_stat_activity WHERE application_name = 'torture client'
ORDER BY state = 'active' DESC, random() LIMIT 1"""

OF_TYPE = "SELECT pid FROM pg_stat_activity WHERE backend_type = %s ORDER BY random() LIMIT 1"

TERMINATE_ALL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE pid <> pg_backend_pid()
  AND (application_name = 'torture client' OR backend_type = 'order_idempotency worker')"""


def plan(seed, brokers, chosen=()):
    """The faults of a seed, without end: number, kind, broker, random numbers.

    They come in rounds, in each of which every kind has its turn, or those that are chosen.
    """
    rng = random.Random(f"{seed}/faults")
    kinds = [kind for kind in SERVER_KINDS + BROKER_KINDS + OFTEN
             if (brokers or kind not in BROKER_KINDS) and (not chosen or kind in chosen)]
    number = 0
    while True:
        rng.shuffle(kinds)
        for kind in kinds:
            number += 1
            broker = rng.choice(brokers) if kind in BROKER_KINDS else None
            if kind == "broker unbound" and "rabbitmq" in brokers:
                broker = "rabbitmq"
            yield number, kind, broker, random.Random(f"{seed}/fault/{number}")


class Faults(BrokerFaults):
    """Strikes, and writes down what was done."""

    def __init__(self, cluster, brokers, rundir, has_full, modules, update):
        self.cluster = cluster
        self.brokers = {broker.sink: broker for broker in brokers}
        self.log = open(os.path.join(rundir, "faults.jsonl"), "a", encoding="utf-8")
        self.missed = open(os.path.join(rundir, "missed.jsonl"), "a", encoding="utf-8")
        self.lock = threading.Lock()
        self.busy = {}          # sink -> thread that is at its broker
        self.has_full, self.modules, self.update = has_full, modules, update
        self.count = 0
        self.struck = {}        # kind -> how often
        self.failures = []      # what a fault found that is a bug by itself
        self.rundir = rundir

    def strike(self, number, kind, sink, rng):
        """One fault; of a broker only its beginning."""
        name = kind.replace(" ", "_")
        if sink is None:
            self._record(number, kind, "server", getattr(self, name), rng)
            return
        if sink in self.busy:
            self.busy[sink].join(PATIENCE)
            if self.busy[sink].is_alive():
                self._record(number, kind, sink, still_busy)
                return
        self.busy[sink] = threading.Thread(
            target=self._record, args=(number, kind, sink, getattr(self, name), rng,
                                       self.brokers[sink]))
        self.busy[sink].start()

    def settle(self):
        """Until no fault is going on."""
        for thread in self.busy.values():
            thread.join()
        self.busy = {}

    def _record(self, number, kind, target, function, *arguments):
        """Do it, and write it down."""
        began, note, struck = time.monotonic(), None, True
        try:
            note = function(*arguments)
        except Nobody as nobody:
            note, struck = f"nobody to be hit: {nobody}", False
        except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedTable) as error:
            note, struck = f"not in 1.0: {str(error).strip()}", False
        except (psycopg.Error, ServerError, OSError) as error:
            note = f"{type(error).__name__}: {str(error).strip()}"
        with self.lock:
            if struck:
                self.count += 1
                self.struck[kind] = self.struck.get(kind, 0) + 1
            log = self.log if struck else self.missed
            log.write(json.dumps({
                "n": number, "t0": began, "t1": time.monotonic(), "kind": kind, "target": target,
                "note": note}) + "\n")
            log.flush()

    # -- helpers ---------------------------------------------------------------

    def _find(self, query, parameters=None, node=None):
        """The pid that a query gives."""
        try:
            with (node or self.cluster.primary).connect(
                    DATABASE, options="-c statement_timeout=5s") as connection:
                row = connection.execute(query, parameters).fetchone()
        except psycopg.Error as error:
            raise Nobody(str(error).strip()) from error
        if row is None or row[0] is None:
            raise Nobody("none is there")
        return row[0]

    def _kill(self, query, parameters=None):
        pid = self._find(query, parameters)
        send(pid, signal.SIGKILL)
        self._back()
        return f"pid {pid}"

    def _back(self):
        """Wait until commits are acknowledged again."""
        self.cluster.bring_up()

    def _administer(self, *statements, database=DATABASE, timeout="20s"):
        """Statements of an administrator, who does not wait for ever."""
        with self.cluster.primary.connect(
                database, options=f"-c statement_timeout={timeout} -c lock_timeout=4s"
        ) as connection:
            for statement in statements:
                connection.execute(statement)

    # -- processes ---------------------------------------------------------------

    def kill_backend(self, _rng):
        """A client's backend, at work if one is."""
        return self._kill(BACKEND)

    def kill_worker(self, rng):
        """A subscription's worker, any or one of a kind of sink."""
        sink = rng.choice(["file", *self.brokers])
        return self._kill("SELECT pid FROM order_idempotency.subscription_status "
                          "WHERE name = %s", (f"to-{sink}",)) + f" of {sink}"

    def kill_at_point(self, rng):
        """A worker, at one of the steps of its round; or it has an error there."""
        sink = rng.choice(["file", *self.brokers])
        point = rng.choice(POINTS + (KAFKA_POINTS if sink == "kafka" else ()))
        action = rng.choice(("kill", "kill", "terminate", "error"))
        if "test_fault" not in self.modules:
            raise Nobody("module test_fault is not installed")
        directory = os.path.join(self.cluster.primary.data, "faults")
        os.makedirs(directory, exist_ok=True)
        order = os.path.join(directory, f"{point} of order_idempotency to-{sink}")
        with open(order + ".new", "w", encoding="ascii") as out:
            out.write(f"{rng.randrange(1, 4)} {action}\n")
        os.rename(order + ".new", order)
        deadline = time.monotonic() + PATIENCE
        while os.path.exists(order) and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            os.unlink(order)
        except FileNotFoundError:
            self._back()
            return f"{action} at {point} of {sink}"
        raise Nobody(f"{sink} did not come to {point}")

    def kill_launcher(self, _rng):
        """The launcher."""
        return self._kill(OF_TYPE, ("order_idempotency launcher",))

    def kill_maintenance(self, _rng):
        """The maintenance process, which is there when something is to be done."""
        return self._kill(OF_TYPE, ("order_idempotency maintenance",))

    def kill_auxiliary(self, rng):
        """One of the server's own processes."""
        kind = rng.choice(AUXILIARY)
        return f"{kind}, " + self._kill(OF_TYPE, (kind,))

    def kill_postmaster(self, rng):
        """The postmaster; started again at once, or after clients have noticed."""
        self.cluster.primary.kill()
        time.sleep(rng.choice((0, 0, 0.5)))
        self._back()

    def immediate_stop(self, rng):
        """As a power cut would, but for what the kernel keeps."""
        self.cluster.primary.control("immediate")
        time.sleep(rng.choice((0, 0, 0.5)))
        self._back()

    def fast_restart(self, _rng):
        """An administrator restarts the server."""
        self.cluster.primary.control("fast")
        self._back()

    def freeze(self, rng):
        """SIGSTOP, and later SIGCONT."""
        whom = rng.choice(("order_idempotency worker", "order_idempotency launcher",
                           "client backend", "walsender", "checkpointer", "walreceiver",
                           "startup", "postmaster"))
        node = self.cluster.standby if whom in ("walreceiver", "startup") else self.cluster.primary
        if whom == "postmaster":
            pid = node.process.pid
        elif whom == "client backend":
            pid = self._find(BACKEND)
        else:
            pid = self._find(OF_TYPE, (whom,), node)
        seconds = rng.choice((0.3, 1.0, 2.5))
        send(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            send(pid, signal.SIGCONT)
        return f"{whom} {pid} for {seconds} s"

    def terminate_all(self, _rng):
        """All clients and all workers are told to end."""
        return f"{self._find(TERMINATE_ALL)} processes"

    # -- the standby -------------------------------------------------------------

    def promote(self, rng):
        """The primary dies; its standby takes over, and it comes back as a standby."""
        how = rng.choice(("kill", "immediate", "fast"))
        self._end_primary(how)
        self.cluster.promote()
        self._back()
        return f"{how}; now {self.cluster.primary.name}"

    def promote_behind(self, rng):
        """The same after the standby was away, and commits waited for it in vain.

        Their sessions are terminated, or the server crashes: so they become visible
        without the standby having them, and clients see them before it takes over.
        """
        cluster = self.cluster
        cluster.standby.kill()
        time.sleep(0.5)
        how = rng.choice(("terminate", "crash"))
        if how == "terminate":
            self._find(TERMINATE_ALL)
        else:
            send(self._find(OF_TYPE, ("walwriter",)), signal.SIGKILL)
        time.sleep(rng.choice((1.0, 2.0)))
        self._end_primary("kill")
        cluster.follow()
        cluster.promote()
        self._back()
        return f"{how}; now {cluster.primary.name}"

    def _end_primary(self, how):
        if how == "kill":
            self.cluster.primary.kill()
        else:
            self.cluster.primary.control(how)

    def kill_standby(self, rng):
        """The standby dies, and commits wait until it is back."""
        self.cluster.standby.kill()
        time.sleep(rng.choice((0, 1.0)))
        self._back()

    # -- the disk ----------------------------------------------------------------

    def disk_full(self, rng):
        """No file of a server grows any more, until there is room again."""
        if not self.has_full:
            raise Nobody("there is no compiler")
        node = rng.choice((self.cluster.primary, self.cluster.primary, self.cluster.standby))
        seconds = rng.choice((0.5, 1.5, 3.0))
        set_full(node, True)
        try:
            time.sleep(seconds)
        finally:
            set_full(node, False)
        ended = node.ended()
        self._back()
        return f"{node.name} for {seconds} s" + (", the server ended" if ended else "")

    # -- commands of administrators ------------------------------------------------

    def drop_database(self, rng):
        """Another database with a subscription of its own is made and dropped."""
        name = f"other_{rng.randrange(10 ** 6)}"
        directory = os.path.join(self.rundir, "other")
        os.makedirs(directory, exist_ok=True)
        self._administer(f"CREATE DATABASE {name}", database="postgres")
        try:
            self._administer(
                "CREATE EXTENSION order_idempotency",
                "CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file "
                f"OPTIONS (path '{directory}')",
                f"SELECT order_idempotency.create_subscription('{name}', 'files')",
                "SELECT order_idempotency.create_order('o', 1, 'EUR', 'a')", database=name)
            time.sleep(rng.choice((0, 0.3)))
        finally:
            self._administer(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")

    def update_extension(self, rng):
        """A database of 1.0 is updated; so is that of the run, with clients at work.

        Runs of odd seeds begin with 1.0; later this changes nothing.
        """
        name = f"old_{rng.randrange(10 ** 6)}"
        self._administer("ALTER EXTENSION order_idempotency UPDATE")
        self.update()
        self._administer(f"CREATE DATABASE {name}", database="postgres")
        try:
            self._administer("CREATE EXTENSION order_idempotency VERSION '1.0'",
                             "SELECT order_idempotency.create_order('o', 1, 'EUR', 'a')",
                             "ALTER EXTENSION order_idempotency UPDATE", database=name)
            self._same_order(name)
        finally:
            self._administer(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")

    def _same_order(self, database):
        """The order of before the update is known after it."""
        with self.cluster.primary.connect(database) as connection:
            outcome, = connection.execute("SELECT outcome FROM order_idempotency.create_order("
                                          "'o', 1, 'EUR', 'a')").fetchone()
        if outcome != "replayed":
            self.failures.append(f"after ALTER EXTENSION UPDATE an order was {outcome}")

    def reindex(self, rng):
        """A table's indexes are built anew."""
        table = rng.choice(TABLES)
        how = rng.choice(("", "CONCURRENTLY "))
        self._administer(f"REINDEX TABLE {how}order_idempotency.{table}")
        return how + table

    def vacuum_full(self, rng):
        """A table is written anew."""
        table = rng.choice(TABLES)
        self._administer(f"VACUUM FULL order_idempotency.{table}")
        return table

    def rotate_keys(self, _rng):
        """A generation of claims begins, if it is time, and one is forgotten."""
        self._administer("CALL order_idempotency.rotate_keys()")

    def rotate_log(self, _rng):
        """A generation of the log begins; what nobody needs any more is emptied."""
        self._administer("CALL order_idempotency.rotate_outbox('0')")

    def clock(self, rng):
        """The clock of the deliveries is set forward, or back to the true time."""
        if "test_clock" not in self.modules:
            raise Nobody("module test_clock is not installed")
        ahead = rng.choice((0, 60, 3600, 86400, 10 ** 8))
        self.set_clock(ahead)
        return f"{ahead} s ahead"

    def set_clock(self, ahead):
        """The clock of the deliveries is that many seconds ahead, at both servers."""
        for node in self.cluster.nodes:
            with node.connect("postgres") as connection:
                connection.execute(f"ALTER SYSTEM SET test_clock.ahead = {ahead}")
                connection.execute("SELECT pg_reload_conf()")

    def claim_storm(self, _rng):
        """Keys are claimed by many at once, while generations of them come and go."""
        return storm(self.cluster.primary, self.rundir, STORM_SECONDS)

    def pause(self, rng):
        """A subscription is paused, and resumed."""
        name = f"to-{rng.choice(['file', *self.brokers])}"
        try:
            self._administer(f"SELECT order_idempotency.pause_subscription('{name}')")
            time.sleep(rng.choice((0, 0.5)))
        except (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedObject) as error:
            raise Nobody(str(error).strip()) from error
        except psycopg.Error:
            pass                # it may be paused all the same
        self.cluster.wait_for("the subscription to be resumed", lambda: self.cluster.execute(
            "SELECT order_idempotency.resume_subscription(%s)::text", (name,)))
        return name


def still_busy():
    """Instead of a fault of a broker that is not back from the last one."""
    raise Nobody("it is not back from the last fault")


def send(pid, number):
    """A signal to a process that may have gone by itself."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def set_full(node, full):
    """Tell the library that was preloaded into a server."""
    with open(node.full_flag, "r+b") as flag:
        flag.write(b"\1" if full else b"\0")
