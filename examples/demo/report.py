"""What the demo prints: progress, the table, the operator's queries."""

import subprocess
import sys
import time

from check import DEFECTS

# On a terminal the progress line is refreshed so often; elsewhere a line is
# printed at each of so many steps.
REFRESH = 0.1
STEPS = 10

OPERATOR_QUERIES = (
    ("Are the events out?", """
SELECT name, server, state, delivered, lag_events, last_error
FROM order_idempotency.subscription_status"""),
    ("Which orders are there, and where is their money?", """
SELECT state, tombstone, money_status, currency, count(*), sum(amount) AS amount
FROM order_idempotency.orders
GROUP BY state, tombstone, money_status, currency ORDER BY 1, 2, 4"""),
    ("Do the balances agree with the orders and with the movements?", """
SELECT account, currency, balance, sum(m.amount) AS movements,
       (SELECT sum(o.amount) FROM order_idempotency.orders o
        WHERE o.currency = b.currency
          AND o.money_status = CASE b.account WHEN 'escrow' THEN 'held'
                                              ELSE 'captured' END) AS orders
FROM order_idempotency.account_balance b
     JOIN (SELECT credit_account AS account, currency, amount FROM order_idempotency.ledger
           UNION ALL
           SELECT debit_account, currency, -amount FROM order_idempotency.ledger) m
     USING (account, currency)
WHERE account IN ('escrow', 'revenue')
GROUP BY account, currency, balance ORDER BY 1, 2"""),
)


class Progress:
    """One line that tells how far a side has come."""

    def __init__(self, title, total, out=None):
        self.title = title
        self.total = total
        self.out = out or sys.stdout
        self.terminal = self.out.isatty()
        self.started = time.monotonic()
        self.drawn = 0.0
        self.step = 0

    def advance(self, done):
        """Show that so many requests are answered."""
        now = time.monotonic()
        if self.terminal:
            if now - self.drawn >= REFRESH or done == self.total:
                self.drawn = now
                self.out.write("\r" + self._line(done) + "\x1b[K")
        elif done * STEPS // self.total > self.step:
            self.step = done * STEPS // self.total
            self.out.write(self._line(done) + "\n")
        self.out.flush()

    def note(self, text):
        """A line of its own, for a kill."""
        self.out.write(("\r" if self.terminal else "") + f"  {self.title:<18} {text}"
                       + ("\x1b[K" if self.terminal else "") + "\n")
        self.out.flush()

    def finish(self):
        """Leave the line; the seconds that it took."""
        if self.terminal:
            self.out.write("\n")
            self.out.flush()
        return time.monotonic() - self.started

    def _line(self, done):
        seconds = max(time.monotonic() - self.started, 0.001)
        return (f"  {self.title:<18} {done:>7,} of {self.total:,} requests  "
                f"{100 * done // self.total:>3} %  {done / seconds:>6,.0f}/s")


def print_table(sides):
    """Both columns side by side; sides: (title, facts, verdict)."""
    titles = [title for title, _, _ in sides]
    width = [max(12, len(t)) for t in titles]

    def line(name, cells):
        print(f"  {name:<20}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, width)))

    rule = "  " + "-" * (20 + sum(width) + 2 * len(width))
    print()
    line("", titles)
    print(rule)
    for fact in sides[0][1]:
        line(fact, [f"{facts[fact]:,}" for _, facts, _ in sides])
    print(rule)
    for kind in DEFECTS:
        line(kind, [f"{verdict.count(kind):,}" for _, _, verdict in sides])
    print(rule)
    print()
    print("  The usual pattern checks for the key, writes, stores the key, publishes, each step in\n"
          "  the client's own statements (client_usual.py); order_idempotency is one function call\n"
          "  (client_ours.py).  Counted order by order against what the generator knows:\n")
    for kind, meaning in DEFECTS.items():
        print(f"  {kind + ':':<21} {meaning}")
    print()


def write_defects(path, sides):
    """All defects, one a line, for whoever wants to look into them."""
    with open(path, "w", encoding="utf-8") as out:
        for title, _, verdict in sides:
            for kind, found in verdict.found.items():
                out.writelines(f"{title}: {kind}: {where}\n" for where in found)


def run_operator_queries(server):
    """What an operator would ask psql, and what it says."""
    for question, query in OPERATOR_QUERIES:
        query = query.strip()
        print(f"-- {question}\n{query};", flush=True)
        subprocess.run(psql(server) + ["-X", "-P", "pager=off", "-c", query], check=True)


def psql(server):
    """The psql command for the demo's database."""
    return [server.program("psql"), "-h", server.sockets,
            "-p", str(server.port), "-U", "postgres", "-d", "ours"]


def print_way_in(server, workdir):
    """How to look around, and how to stop."""
    print("The server is up.  To look around:\n\n  " + " ".join(psql(server)))
    print("\n  (-d usual for the other side's tables; the feed, what is expected of it, the "
          f"published\n  events and defects.txt are in {workdir})\n\nTo stop it: make demo-stop")
