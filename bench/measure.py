"""Running clients, and what their runs come to."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import cases
from server import run


def say(text):
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


@dataclass(frozen=True)
class Run:
    """What one run of clients did."""

    calls: int
    seconds: float
    cpu: float                  # the clients' own, in seconds

    @property
    def rate(self):
        """Calls a second."""
        return self.calls / self.seconds


class Client:
    """The client of bench/client.c, and the files of keys it takes."""

    def __init__(self, workdir, sources):
        self.workdir = Path(workdir)
        self.program = self.workdir / "client"
        self.source = Path(sources) / "client.c"

    def build(self):
        """Compile it."""
        libraries = run(["pkg-config", "--cflags", "--libs", "libpq", "hiredis"]).split()
        run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", self.source, "-o", self.program,
             *libraries, "-lpthread"])

    def keys(self, name):
        """The file with keys of that name."""
        return self.workdir / f"keys.{name}"

    def command(self, case, target, seconds=None, calls=None, rate=None, warm_up=None):
        """The command of a case's clients."""
        keys = case.keys if case.keys in ("uuid7", "random") else self.keys(case.keys)
        words = [self.program, "-c", case.clients, "-k", keys]
        words += ["-n", calls] if calls else ["-s", seconds]
        if warm_up is not None:
            words += ["-w", warm_up]
        if rate:
            words += ["-r", rate]
        if case.once:
            words.append("-o")
        if case.expected:
            words += ["-e", case.expected]
        for value in () if case.redis else case.params:
            words += ["-p", value]
        return [*words, "redis" if case.redis else "postgres", target, *case.statements]

    def run(self, case, target, seconds=None, calls=None, warm_up=None):
        """Run a case's clients."""
        printed = run(self.command(case, target, seconds, calls, warm_up=warm_up)).split()
        return Run(int(printed[0]), float(printed[1]), float(printed[2]))


@dataclass(frozen=True)
class Spread:
    """A median with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values):
        """Of a list."""
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def show(self, form):
        """In words, such as "0.91 (0.88 to 0.93)"."""
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


class Fixtures:
    """The database that is measured in, as a template, and the files of keys."""

    TEMPLATE = "template_bench"
    REPEATED = 20_000           # keys that are there to be repeated
    STATES_A_SECOND = 12_000    # orders to change, for each second of a run

    def __init__(self, postgres, client, sources, seconds):
        self.postgres = postgres
        self.client = client
        self.sources = Path(sources)
        self.states = int(max(1, seconds) * self.STATES_A_SECOND)

    def make(self):
        """Make the template; every table has the same orders in it."""
        say("setting up")
        order = f"{cases.AMOUNT}, '{cases.CURRENCY}', '{cases.ACCOUNT}', '{cases.PAYLOAD}'"
        repeated = f"WHERE i <= {self.REPEATED}"
        self.postgres.psql(f"CREATE DATABASE {self.TEMPLATE}")
        self.psql("CREATE EXTENSION order_idempotency")
        self.psql((self.sources / "peers.sql").read_text(encoding="utf-8"))
        # keys that are in the order of their making, as those of UUIDv7 are
        self.psql(f"""
            CREATE TABLE keys AS
            SELECT i, format('0190%s-%s-7%s-8%s-%s', lpad(to_hex(i >> 8), 4, '0'),
                             lpad(to_hex((i & 255) << 8), 4, '0'), substr(h, 1, 3), substr(h, 4, 3),
                             substr(h, 7, 12)) AS key
            FROM generate_series(1, {self.REPEATED + self.states}) i, md5(i::text) h;
            SELECT count(*) FROM keys, order_idempotency.create_order(key, {order});
            SELECT count(*) FROM keys, order_idempotency.claim_key(key, '{cases.PAYLOAD}') {repeated};
            SELECT count(order_idempotency.complete_key(key, '{cases.RESPONSE}')) FROM keys {repeated};
            INSERT INTO peer.bare_orders SELECT key, {order} FROM keys;
            INSERT INTO peer.bare_states SELECT key, 'created', {order} FROM keys;
            SELECT count(*) FROM keys, peer.create_order(key, {order});
            INSERT INTO peer.keys SELECT key, sha256(key::bytea), '{cases.RESPONSE}' FROM keys;
            VACUUM ANALYZE""")
        self.write_keys("orders", repeated)
        self.write_keys("claims", repeated)
        self.write_keys("states", f"WHERE i > {self.REPEATED}")
        self.psql("DROP TABLE keys")

    def psql(self, sql):
        """Run SQL in the template."""
        return self.postgres.psql(sql, self.TEMPLATE)

    def write_keys(self, name, where):
        """Write a file of keys."""
        self.client.keys(name).write_text(self.psql(f"SELECT key FROM keys {where} ORDER BY i") + "\n")

    def fill_redis(self, redis):
        """Give Redis the claims."""
        fill = cases.Case("set", "SET", ("SET", cases.RESPONSE), keys="claims", once=True, expected="OK",
                          clients=1, redis=True)
        self.client.run(fill, redis.socket, calls=self.REPEATED)

    def renew(self):
        """A fresh copy to measure in."""
        self.postgres.configure(fsync="off")
        self.postgres.psql("DROP DATABASE IF EXISTS bench")
        self.postgres.psql(f"CREATE DATABASE bench TEMPLATE {self.TEMPLATE}")

    def drop(self):
        """Make room."""
        for name in ("bench", self.TEMPLATE):
            self.postgres.psql(f"DROP DATABASE IF EXISTS {name}")


class Comparisons:
    """All comparisons of the sections that were asked for, in rounds."""

    def __init__(self, postgres, redis, client, sections, seconds):
        self.postgres = postgres
        self.redis = redis
        self.client = client
        self.sections = sections
        self.seconds = seconds
        self.runs = {}          # (fsync, case) -> [Run, ...], one for each round

    def cases(self, fsync):
        """The cases that run with that setting of fsync."""
        names = [name for s in self.sections if fsync in s.fsync for name in s.cases()]
        return [cases.CASES[name] for name in dict.fromkeys(names)]

    def run_case(self, case):
        """One run of a case in the database of this round."""
        if case.redis:
            return self.client.run(case, self.redis.socket, self.seconds)
        self.postgres.psql("CHECKPOINT")
        return self.client.run(case, self.postgres.conninfo("bench"), self.seconds)

    def run_round(self, fixtures, number, rounds):
        """Every case once, with fsync on and off; each round begins with another."""
        for fsync in ("on", "off"):
            todo = self.cases(fsync)
            if not todo:
                continue
            first = (number - 1) * len(todo) // rounds
            fixtures.renew()
            self.postgres.configure(fsync=fsync)
            for case in todo[first:] + todo[:first]:
                done = self.run_case(case)
                self.runs.setdefault((fsync, case.name), []).append(done)
                say(f"round {number} of {rounds}, fsync {fsync:3}  {done.rate:10,.0f}/s  {case.title}")
        self.postgres.configure(fsync="off")

    def rates(self, fsync, name):
        """Calls a second of a case."""
        return Spread.of(r.rate for r in self.runs[fsync, name])

    def ratio(self, fsync, comparison):
        """Ours to the peer's, of the same round."""
        pairs = zip(self.runs[fsync, comparison.ours], self.runs[fsync, comparison.peer])
        return Spread.of(ours.rate / peer.rate for ours, peer in pairs)

    def client_cost(self, fsync, name):
        """CPU microseconds of the client for a call."""
        return Spread.of(r.cpu / r.calls * 1e6 for r in self.runs[fsync, name])
