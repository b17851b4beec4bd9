"""Do calls keep their speed, and their WAL, as the tables grow?

A database for each size, all of one kind of keys at a time, filled by import:
orders with their rows in the ledger, and claims.  Then rounds, in each of
which every size has its turn with every call, a fixed number of calls after a
checkpoint: what WAL a call takes depends on how many calls share the first
change of a page after a checkpoint, so the number must be the same.
"""

import shutil
from dataclasses import replace
from concurrent.futures import ThreadPoolExecutor

import cases
from measure import Spread, say
from results import table
from server import ServerError

KINDS = ("uuid7", "random")
CALLS_A_SECOND = 8000           # how many calls are made for each second asked for
WARM_UP = 5                     # and a fifth of them before, to fill caches
TOUCHES = 20_000                # replays of each client before it counts: see run_call
SAMPLE = 100_000                # keys that are repeated
BATCH = 2_000_000               # rows of one transaction of the import
BYTES_A_ROW = 850               # on disk, an order with its ledger row and a claim
RESERVE = 8 * 2**30             # for WAL, and what the measured calls add
AIM = 0.10                      # how much may change with UUIDv7

PAYLOAD = '{"items": [{"sku": "A-1001", "qty": 2, "price": 1250}]}'
ORDER = (cases.AMOUNT, cases.CURRENCY, cases.ACCOUNT, PAYLOAD)

# The key of row i: in the order of their making, a millisecond apart and all
# of them before now; or without any order.
KEYS = {
    "uuid7": """(SELECT substr(t, 1, 8) || '-' || substr(t, 9, 4) || '-7' || substr(h, 1, 3) || '-8' ||
                        substr(h, 4, 3) || '-' || substr(h, 7, 12)
                 FROM lpad(to_hex({epoch} + {i}), 12, '0') t, md5({i}::text) h)""",
    "random": "md5({i}::text)::uuid::text",
}

ORDERS = """
WITH k AS MATERIALIZED (
	SELECT k FROM (SELECT {key} AS k FROM generate_series({first}::bigint, {last}) i) k {sorted_by_key}
), o AS (
	INSERT INTO order_idempotency.orders
		(key, state, amount, currency, account, money_status, payload, history)
	SELECT k, 'created', {amount}, '{currency}', '{account}', 'held', '{payload}',
		ARRAY[ROW(1, 'created', now(), gen_random_uuid(), NULL, NULL)::order_idempotency.order_step]
	FROM k
)
INSERT INTO order_idempotency.ledger
SELECT k, 1, 'hold', '{account}', 'escrow', {amount}, '{currency}', now() FROM k
"""

# the hash is that of src/fingerprint.c; a wrong one would show as "claimed"
CLAIMS = """
INSERT INTO order_idempotency.claims_0 (key_hash, claimed_at, attempt)
SELECT (CASE WHEN k ~ '^.{{14}}7.{{4}}[89ab]' THEN substr(k, 1, 8) || substr(d, 1, 24) ELSE substr(d, 1, 32) END)::uuid AS h,
	now(), 1
FROM (SELECT {key} AS k FROM generate_series({first}::bigint, {last}) i) k,
	LATERAL encode(sha256(int4send(7) || 'default' || int4send(length(k)) || k::bytea), 'hex') d
ORDER BY h;
"""

SAMPLES = {
    # the latest keys, as most repeats come soon; and any, as some do not
    "recent": "SELECT {key} FROM generate_series({total}::bigint - {sample} + 1, {total}) i",
    "any": "SELECT {key} FROM generate_series(1, {sample}) s, "
           "LATERAL (SELECT 1 + mod(s * 7919::bigint * 104729, {total}) AS i) i",
}

CALLS = (
    cases.Case("create", "`create_order`", (cases.CREATE,), expected="created", params=ORDER),
    cases.Case("recent", "`create_order`, a recent key replayed", (cases.CREATE,), keys="recent",
               expected="replayed", params=ORDER),
    cases.Case("any", "`create_order`, any key replayed", (cases.CREATE,), keys="any",
               expected="replayed", params=ORDER),
    cases.Case("claim", "`claim_key`", (cases.CLAIM_BARE,), expected="claimed", params=ORDER),
    cases.Case("claim_recent", "`claim_key`, a recent key replayed", (cases.CLAIM_BARE,), keys="recent",
               expected="replayed", params=ORDER),
    cases.Case("claim_any", "`claim_key`, any key replayed", (cases.CLAIM_BARE,), keys="any",
               expected="replayed", params=ORDER),
)


class Growth:
    """The databases and what was measured in them."""

    def __init__(self, postgres, client, arguments):
        self.postgres = postgres
        self.client = client
        self.rounds = arguments.rounds
        self.sizes = {f"{size:g} million": int(size * 1_000_000) for size in sorted(arguments.growth)}
        self.calls = max(1000, int(arguments.seconds * CALLS_A_SECOND))
        self.rates = {}         # (kind, size, call) -> [calls a second, ...]
        self.wal = {}           # the same -> [bytes a call, ...]
        self.images = {}        # the same -> [page images a call, ...]

    def database(self, size):
        """The name of the database of a size."""
        return "growth_" + size.replace(" ", "_").replace(".", "_")

    def run(self):
        """Both kinds of keys; the tables, and under which conditions."""
        needed = sum(self.sizes.values()) * BYTES_A_ROW + RESERVE
        free = shutil.disk_usage(self.postgres.data).free
        if free < needed:
            raise ServerError(f"growth takes {needed / 2**30:.0f} GB of disk, {free / 2**30:.0f} GB are free; "
                              'choose other sizes, such as GROWTH="1 10"')
        words = []
        for kind in KINDS:
            for size in self.sizes:
                self.fill(kind, size)
            for number in range(1, self.rounds + 1):
                self.run_round(kind, number)
            for size in self.sizes:
                self.postgres.psql(f"DROP DATABASE {self.database(size)}")
            words.append(self.show(kind))
        conditions = (f"{self.rounds} rounds of {self.calls:,} calls, each after a checkpoint; 8 clients, "
                      f"`fsync = off`, shared_buffers {self.postgres.shared_buffers}; median (lowest to highest).")
        return "\n".join(words), conditions

    def fill(self, kind, size):
        """Make a database with that many orders and claims."""
        total = self.sizes[size]
        name = self.database(size)
        self.postgres.configure(fsync="off", full_page_writes="off")
        self.postgres.psql(f"DROP DATABASE IF EXISTS {name}")
        self.postgres.psql(f"CREATE DATABASE {name}")
        self.postgres.psql("CREATE EXTENSION order_idempotency", name)
        # settles that the hashes of this store are in the order of time
        self.postgres.psql("SELECT order_idempotency.complete_key('none')", name)
        epoch = int(self.postgres.psql("SELECT floor(extract(epoch FROM now()) * 1000)")) - 2 * total - 3_600_000
        key = KEYS[kind].format(epoch=epoch, i="i")

        sorted_by_key = 'ORDER BY k COLLATE "C"' if kind == "random" else ""

        def load(sql, what):
            """Import by batches."""
            for first in range(1, total + 1, BATCH):
                last = min(total, first + BATCH - 1)
                self.postgres.psql("SET work_mem = '512MB'; SET synchronous_commit = off; " + sql.format(
                    key=key, first=first, last=last, sorted_by_key=sorted_by_key, amount=cases.AMOUNT, currency=cases.CURRENCY,
                    account=cases.ACCOUNT, payload=PAYLOAD), name)
                say(f"{kind}, {size}: {last:,} {what}")

        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(load, ORDERS, "orders"), pool.submit(load, CLAIMS, "claims")]:
                done.result()
        # what autovacuum would have done by now
        self.postgres.psql("VACUUM ANALYZE order_idempotency.orders, order_idempotency.ledger, "
                           "order_idempotency.claims_0", name)
        for sample, sql in SAMPLES.items():
            keys = self.postgres.psql(sql.format(key=key, total=total, sample=min(SAMPLE, total)), name)
            self.client.keys(f"{sample}.{name}").write_text(keys + "\n", encoding="utf-8")
        self.postgres.configure(full_page_writes="on")
        say(f"{kind}, {size}: " + self.postgres.psql(f"SELECT pg_size_pretty(pg_database_size('{name}'))"))

    def run_round(self, kind, number):
        """Every call in every size, some calls before it to fill caches."""
        for call in CALLS:
            for size in self.sizes:
                self.run_call(kind, size, call, warm=True)
                self.run_call(kind, size, call, warm=False)
                key = kind, size, call.name
                say(f"round {number} of {self.rounds}, {kind}, {size:>10}  {self.rates[key][-1]:10,.0f}/s "
                    f"{self.wal[key][-1]:8,.0f} bytes  {call.title}")

    def run_call(self, kind, size, call, warm):
        """One run of a call.

        A server process that is new maps a page of shared_buffers when it first
        touches it, which takes longer than the call.  In a large store nearly every
        replay of any key touches another page, so each client makes some of them
        before it is counted.
        """
        name = self.database(size)
        keys = kind if call.keys == cases.FRESH else f"{call.keys}.{name}"
        case = replace(call, keys=keys)
        self.postgres.psql("CHECKPOINT")
        before = self.position()
        done = self.client.run(case, self.postgres.conninfo(name),
                               calls=self.calls // WARM_UP if warm else self.calls,
                               warm_up=0 if warm or call.keys == cases.FRESH else TOUCHES)
        if warm:
            return
        after = self.position()
        key = kind, size, call.name
        self.rates.setdefault(key, []).append(done.rate)
        self.wal.setdefault(key, []).append((after[0] - before[0]) / done.calls)
        self.images.setdefault(key, []).append((after[1] - before[1]) / done.calls)

    def position(self):
        """How many bytes of WAL there are, and how many images of pages in it."""
        row = self.postgres.psql("SELECT pg_current_wal_insert_lsn() - '0/0', wal_fpi FROM pg_stat_wal")
        return tuple(int(word) for word in row.split("|"))

    def show(self, kind):
        """The tables of one kind of keys."""
        smallest, largest = list(self.sizes)[0], list(self.sizes)[-1]
        rows, verdicts = [], []
        for call in CALLS:
            for size in self.sizes:
                key = kind, size, call.name
                rows.append([call.title, size, Spread.of(self.rates[key]).show(",.0f"),
                             f"{Spread.of(self.wal[key]).median:,.0f}",
                             f"{Spread.of(self.images[key]).median:.2f}"])
            verdicts.append([call.title, *self.change(kind, call, smallest, largest)])
        title = "UUIDv7 keys" if kind == "uuid7" else "Random keys"
        words = f"{title}:\n\n" + table(
            ["", "orders and keys", "calls a second", "WAL, bytes a call", "page images a call"], rows)
        if largest != smallest:
            words += "\n" + table([f"{largest} to {smallest}", "rate", "WAL", ""], verdicts)
        return words

    def change(self, kind, call, smallest, largest):
        """How the largest compares with the smallest."""
        rate = Spread.of(big / small for big, small in zip(self.rates[kind, largest, call.name],
                                                           self.rates[kind, smallest, call.name]))
        small = Spread.of(self.wal[kind, smallest, call.name]).median
        big = Spread.of(self.wal[kind, largest, call.name]).median
        # a replay writes nothing; what is there is the checkpoint's
        wal = big / small if small > 50 else 1.0
        flat = rate.median >= 1 - AIM and wal <= 1 + AIM
        verdict = ("within 10 %" if flat else "not within 10 %") if kind == "uuid7" else ""
        return rate.show(".2f"), f"{wal:.2f}" if small > 50 else "none written", verdict
