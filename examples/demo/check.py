"""The verdict: compare what was recorded with what the generator knows.

Pure: it reads no database and no file, believes no client and no figure of
the extension.  It is given the rows of the tables, the published file's raw
bytes, the clients' answers and the generator's expectations, and goes
through them order by order.  test_check.py plants each kind of damage and
sees it counted.
"""

import json
from collections import Counter
from dataclasses import dataclass, field

from feed import CREATE

# Every kind of defect, in the order of the table, with its definition.
DEFECTS = {
    "double charges": "captures of an order beyond its first",
    "lost orders": "an order whose create was acknowledged, or that must exist, is not there",
    "lost events": "a committed change of state that was never published",
    "ghost events": "a published event of a change that was never committed",
    "repeated events": "the same order, version and type published once more",
    "wrong money": "an order whose amount or money movements are not what its end demands",
    "wrong states": "an order that ended in no state that is right for it, or must not exist",
    "wrong answers": "a request answered as it must not be, or applied a second time",
    "events out of order": "an event published after a later one of its order",
    "torn lines": "a line of the published file that is no whole event",
}

# Outcomes that claim to have done the work, once for each identity.
FIRST_OUTCOMES = ("created", "applied", "cancelled", "tombstoned")


@dataclass(frozen=True)
class Move:
    """One movement of money: what it was for, from whom, to whom."""

    effect: str
    debit: str | None
    credit: str | None
    amount: int
    currency: str


@dataclass(frozen=True)
class Order:
    """One order as the database has it; a tombstone is no order."""

    state: str
    amount: int
    currency: str
    account: str


@dataclass
class Recorded:
    """All that one side left behind."""

    orders: dict = field(default_factory=dict)      # key -> Order
    changes: list = field(default_factory=list)     # (key, version, type), committed
    moves: dict = field(default_factory=dict)       # key -> [Move]
    published: bytes = b""


def ledger_moves(ending):
    """The ledger rows that an ending demands of order_idempotency."""
    moves = {
        "created": Move("hold", ending.account, "escrow", ending.amount, ending.currency),
        "paid": Move("capture", "escrow", "revenue", ending.amount, ending.currency),
        "cancelled": Move("release", "escrow", ending.account, ending.amount,
                          ending.currency),
    }
    return [moves[s] for s in ending.states if s in moves]


def charge_moves(ending):
    """The charges that an ending demands of the usual tables."""
    charge = Move("charge", ending.account, None, ending.amount, ending.currency)
    return [charge] * ending.charges()


class Verdict:
    """The defects found, by kind, each with a line that says where."""

    def __init__(self):
        self.found = {kind: [] for kind in DEFECTS}

    def add(self, kind, where):
        """Count one defect."""
        self.found[kind].append(where)

    def count(self, kind):
        """How many there are of a kind."""
        return len(self.found[kind])

    def total(self):
        """How many there are in all."""
        return sum(len(where) for where in self.found.values())


def check(requests, expectations, answers, recorded, demanded_moves):
    """The verdict over one side.

    demanded_moves says which movements an ending demands: ledger_moves or
    charge_moves.
    """
    verdict = Verdict()
    check_answers(verdict, requests, expectations, answers)
    acknowledged = acknowledged_creates(requests, answers)
    events = read_events(verdict, recorded.published)
    changes = group(recorded.changes)
    keys = (expectations.keys() | recorded.orders.keys() | changes.keys()
            | recorded.moves.keys() | events.keys())
    for key in sorted(keys):
        expectation = expectations.get(key)
        endings = expectation.endings if expectation else []
        order = recorded.orders.get(key)
        ending = check_state(verdict, key, order, endings, key in acknowledged)
        check_money(verdict, key, order, endings, ending,
                    recorded.moves.get(key, []), demanded_moves)
        check_events(verdict, key, ending if order else None,
                     changes.get(key, []), events.get(key, []))
    return verdict


def check_answers(verdict, requests, expectations, answers):
    """Each answer must be a right one, and only one may claim the work."""
    first = Counter()
    for request in requests:
        outcome = answers.get(request.id, {}).get("outcome", "none")
        if outcome not in expectations[request.order].answers[request.id]:
            verdict.add("wrong answers", f"{request.order}: request {request.id} "
                                         f"({request.op}) was answered \"{outcome}\"")
        elif outcome in FIRST_OUTCOMES:
            first[request.identity()] += 1
    for (op, order, _), times in first.items():
        for _ in range(times - 1):
            verdict.add("wrong answers", f"{order}: one {op} request was answered "
                                         f"as done {times} times")


def acknowledged_creates(requests, answers):
    """The orders of which some client was told that they exist."""
    return {r.order for r in requests if r.op == CREATE
            and answers.get(r.id, {}).get("outcome") in ("created", "replayed")}


def read_events(verdict, published):
    """Key -> [(version, type)] in the order of the file; counts torn lines."""
    events = {}
    lines = published.split(b"\n")
    if lines.pop():
        verdict.add("torn lines", f"line {len(lines) + 1} has no end")
    for number, line in enumerate(lines, 1):
        event = parse_event(line)
        if event is None:
            verdict.add("torn lines", f"line {number}: {line[:60]!r}")
        else:
            events.setdefault(event[0], []).append(event[1:])
    return events


def parse_event(line):
    """(key, version, type) of a line with a CloudEvent, None if it is none."""
    try:
        event = json.loads(line)
        key, version = event["data"]["key"], event["data"]["version"]
        whole = (event["specversion"] == "1.0" and event["id"]
                 and isinstance(key, str) and isinstance(version, int))
        return (key, version, event["type"]) if whole else None
    except (ValueError, KeyError, TypeError):
        return None


def group(changes):
    """Key -> [(version, type)]."""
    grouped = {}
    for key, version, kind in changes:
        grouped.setdefault(key, []).append((version, kind))
    return grouped


def check_state(verdict, key, order, endings, acknowledged):
    """The ending that the order came to; None where it is none of the right ones."""
    state = order.state if order else None
    ending = next((e for e in endings if e.state == state), None)
    if order is None:
        if acknowledged or (endings and ending is None):
            verdict.add("lost orders", f"{key}: "
                        + ("acknowledged" if acknowledged else "must exist"))
    elif ending is None:
        right = " or ".join(e.state or "absent" for e in endings) or "absent"
        verdict.add("wrong states", f"{key}: is {state}, must be {right}")
    return ending


def check_money(verdict, key, order, endings, ending, moves, demanded_moves):
    """The movements must be those of the ending, the amounts the generator's."""
    charges = sum(m.effect in ("capture", "charge") for m in moves)
    for _ in range(charges - 1):
        verdict.add("double charges", f"{key}: charged {charges} times")
    if order is None and ending is None:
        right = not moves       # it is lost; that is counted already
    else:
        allowed = [ending] if ending else endings
        right = any(moves == demanded_moves(e) for e in allowed)
    if right and order and endings:
        right = any((order.amount, order.currency, order.account)
                    == (e.amount, e.currency, e.account)
                    for e in endings if e.state) or all(e.state is None for e in endings)
    if not right:
        verdict.add("wrong money", f"{key}: {order.state if order else 'absent'}, "
                    + (", ".join(f"{m.effect} {m.amount}" for m in moves) or "no movement"))


def check_events(verdict, key, ending, changes, events):
    """Every change published, nothing else, once, in version order."""
    must = set(changes) | set(ending.events() if ending else ())
    times = Counter(events)
    for version, kind in sorted(must - times.keys()):
        verdict.add("lost events", f"{key}: version {version}, {kind}")
    for (version, kind), count in sorted(times.items()):
        where = f"{key}: version {version}, {kind}"
        if (version, kind) not in changes:
            verdict.add("ghost events", where)
        for _ in range(count - 1):
            verdict.add("repeated events", where)
    newest = 0
    for version, kind in dict.fromkeys(events):
        if version < newest:
            verdict.add("events out of order", f"{key}: version {version}, {kind}")
        newest = max(newest, version)
