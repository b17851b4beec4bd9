"""The sections about delivery: wake, drain, held, writers."""

import statistics
import time

import cases
from measure import Spread, say
from results import table
from server import run
from streams import PGQ_BATCH, RATE, Work

# wake
EVENTS_A_ROUND = 300
GAP = 20                        # ms between events, on average
POLLED_A_ROUND = 8              # events for the poller, which takes half a second for each
SLOW_POLL = 1000                # ms
WAKE_AIM = 2000                 # microseconds
NOTIFYING = ("WITH e AS (INSERT INTO queue.events (key, version, type, payload) VALUES ($1, 1, 'order.created', "
             "'{}') RETURNING id) SELECT pg_notify('events', '') FROM e")
CREATING = f"SELECT * FROM order_idempotency.create_order($1, {cases.AMOUNT}, '{cases.CURRENCY}')"

# drain
DRAIN_AIM = 5.0
PGQ_AIM = 1.0

TO_DO = "WHERE processed_at IS NULL"

# held
HELD_AIM = 0.95
LAG_EVERY = 0.05                # seconds

# writers
WRITERS_AIM = 0.85
SUBSCRIPTIONS = 3


def verdict(reached, aim):
    """Two cells: what is aimed at, and whether it was reached."""
    return [aim, "reached" if reached else "missed"]


def ratio(ours, peers):
    """Of two lists of figures, round by round."""
    return Spread.of(a / b for a, b in zip(ours, peers))


def percentile(values, share):
    """The value that so many are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Section:
    """One of the sections: its rounds, and what came of them."""

    name = ""

    def __init__(self, streams, seconds):
        self.streams = streams
        self.seconds = seconds
        self.found = {}         # what -> a figure, or more, of each round

    def cases(self):
        """What is done in each round: functions by name."""
        raise NotImplementedError

    def note(self, what, value):
        """Keep what a round found."""
        self.found.setdefault(what, []).append(value)

    def run_round(self, number, rounds):
        """Everything once, each time in another order."""
        todo = list(self.cases().items())
        first = (number - 1) * len(todo) // rounds
        for what, case in todo[first:] + todo[:first]:
            value = case()
            self.note(what, value)
            shown = f"{value.rate:10,.0f}/s" if isinstance(value, Work) else ""
            say(f"round {number} of {rounds}, {self.name}: {what} {shown}")


class Wake(Section):
    """From the commit to a line in a file."""

    name = "wake"

    def measure(self, path, statement, events, gap):
        """Microseconds of each event."""
        printed = run([self.streams.workdir / "wake", "-n", events, "-g", gap, self.streams.conninfo(),
                       path, statement])
        return [float(line) for line in printed.split()]

    def ours(self):
        """A subscription."""
        self.streams.ready("on")
        with self.streams.subscribed("wake", server="files"):
            return self.measure(self.streams.workdir / "files" / "wake.jsonl", CREATING, EVENTS_A_ROUND, GAP)

    def peer(self, events, gap, *options):
        """A worker of its own on a table."""
        path = self.streams.workdir / "files" / "peer"
        path.unlink(missing_ok=True)
        self.streams.psql("TRUNCATE queue.events")
        self.streams.ready("on")
        with self.streams.consumer("update", "-f", path, *options):
            return self.measure(path, NOTIFYING, events, gap)

    def cases(self):
        return {
            "the extension": self.ours,
            "LISTEN/NOTIFY": lambda: self.peer(EVENTS_A_ROUND, GAP, "-l", "events"),
            # from anywhere in its second, not always right behind its last look
            "poller": lambda: self.peer(POLLED_A_ROUND, SLOW_POLL / 2, "-i", SLOW_POLL),
        }

    def report(self):
        """The table."""
        titles = {"the extension": "subscription, sink `file`", "LISTEN/NOTIFY": "LISTEN/NOTIFY worker",
                  "poller": "poller, every second"}
        rows = []
        for what, title in titles.items():
            rounds = self.found[what]
            every = [value for values in rounds for value in values]
            medians = Spread.of(statistics.median(values) / 1000 for values in rounds)
            aim = verdict(medians.median * 1000 < WAKE_AIM, f"{WAKE_AIM / 1000:.0f} ms")
            rows.append([title, medians.show(".2f"),
                         *(f"{percentile(every, share) / 1000:,.2f}" for share in (0.90, 0.99)),
                         f"{max(every) / 1000:,.2f}", f"{len(every):,}"]
                        + (aim if what == "the extension" else ["", ""]))
        return table(["ms from the commit to the file", "median of each round", "p90", "p99", "highest", "events",
                      "aim", ""], rows)

    def conditions(self, rounds):
        """How it was done."""
        return (f"{rounds} rounds; pauses of {GAP} ms on average between events; durable commits; the "
                "file is not flushed.")


class Drain(Section):
    """A backlog, to a sink that accepts at once."""

    name = "drain"

    def ours(self):
        """A subscription, from the log's beginning on."""
        self.streams.ready("on")
        with self.streams.subscribed("drain") as subscription:
            return self.streams.deliver_all(subscription)

    def rows(self, kind, table_name, condition=""):
        """A worker with SKIP LOCKED, for a while."""
        self.streams.stock(table_name, condition)
        self.streams.ready("on")
        return self.streams.consume(kind, "-s", self.seconds)

    def pgq(self):
        """A consumer of PgQ, from the first tick on."""
        self.streams.psql("SELECT pgq.register_consumer_at('events', 'bench', 1)")
        self.streams.ready("on")
        work = self.streams.consume("pgq", "-q", "events", "-c", "bench")
        self.streams.psql("SELECT pgq.unregister_consumer('events', 'bench')")
        return work

    def cases(self):
        found = {
            "subscription": self.ours,
            "update": lambda: self.rows("update", "events", TO_DO),
            "delete": lambda: self.rows("delete", "jobs"),
        }
        if self.streams.no_pgq is None:
            found["pgq"] = self.pgq
        return found

    def report(self):
        """The tables."""
        titles = {"subscription": "subscription, sink that accepts at once",
                  "update": "`FOR UPDATE SKIP LOCKED LIMIT 100`, UPDATE",
                  "delete": "`FOR UPDATE SKIP LOCKED LIMIT 100`, DELETE",
                  "pgq": f"PgQ, batches of {PGQ_BATCH:,}"}
        rates = {what: [work.rate for work in works] for what, works in self.found.items()}
        rows = [[titles[what], Spread.of(rates[what]).show(",.0f"),
                 Spread.of(work.cost for work in self.found[what]).show(".1f")]
                for what in titles if what in self.found]
        words = [table(["", "events a second", "CPU, µs an event"], rows)]
        rows = []
        for peer, aim in (("update", DRAIN_AIM), ("delete", None), ("pgq", PGQ_AIM)):
            if peer in rates:
                spread = ratio(rates["subscription"], rates[peer])
                rows.append([titles[peer], spread.show(".1f")]
                            + (verdict(spread.median >= aim, f"{aim:.1f}") if aim else ["", ""]))
        words.append(table(["the subscription's rate to that of", "ratio", "aim", ""], rows))
        if self.streams.no_pgq is not None:
            words.append(f"Without PgQ, which could not be used here: {self.streams.no_pgq}\n")
        return "\n".join(words)

    def conditions(self, rounds):
        """How it was done."""
        return (f"{rounds} rounds with {self.streams.events:,} events; the workers with SKIP LOCKED for "
                f"{self.seconds:g} s each; durable commits.")


class Held(Section):
    """With a snapshot held open, and orders coming in."""

    name = "held"

    def follow(self, subscription, begin):
        """Keep up with what comes in: lags in events, and what it took."""
        lags = []
        before, cpu = subscription.delivered()[0], subscription.cpu()
        started = time.monotonic()
        while time.monotonic() < started + self.seconds:
            time.sleep(LAG_EVERY)
            written = self.streams.connection.execute(
                "SELECT last_value FROM order_idempotency.outbox_position").fetchone()[0] - begin
            lags.append(max(0, written - subscription.delivered()[0]))
        work = Work(subscription.delivered()[0] - before, time.monotonic() - started, subscription.cpu() - cpu)
        self.note(("lag", subscription.name), lags)
        self.note(("follow", subscription.name), work)

    def ours(self, held):
        """Follow for a while, then deliver the whole log once more."""
        name = "held" if held else "free"
        streams = self.streams
        streams.vacuum("order_idempotency.subscription_cursors")
        streams.ready("on")
        begin = streams.connection.execute("SELECT last_value FROM order_idempotency.outbox_position").fetchone()[0]
        with (streams.subscribed(name) as subscription, streams.snapshot_held(held),
              streams.incoming("create_order")):
            self.follow(subscription, begin)
            return streams.deliver_all(subscription)

    def rows(self, held):
        """The worker with SKIP LOCKED."""
        self.streams.stock("events", TO_DO)
        self.streams.ready("on")
        with self.streams.snapshot_held(held), self.streams.incoming("insert"):
            return self.streams.consume("update", "-i", 1, "-s", self.seconds)

    def cases(self):
        return {
            "subscription": lambda: self.ours(False),
            "subscription, snapshot held": lambda: self.ours(True),
            "update": lambda: self.rows(False),
            "update, snapshot held": lambda: self.rows(True),
        }

    def report(self):
        """The tables."""
        titles = {"subscription": "subscription",
                  "update": "`FOR UPDATE SKIP LOCKED LIMIT 100`, UPDATE"}
        rows = []
        for what, title in titles.items():
            free, held = ([work.rate for work in self.found[case]] for case in (what, f"{what}, snapshot held"))
            spread = ratio(held, free)
            rows.append([title, Spread.of(free).show(",.0f"), Spread.of(held).show(",.0f"), spread.show(".2f")]
                        + (verdict(spread.median >= HELD_AIM, f"{HELD_AIM:.2f}") if what == "subscription"
                           else ["", ""]))
        words = [table(["a backlog, events a second", "without", "snapshot held", "ratio", "aim", ""], rows)]
        rows = []
        for name, title in (("free", "without"), ("held", "snapshot held")):
            lags = [lag for lags in self.found["lag", name] for lag in lags]
            works = self.found["follow", name]
            rows.append([title, Spread.of(work.rate for work in works).show(",.0f"),
                         f"{percentile(lags, 0.5):,}", f"{percentile(lags, 0.99):,}",
                         Spread.of(work.cost for work in works).show(".1f")])
        words.append(table(["a subscription that keeps up", "events a second", "events behind, median", "p99",
                            "CPU, µs an event"], rows))
        return "\n".join(words)

    def conditions(self, rounds):
        """How it was done."""
        return (f"{rounds} rounds; {RATE:,} orders a second coming in; {self.seconds:g} s of keeping up, then "
                f"the {self.streams.events:,} events of the log once more; the worker with SKIP LOCKED for "
                f"{self.seconds:g} s; durable commits.")


class Writers(Section):
    """What subscriptions cost those who write."""

    name = "writers"

    def create(self, fsync, subscriptions):
        """Create orders, beside workers that deliver them."""
        streams = self.streams
        if subscriptions:
            number = subscriptions - 1
            with streams.subscribed(f"writers_{number}") as subscription:
                begin = subscription.delivered()[0], subscription.cpu()
                done = self.create(fsync, number)
                self.note(("worker", fsync), Work(subscription.delivered()[0] - begin[0], done.seconds,
                                                  subscription.cpu() - begin[1]))
                return done
        streams.ready(fsync)
        done = streams.client.run(cases.CASES["create"], streams.conninfo(), self.seconds)
        return Work(done.calls, done.seconds, done.cpu)

    def cases(self):
        return {(fsync, n): lambda fsync=fsync, n=n: self.create(fsync, n)
                for fsync in ("on", "off") for n in (0, SUBSCRIPTIONS)}

    def report(self):
        """The table."""
        rows = []
        for fsync, title in (("on", "durable commits"), ("off", "`fsync = off`")):
            none, some = ([work.rate for work in self.found[fsync, n]] for n in (0, SUBSCRIPTIONS))
            spread = ratio(some, none)
            rows.append([title, Spread.of(none).show(",.0f"), Spread.of(some).show(",.0f"), spread.show(".2f"),
                         *verdict(spread.median >= WRITERS_AIM, f"{WRITERS_AIM:.2f}"),
                         Spread.of(work.cost for work in self.found["worker", fsync]).show(".1f"),
                         Spread.of(work.events / work.seconds for work in self.found["worker", fsync]).show(",.0f")])
        return table(["`create_order`, calls a second", "no subscription", "three", "ratio", "aim", "",
                      "a worker's CPU, µs an event", "its events a second"], rows)

    def conditions(self, rounds):
        """How it was done."""
        return f"{rounds} rounds of {self.seconds:g} s a case, 8 clients; all on the same cores."


SECTIONS = {section.name: section for section in (Wake, Drain, Held, Writers)}
WITH_LOG = {"drain", "held"}


def sections(streams, wanted, arguments):
    """Run those that are wanted; each with its text and its conditions."""
    streams.make()
    todo = [section(streams, arguments.seconds) for name, section in SECTIONS.items() if name in wanted]
    before = [section for section in todo if section.name not in WITH_LOG]
    after = [section for section in todo if section.name in WITH_LOG]
    for group in (before, after):
        if group and group is after:
            streams.fill(arguments.events)
            streams.fill_queues()
            streams.vacuum()
        for number in range(1, arguments.rounds + 1):
            for section in group:
                section.run_round(number, arguments.rounds)
        for section in group:
            yield section.name, section.report(), section.conditions(arguments.rounds)
