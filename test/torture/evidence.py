"""What a run left behind, as the rules look at it.

The clients' calls, the consumers' messages, the faults, what the run itself measured
at its end, and the rows of the tables.  Nothing here judges.
"""

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

from received import read_sink

# SQLSTATEs that are answers of our functions, as outcomes
OUTCOMES = {"OI001": "mismatch", "OI002": "in_progress", "OI003": "illegal",
            "OI004": "missing", "OI005": "refused"}

# outcomes that say: this call has done the work
FIRST = ("created", "applied", "cancelled", "tombstoned", "completed")


class EvidenceError(Exception):
    """The run's directory is not whole."""


@dataclass(slots=True)
class Call:
    """One call of a function, as its client saw it."""

    name: str
    args: dict
    outcome: str | None         # of the answer, or of an error that is one; None: unknown
    answer: dict
    t0: float
    t1: float
    began: float                # when its transaction did
    acknowledged: float | None  # since when its effects are known to be there
    client: object
    intent: object
    iso: str
    txn: object
    status: str
    sqlstate: str | None
    committed: bool | None
    where: str

    @property
    def done(self):
        """It was answered, and its transaction is known to have committed."""
        return self.status == "ok" and self.committed is True

    @property
    def never(self):
        """Its transaction is known not to have committed."""
        return self.status == "error" or self.committed is False

    @property
    def key(self):
        """The key that it is about."""
        return self.args.get("key")

    @property
    def looked(self):
        """What was acknowledged before this, it must have seen."""
        return self.t0 if self.iso == "read committed" else self.began


@dataclass(frozen=True, slots=True)
class Step:
    """A change of an order's state, from its history."""

    key: str
    version: int
    state: str
    event_id: str | None
    request_key: str | None
    type: str | None            # of the event that it must have; None: no such transition
    effect: str | None          # on the money


@dataclass(slots=True)
class Order:
    """A row of table orders."""

    key: str
    state: str
    version: int
    amount: int | None
    currency: str | None
    account: str | None
    tombstone: bool
    payload: str | None
    history: list = field(default_factory=list)     # rows as they are: see database.py
    steps: list = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the log."""

    position: int
    event_id: str
    key: str
    version: int | None
    type: str
    payload: str | None
    headers: dict
    time: str


def call_of(line, where):
    """A call from a line of a client's log."""
    answer = line.get("answer") or {}
    outcome = OUTCOMES.get(line.get("sqlstate") or "")
    if line["status"] == "ok":
        outcome = answer.get("outcome", answer.get(line["call"]))
    return Call(name=line["call"], args=line.get("args") or {}, outcome=outcome, answer=answer,
                t0=line["t0"], t1=line["t1"], began=line["t0"], acknowledged=None,
                client=line.get("client"), intent=line.get("intent"),
                iso=(line.get("iso") or "read committed").lower(), txn=line.get("txn"),
                status=line["status"], sqlstate=line.get("sqlstate"),
                committed=line.get("committed"), where=where)


def set_times(calls, lines):
    """When each call's transaction began, and when its commit was acknowledged."""
    began, ended = {}, {}
    for call, line in zip(calls, lines):
        if call.txn is not None:
            name = (call.client, call.txn)
            began[name] = min(call.t0, began.get(name, call.t0))
            ended[name] = line.get("t_commit", ended.get(name))
    for call, line in zip(calls, lines):
        acknowledged = call.t1
        if call.txn is not None:
            call.began = began[call.client, call.txn]
            acknowledged = line.get("t_commit", ended[call.client, call.txn])
        call.acknowledged = acknowledged if call.done else None


def lines_of(path):
    """The objects of a file of JSON lines; a last one without its end is none."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise EvidenceError(f"{path}, line {number}: {error}") from None


def read_calls(directory):
    """All clients' calls."""
    calls = []
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".jsonl"):
            continue
        own, lines = [], []
        for number, line in lines_of(os.path.join(directory, name)):
            if "call" in line and "status" in line:
                lines.append(line)
                own.append(call_of(line, f"clients/{name}:{number}"))
        set_times(own, lines)
        calls += own
    calls.sort(key=lambda call: call.t0)
    return calls


def order_of(row, lifecycle):
    """An order from a row, its steps with what the lifecycle makes of them."""
    *columns, history = row
    order = Order(*columns, history=history or [])
    before = None
    for version, state, event_id, request_key in order.history:
        kind, effect = lifecycle.get((before, state), (None, None))
        order.steps.append(Step(order.key, version, state, event_id, request_key, kind, effect))
        before = state
    return order


class Run:
    """All of it."""

    def __init__(self, directory, info, state, final, calls, faults, received, storms=()):
        self.directory = directory
        self.info = info
        self.state = state
        self.final = final
        self.calls = calls
        self.faults = faults
        self.received = received        # sink -> Received
        self.storms = list(storms)      # what storm.py wrote down
        self.lifecycle = {(a, b): (kind, effect) for a, b, kind, effect in state["lifecycle"]}
        self.orders = {row[0]: order_of(row, self.lifecycle) for row in state["orders"]}
        self.outbox = [Event(*row) for row in state["outbox"]]

    @property
    def settings(self):
        """Of the run."""
        return self.info.get("settings") or {}

    @property
    def retention(self):
        """Seconds for which a claim is kept at the least."""
        return float(self.settings.get("key_retention", 7 * 86400))

    @cached_property
    def by_key(self):
        """Key -> calls of the functions of orders, by their beginnings."""
        found = defaultdict(list)
        for call in self.calls:
            if call.name in ("create_order", "transition_order", "cancel_order", "get_order"):
                found[call.key].append(call)
        return found

    @cached_property
    def by_claim(self):
        """(scope, key) -> calls of the functions of claims."""
        found = defaultdict(list)
        for call in self.calls:
            if call.name in ("claim_key", "complete_key", "extend_key", "release_key"):
                found[call.args.get("scope") or "default", call.key].append(call)
        return found

    @cached_property
    def steps(self):
        """Event id -> step that it tells of; tombstones have none."""
        return {step.event_id: step for order in self.orders.values() if not order.tombstone
                for step in order.steps if step.event_id}

    @cached_property
    def logged(self):
        """Event id -> row of the log."""
        return {event.event_id: event for event in self.outbox}

    @cached_property
    def emitted(self):
        """Event id -> call of emit_event that did not fail."""
        return {call.outcome: call for call in self.calls
                if call.name == "emit_event" and not call.never and call.outcome}

    @cached_property
    def unanswered(self):
        """Event id -> call of emit_event that was never answered and yet done: the event is at a
        sink, and its row is gone with an older segment of the log.  A call has one event."""
        if not self.state["log_was_emptied"]:
            return {}
        calls, found = defaultdict(list), {}
        for call in self.calls:
            if call.name == "emit_event" and not call.outcome and not call.never:
                calls[call.key, call.args.get("type"), canonical(call.args.get("payload"))].append(call)
        known = self.logged.keys() | self.emitted.keys() | self.steps.keys()
        for received in self.received.values():
            for message in received.messages:
                if message.event_id in known or message.event_id in found:
                    continue
                said = message.get("subject"), message.get("type"), canonical_bytes(message.data)
                call = next((call for call in calls[said] if call.t0 <= message.t), None)
                if call:
                    calls[said].remove(call)
                    found[message.event_id] = call
        return found

    @cached_property
    def events(self):
        """Event id -> type, of all events that must be everywhere."""
        found = {event_id: step.type for event_id, step in self.steps.items()}
        found |= {event_id: event.type for event_id, event in self.logged.items()}
        found |= {event_id: call.args.get("type") for event_id, call in self.unanswered.items()}
        return found | {event_id: call.args.get("type")
                        for event_id, call in self.emitted.items() if call.done}

    @cached_property
    def failed(self):
        """Subscription -> {event id: state} of what it set aside."""
        found = defaultdict(dict)
        for subscription, event_id, state in self.state["failed"]:
            found[subscription][event_id] = state
        return found

    @cached_property
    def sinks(self):
        """The sinks of the run: [{sink, subscription, event_types, exactly_once}]."""
        given = self.info.get("sinks") or {}
        if isinstance(given, dict):
            given = [{"sink": sink, **(config if isinstance(config, dict) else {})}
                     for sink, config in given.items()]
        types = {status["name"]: status.get("event_types") for status in self.state["status"]}
        for sink in given:
            sink.setdefault("subscription", sink["sink"])
            sink.setdefault("exactly_once", sink["sink"] in ("file", "kafka", "redis"))
            sink["event_types"] = types.get(sink["subscription"])
        return given

    def faults_until(self, t):
        """How many faults had begun by then."""
        return sum(fault["t0"] <= t for fault in self.faults)


def canonical(value):
    """A JSON value as text that is the same for equal ones."""
    return json.dumps(value, sort_keys=True)


def canonical_bytes(data):
    """The same of its text; None where that is no JSON."""
    try:
        return canonical(json.loads(data)) if data else canonical(None)
    except ValueError:
        return None


def read_json(directory, name, missing=None):
    """A file of JSON."""
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        if missing is None:
            raise EvidenceError(f"{path} is missing")
        return missing
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_lines(directory, name):
    """A file of JSON lines, which may not be there."""
    path = os.path.join(directory, f"{name}.jsonl")
    return [line for _, line in lines_of(path)] if os.path.exists(path) else []


def read_run(directory, state):
    """A run from its directory and the rows of the tables."""
    consumers = os.path.join(directory, "consumers")
    received = {}
    for name in sorted(os.listdir(consumers)) if os.path.isdir(consumers) else []:
        if name.endswith(".jsonl"):
            sink = name.removesuffix(".jsonl")
            received[sink] = read_sink(sink, os.path.join(consumers, name))
    return Run(directory, read_json(directory, "run.json"), state,
               read_json(directory, "final.json", {}),
               read_calls(os.path.join(directory, "clients")), read_lines(directory, "faults"),
               received, read_lines(directory, "storms"))
