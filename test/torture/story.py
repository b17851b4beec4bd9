"""A run that never was, without a fault: what test_check.py damages.

It writes a run's directory as clients, consumers and the run itself do, with the rows
of the tables beside it, so that the checker goes the same way as with a real one.
"""

import base64
import json
import os
import uuid
from urllib.parse import quote

LIFECYCLE = [(None, "created", "order.created", "hold"),
             ("created", "paid", "order.paid", "capture"),
             ("paid", "completed", "order.completed", None),
             ("created", "cancelled", "order.cancelled", "release"),
             ("paid", "cancelled", "order.refunded", "refund")]
MOVES = {"hold": (None, "escrow"), "capture": ("escrow", "revenue"),
         "release": ("escrow", None), "refund": ("revenue", None)}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SINKS = ("file", "http", "kafka", "rabbitmq", "redis", "nats")


class Event:
    """An event, before any sink has it."""

    def __init__(self, story, kind, key, payload, version=None):
        self.id = story.uuid()
        self.kind = kind
        self.key = key
        self.version = version
        self.position = len(story.log) + 1
        self.time = f"2026-01-02T03:04:{self.position % 60:02d}.000000Z"
        self.headers = {"traceparent": TRACE}
        self.data = json.dumps(payload).encode()
        story.log.append(self)

    def attributes(self):
        """Its CloudEvents attributes."""
        return {"specversion": "1.0", "id": self.id, "source": "/order_idempotency/torture",
                "type": self.kind, "subject": self.key, "time": self.time,
                "partitionkey": self.key, "sequence": str(self.position), **self.headers}

    def row(self):
        """Its row of the log."""
        return [self.position, self.id, self.key, self.version, self.kind, self.data.decode(),
                self.headers, self.time]


def as_file(event, _number, at):
    """A line, as the sink file writes it."""
    line = json.dumps(event.attributes())[:-1] + ',"data":' + event.data.decode() + "}\n"
    at["offset"] += len(line)
    return {"inode": 7, "offset": at["offset"] - len(line)}, None, {}, line.encode()


def as_http(event, number, _at):
    """A request."""
    headers = {f"ce-{name}": quote(value, safe=":/ ") for name, value in
               event.attributes().items()}
    return {"start": "1", "n": number}, event.key, {
        "(path)": "/", "idempotency-key": event.id, "content-type": "application/json",
        **headers}, event.data


def as_kafka(event, number, _at):
    """A record; each key has its partition."""
    headers = {f"ce_{name}": value for name, value in event.attributes().items()}
    return {"topic": "orders", "partition": sum(event.key.encode()) % 4, "offset": number}, \
        event.key, {"content-type": "application/json", **headers}, event.data


def as_rabbitmq(event, number, _at):
    """A message of a stream."""
    headers = {f"cloudEvents:{name}": value for name, value in event.attributes().items()}
    return {"queue": "events", "offset": number}, event.kind, {
        "(message_id)": event.id, **headers}, event.data


def as_redis(event, number, _at):
    """An entry."""
    return {"stream": "events", "id": f"17-{number}"}, event.key, event.attributes(), event.data


def as_nats(event, number, _at):
    """A message of a stream."""
    headers = {f"ce-{name}": quote(value, safe=":/ ") for name, value in
               event.attributes().items()}
    return {"stream": "EVENTS", "seq": number}, "shop." + event.kind, {
        "Nats-Msg-Id": event.id, **headers}, event.data


FORMS = {"file": as_file, "http": as_http, "kafka": as_kafka, "rabbitmq": as_rabbitmq,
         "redis": as_redis, "nats": as_nats}


class Order:
    """An order in the making."""

    def __init__(self, key, amount, account):
        self.key, self.amount, self.account = key, amount, account
        self.state = None
        self.history = []       # (version, state, event id, request key)
        self.tombstone = False

    def row(self):
        """Its row."""
        return [self.key, self.state, len(self.history), None if self.tombstone else self.amount,
                None if self.tombstone else "EUR", self.account, self.tombstone, None,
                self.history]


class Story:
    """The run."""

    def __init__(self):
        self.now = 100.0
        self.names = 0
        self.calls = []         # lines
        self.log = []           # events
        self.log_was_emptied = False
        self.orders = {}
        self.ledger = []
        self.claims = []
        self.faults = []
        self.storms = []
        self.failed = []
        self.snapshots = []
        self.info = {"seed": 1, "sinks": {sink: {} for sink in SINKS},
                     "settings": {"key_retention": 1000}}
        self.final = {"snapshots": [], "not_quiet": [], "processes_begin": self.processes(),
                      "processes_end": self.processes()}
        self.server_log = ["LOG:  ready"]
        self.status = [{"name": sink, "event_types": None, "state": "idle", "lag_events": 0,
                        "parked": 0, "dead": 0} for sink in SINKS]
        self.lines = {sink: None for sink in SINKS}     # of consumers; made from the log

    @staticmethod
    def processes():
        """Workers and launcher, as the run measures them."""
        return [{"kind": kind, "rss_anon": 10_000_000, "descriptors": 20}
                for kind in ("worker", "launcher")]

    def uuid(self):
        """The next one."""
        self.names += 1
        return str(uuid.UUID(int=(7 << 76) + self.names))

    def tick(self):
        """A while later."""
        self.now += 1.0
        return self.now

    def call(self, name, args, answer=None, **more):
        """A line of a client's log: answered and committed, if not told otherwise."""
        line = {"t0": self.tick(), "t1": self.now + 0.5, "client": 1, "session": "1.1",
                "iso": "READ COMMITTED", "call": name, "args": args,
                "intent": f"{name}/{args.get('key')}/{args.get('request_key')}", "try": 1,
                "status": "ok", "sqlstate": None, "answer": answer, "committed": True,
                "txn": None, **more}
        self.calls.append(line)
        return line

    def change(self, order, state, request_key=None):
        """A change of state with all its effects; the event."""
        before, order.state = order.state, state
        kind, effect = next((k, e) for a, b, k, e in LIFECYCLE if (a, b) == (before, state))
        version = len(order.history) + 1
        event = Event(self, kind, order.key, {
            "key": order.key, "state": state, "amount": order.amount, "account": order.account,
            "version": version, "currency": "EUR", "request_key": request_key}, version)
        order.history.append((version, state, event.id, request_key))
        if effect and order.account:
            debit, credit = MOVES[effect]
            self.ledger.append([order.key, version, effect, debit or order.account,
                                credit or order.account, order.amount, "EUR"])
        return event

    def result(self, order, outcome, event):
        """What a function of orders answers."""
        return {"order_key": order.key, "outcome": outcome, "state": order.state,
                "version": len(order.history), "event_id": event.id, "detail": None}

    def create(self, key, account="a-1", amount=500, **more):
        """An order, and the call that made it."""
        order = self.orders[key] = Order(key, amount, account)
        event = self.change(order, "created")
        self.call("create_order", {"key": key, "amount": amount, "currency": "EUR",
                                   "account": account, "payload": None},
                  self.result(order, "created", event), **more)
        return order

    def move(self, order, state, request_key=None, **more):
        """A transition, and its call."""
        event = self.change(order, state, request_key)
        self.call("transition_order", {"key": order.key, "to_state": state,
                                       "request_key": request_key},
                  self.result(order, "applied", event), **more)
        return event

    def tombstone(self, key):
        """A cancellation that came first."""
        order = self.orders[key] = Order(key, None, None)
        order.tombstone, order.state = True, "cancelled"
        order.history.append((1, "cancelled", None, "c"))
        self.call("cancel_order", {"key": key, "request_key": "c", "if_missing": "tombstone"},
                  {"order_key": key, "outcome": "tombstoned", "state": "cancelled", "version": 1,
                   "event_id": None})
        return order

    def claim(self, key, attempt=1, lease=None, **more):
        """A claim that is won."""
        args = {"key": key, "scope": "work"}
        if lease:
            args["lease"] = f"{lease} s"
        return self.call("claim_key", args, {"outcome": "claimed", "response": None,
                                             "attempt": attempt}, **more)

    def complete(self, key, attempt, response, outcome="completed", **more):
        """The end of a lease."""
        if outcome == "completed":
            self.claims.append(["work", key, attempt, True, response])
        return self.call("complete_key", {"key": key, "scope": "work", "attempt": attempt,
                                          "response": response}, {"complete_key": outcome}, **more)

    def emit(self, number):
        """An event of no order."""
        event = Event(self, "parcel.tracked", "e-01", {"n": number})
        self.call("emit_event", {"key": "e-01", "type": "parcel.tracked",
                                 "payload": {"n": number}}, {"emit_event": event.id})
        return event

    def consume(self, sink, events=None):
        """What a sink's consumer writes down of events, all of them if none are given."""
        lines, at = [], {"offset": 0}
        for number, event in enumerate(self.log if events is None else events, 1):
            pos, key, headers, body = FORMS[sink](event, number, at)
            lines.append({"t": 500.0 + number, "sink": sink, "subscription": sink, "pos": pos,
                          "key": key, "headers": headers,
                          "body_base64": base64.b64encode(body).decode()})
        self.lines[sink] = lines
        return lines

    def state(self):
        """The rows of the tables."""
        return {"orders": [o.row() for o in self.orders.values()], "ledger": self.ledger,
                "outbox": [e.row() for e in self.log], "log_was_emptied": self.log_was_emptied,
                "failed": self.failed, "claims": self.claims, "status": self.status,
                "lifecycle": LIFECYCLE, "snapshots": self.snapshots}

    def write(self, directory):
        """The run's directory."""
        for name in ("clients", "consumers"):
            os.mkdir(os.path.join(directory, name))
        with open(os.path.join(directory, "server.log"), "w", encoding="utf-8") as file:
            file.write("\n".join(self.server_log) + "\n")
        info = {**self.info, "logs": [os.path.join(directory, "server.log")]}
        for name, value in (("run", info), ("final", self.final), ("state", self.state())):
            with open(os.path.join(directory, f"{name}.json"), "w", encoding="utf-8") as file:
                json.dump(value, file)
        files = {"faults": self.faults, "storms": self.storms, "clients/1": self.calls}
        for sink, lines in self.lines.items():
            files[f"consumers/{sink}"] = self.consume(sink) if lines is None else lines
        for name, lines in files.items():
            with open(os.path.join(directory, f"{name}.jsonl"), "w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)


def faultless():
    """A story in which every rule has something to look at."""
    story = Story()
    story.faults += [{"t0": float(t), "t1": t + 1.0, "kind": "kill backend", "target": "1"}
                     for t in range(100, 600, 50)]
    for number in range(4):
        order = story.create(f"o-{number}")
        story.move(order, "paid", f"pay-{number}")
        if number % 2:
            story.move(order, "completed")
    plain = story.create("o-plain", account=None)
    story.call("create_order", {"key": "o-plain", "amount": 500, "currency": "EUR",
                                "account": None, "payload": None},
               {**story.result(plain, "replayed", story.log[-1])})
    refunded = story.create("o-refunded")
    story.move(refunded, "paid", "pay-r")
    story.move(refunded, "cancelled", "refund-r")
    story.tombstone("o-tomb")
    story.call("create_order", {"key": "o-tomb", "amount": 1, "currency": "EUR"}, None,
               status="error", sqlstate="OI005", committed=False)
    story.call("create_order", {"key": "o-lost", "amount": 1, "currency": "EUR"}, None,
               status="unknown", committed=None)
    story.call("create_order", {"key": "o-back", "amount": 1, "currency": "EUR"},
               {"outcome": "created", "event_id": story.uuid(), "version": 1,
                "state": "created"}, committed=False, txn="1.7")
    first = story.create("o-b1", txn="1.8", t_commit=story.now + 5)
    story.create("o-b2", txn="1.8", t_commit=first and story.now + 4)
    story.tick()
    story.claim("m-1")
    story.call("claim_key", {"key": "m-1", "scope": "work"},
               {"outcome": "replayed", "response": None, "attempt": 1})
    story.claim("l-1", 1, lease=3.0)
    story.now += 5
    story.claim("l-1", 2, lease=3.0)
    story.complete("l-1", 2, {"by": 2})
    story.complete("l-1", 1, {"by": 1}, outcome="stale")
    story.call("claim_key", {"key": "l-1", "scope": "work", "lease": "3.0 s"},
               {"outcome": "replayed", "response": {"by": 2}, "attempt": 2})
    for number in range(3):
        story.emit(number)
    story.storms.append({"t": 300.0, "storm": "1", "claims": 900, "keys": 30, "rotations": 40,
                         "doubles": []})
    return story
