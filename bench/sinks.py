"""The sinks beside their bare client libraries: rates, what the processes cost, and latency."""

import contextlib
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import brokers
import cases
from brokers import STREAM, Missing
from delivery import percentile, verdict
from measure import Spread, say
from results import table
from server import ServerError, run
from streams import Work, wait_for

BATCH = 5000                    # events of one delivery, and of one transaction or write of the peer
WARM_UP = 1000                  # events of the peer before it is counted
RATE_AIM = 0.8

SINGLE = 100                    # events of a round that go out one by one
GAP = 20                        # ms between these, on average
MEDIAN_AIM = 2.0                # ms
P99_AIM = 10.0

CREATING = (f"SELECT * FROM order_idempotency.create_order($1, {cases.AMOUNT}, '{cases.CURRENCY}', "
            f"'{cases.ACCOUNT}', '{cases.PAYLOAD}')")
DUMP = """
    COPY (SELECT event_id, '/order_idempotency/' || current_database(), type, key,
                 to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), position,
                 extract(epoch FROM created_at)::bigint, payload
          FROM order_idempotency.outbox ORDER BY position) TO STDOUT"""


@dataclass(frozen=True)
class Case:
    """A sink, and the library that it is built on."""

    name: str
    title: str
    broker: type
    sink: str
    package: str                # of pkg-config; empty: none
    server: Callable            # broker -> options of the foreign server
    target: Callable            # broker -> where the peer finds it
    options: tuple = ()         # of the peer
    share: float = 1.0          # of the events: slow ones have fewer


def tcp(broker):
    """Host and port."""
    return f"127.0.0.1:{broker.port}"


def host_and_port(broker):
    """The same as options."""
    return {"host": "127.0.0.1", "port": broker.port}


CASES = {case.name: case for case in (
    Case("kafka", "kafka, exactly once", brokers.Kafka, "kafka", "rdkafka",
         lambda b: {"bootstrap.servers": tcp(b)}, tcp, ("-x", "bench")),
    Case("kafka_acks", "kafka, `exactly_once` off", brokers.Kafka, "kafka", "rdkafka",
         lambda b: {"bootstrap.servers": tcp(b), "exactly_once": "off"}, tcp),
    Case("rabbitmq", "rabbitmq, a quorum queue", brokers.RabbitMQ, "rabbitmq", "librabbitmq",
         host_and_port, tcp, ("-f", 1000), share=0.5),
    Case("redis", "redis", brokers.Redis, "redis", "hiredis", host_and_port, tcp, ("-f", 1000)),
    Case("nats", "nats, JetStream on disk", brokers.Nats, "nats", "libnats",
         lambda b: {"url": f"nats://{tcp(b)}"}, lambda b: f"nats://{tcp(b)}", ("-f", 1000)),
    Case("http", "http, 8 requests at a time", brokers.Receiver, "http", "libcurl",
         lambda b: {"url": f"http://{tcp(b)}", "allow_addresses": "127.0.0.1"}, lambda b: f"http://{tcp(b)}", ("-f", 8), share=0.25),
    Case("file", "file", brokers.Files, "file", "", lambda b: {"path": b.dir}, lambda b: b.dir),
)}


@dataclass(frozen=True)
class Side:
    """What one side did in a round."""

    work: Work
    broker: float               # CPU seconds of the broker meanwhile

    @property
    def broker_cost(self):
        """CPU microseconds of the broker for an event."""
        return self.broker / self.work.events * 1e6


class Publisher:
    """The peer: a program of bench/bare."""

    def __init__(self, case, workdir, sources):
        self.case = case
        self.workdir = Path(workdir)
        self.program = self.workdir / f"bare_{case.sink}"
        self.sources = Path(sources) / "bare"

    def build(self):
        """Compile it."""
        libraries = []
        if self.case.package:
            try:
                libraries = run(["pkg-config", "--cflags", "--libs", self.case.package]).split()
            except ServerError as error:
                raise Missing(f"pkg-config does not know {self.case.package}") from error
        run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", self.sources / "main.c",
             self.sources / f"{self.case.sink}.c", "-o", self.program, *libraries])

    def run(self, broker, *options):
        """What it prints."""
        return run([self.program, "-t", STREAM, "-b", BATCH, *self.case.options, *options,
                    self.workdir / "events", self.case.target(broker)]).split()

    def publish(self, broker, events):
        """Publish so many events as fast as it can."""
        printed = self.run(broker, "-w", WARM_UP, "-n", events)
        return Work(int(printed[0]), float(printed[1]), float(printed[2]))

    def publish_singly(self, broker, number):
        """Microseconds of each event, one by one; each time others."""
        return [float(line) for line in self.run(broker, "-s", number * (SINGLE + 10), "-w", 10, "-l", SINGLE,
                                                 "-g", GAP)]


class Comparison:
    """A sink and its peer, with the broker that is theirs."""

    def __init__(self, case, streams, events, rounds):
        self.case = case
        self.streams = streams
        self.events = int(events * case.share)
        self.rounds = rounds
        self.broker = case.broker(streams.workdir / "brokers")
        self.peer = Publisher(case, streams.workdir, streams.sources)
        self.made = 0
        self.sides = {"subscription": [], "peer": []}
        self.latencies = {"subscription": [], "peer": []}
        self.version = None

    @contextlib.contextmanager
    def subscribed(self):
        """A subscription that has delivered an event."""
        streams, connection = self.streams, self.streams.connection
        self.made += 1
        name = f"{self.case.name}_{self.made}"
        options = ", ".join(f"\"{key}\" '{value}'" for key, value in self.case.server(self.broker).items())
        connection.execute(f"CREATE SERVER {name} FOREIGN DATA WRAPPER order_idempotency_{self.case.sink} "
                           f"OPTIONS ({options})")
        with streams.subscribed(name, name, STREAM, f'{{"batch_size": {BATCH}}}') as subscription:
            connection.execute("SELECT * FROM order_idempotency.create_order("
                               f"'warm-up-' || gen_random_uuid(), {cases.AMOUNT}, '{cases.CURRENCY}')")
            wait_for("the first event", lambda: subscription.delivered()[0] >= 1)
            yield subscription
        connection.execute(f"DROP SERVER {name}")

    def deliver(self):
        """The subscription's rate."""
        with self.subscribed() as subscription:
            self.streams.ready("on")
            before = self.broker.cpu()
            work = self.streams.deliver_last(subscription, self.events)
            return Side(work, self.broker.cpu() - before)

    def publish(self):
        """The peer's."""
        before = self.broker.cpu()
        work = self.peer.publish(self.broker, self.events)
        return Side(work, self.broker.cpu() - before)

    def measure_rates(self):
        """All rounds; the one before the first is not counted."""
        for number in range(self.rounds + 1):
            both = [("subscription", self.deliver), ("peer", self.publish)]
            for side, function in both if number % 2 else reversed(both):
                self.broker.fresh()
                done = function()
                say(f"round {number} of {self.rounds}, {self.case.name}: {side:12} {done.work.rate:10,.0f}/s")
                if number > 0:
                    self.sides[side].append(done)

    def measure_latencies(self):
        """All rounds, with one subscription."""
        self.broker.fresh()
        with self.subscribed() as subscription:
            self.streams.ready("on")
            for number in range(self.rounds):
                self.latencies["subscription"].append(self.wait_singly(subscription))
                self.latencies["peer"].append(self.peer.publish_singly(self.broker, number))

    def wait_singly(self, subscription):
        """Microseconds of each event, one by one."""
        printed = run([self.streams.workdir / "latency", "-n", SINGLE, "-g", GAP, self.streams.conninfo(),
                       subscription.name, CREATING])
        return [float(line) for line in printed.split()]

    def run(self):
        """Everything, with a broker of our own; raises Missing where there is none."""
        library = f"order_idempotency_{self.case.sink}.so"
        if not (Path(run([self.streams.postgres.bindir / "pg_config", "--pkglibdir"]).strip()) / library).exists():
            raise Missing(f"there is no {library}")
        self.peer.build()
        try:
            self.broker.start()
            self.version = self.broker.version()
            self.measure_rates()
            self.measure_latencies()
        finally:
            self.broker.stop()

    def rates(self, side):
        """Events a second, by round."""
        return [done.work.rate for done in self.sides[side]]

    def rate_row(self):
        """A row of the table of rates."""
        ratio = Spread.of(ours / peers for ours, peers in zip(self.rates("subscription"), self.rates("peer")))
        return [self.case.title, *(Spread.of(self.rates(side)).show(",.0f") for side in self.sides),
                ratio.show(".2f"), *verdict(ratio.median >= RATE_AIM, f"{RATE_AIM:.1f}")]

    def cost_row(self):
        """A row of the table of CPU."""
        cells = [self.case.title]
        for done in self.sides.values():
            work = [side.work for side in done]
            cells.append(f"{statistics.median(one.cost for one in work):.1f}")
            cells.append(f"{statistics.median(one.cpu / one.seconds for one in work):.2f}")
            cells.append(f"{statistics.median(side.broker_cost for side in done):.1f}")
            cells.append(f"{statistics.median(side.broker / side.work.seconds for side in done):.2f}")
        return cells

    def latency_row(self):
        """A row of the table of latency."""
        cells = [self.case.title]
        for share, aim in ((0.50, MEDIAN_AIM), (0.99, P99_AIM)):
            ours, peers = (percentile([us / 1000 for values in self.latencies[side] for us in values], share)
                           for side in ("subscription", "peer"))
            cells += [f"{ours:.2f}", f"{peers:.2f}", f"{ours - peers:.2f}",
                      *verdict(ours - peers < aim, f"{aim:.0f}")]
        return cells


def compare(streams, wanted, events, rounds):
    """Compare those that are wanted; the results, and a line for each that was left out."""
    done, left_out = [], []
    shutil.rmtree(streams.workdir / "brokers", ignore_errors=True)
    for name in wanted:
        comparison = Comparison(CASES[name], streams, events, rounds)
        try:
            comparison.run()
        except Missing as missing:
            left_out.append(f"Without {name}: {missing}.")
            say(left_out[-1])
        else:
            done.append(comparison)
    return done, left_out


def dump(streams):
    """The log's events as a file for the peers."""
    with open(streams.workdir / "events", "wb") as file, streams.connection.cursor() as cursor:
        with cursor.copy(DUMP) as copy:
            for part in copy:
                file.write(part)


def build(streams):
    """Compile what all of them need."""
    libpq = run(["pkg-config", "--cflags", "--libs", "libpq"]).split()
    for name, program, libraries in (("latency", "latency", libpq), ("receiver", "http_receiver", [])):
        run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", streams.sources / f"{name}.c", "-o",
             streams.workdir / program, *libraries])


def versions(done):
    """What was measured with."""
    return ", ".join(dict.fromkeys(comparison.version for comparison in done if comparison.case.sink != "file"))


def report_rates(done):
    """The tables of the section "sinks"."""
    words = [table(["", "subscription, events a second", "bare library", "ratio", "aim", ""],
                   [comparison.rate_row() for comparison in done]),
             table(["CPU, µs an event, and processors in use", "worker", "in use", "broker beside it", "in use",
                    "bare program", "in use", "broker beside it", "in use"],
                   [comparison.cost_row() for comparison in done])]
    return "\n".join(words)


def report_latencies(done):
    """The table of the section "latency"."""
    return table(["ms from the commit to the record of the acknowledgement", "median", "bare library", "difference",
                  "aim", "", "p99", "bare library", "difference", "aim", ""],
                 [comparison.latency_row() for comparison in done])
