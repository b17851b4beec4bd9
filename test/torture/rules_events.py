"""Rules about events: from the change to the bytes at every sink."""

import json
from collections import Counter, defaultdict

from verdict import rule


@rule("events", "a change of state and an event correspond one to one")
def events(run, tally):
    """Each step's row in the log, each row's step; at most one event a step at any sink."""
    rows = Counter(event.event_id for event in run.outbox)
    for step in run.steps.values():
        if step.event_id in rows or not run.state["log_was_emptied"]:
            event = run.logged.get(step.event_id)
            tally.check(event is not None and rows[step.event_id] == 1 and
                        (event.key, event.version, event.type) ==
                        (step.key, step.version, step.type),
                        lambda s=step, e=event: f"{s.key}: version {s.version}, {s.type}, "
                        f"is {e} in the log")
    changes = {kind for kind, _ in run.lifecycle.values()}
    for event in run.outbox:
        if event.type in changes:
            tally.check(event.event_id in run.steps,
                        lambda e=event: f"{e.key}: {e.type} {e.version} in the log, of no step")
    positions = Counter(event.position for event in run.outbox)
    for position, times in positions.items():
        if times > 1:
            tally.add(f"position {position} {times} times")


def wanted(sink, kind):
    """Does a subscription want events of a type?"""
    return not sink["event_types"] or kind in sink["event_types"]


def messages(run, sink):
    """What a sink's consumer got."""
    received = run.received.get(sink["sink"])
    return received.messages if received else []


@rule("delivered", "every event is at every sink, or in its dead letters")
def delivered(run, tally):
    """Each event at each sink."""
    for sink in run.sinks:
        there = {message.event_id for message in messages(run, sink)}
        aside = run.failed.get(sink["subscription"], {})
        for event_id, kind in run.events.items():
            if wanted(sink, kind):
                tally.check(event_id in there or event_id in aside,
                            lambda s=sink, e=event_id: f"{s['sink']}: lacks {name_of(run, e)}",
                            made_at(run, event_id))


def name_of(run, event_id):
    """An event for people."""
    step, event = run.steps.get(event_id), run.logged.get(event_id)
    if step:
        return f"{step.key} version {step.version} {step.type} ({event_id})"
    return f"{event.key} {event.type} ({event_id})" if event else event_id


def made_at(run, event_id):
    """When somebody was told of an event, or first got it: a time that is not before it."""
    if not hasattr(run, "told_at"):
        run.told_at = {}
        for call in run.calls:
            told = call.answer.get("event_id") or \
                (call.outcome if call.name == "emit_event" else None)
            if told:
                run.told_at.setdefault(told, call.t1)
    return run.told_at.get(event_id)


@rule("whole", "whatever is at a sink is a whole event")
def whole(run, tally):
    """Messages that could not be read."""
    for received in run.received.values():
        tally.checked += len(received.messages) + len(received.broken)
        for where, what, t in received.broken:
            tally.add(f"{where}: {what}", t)


@rule("ghosts", "nothing is at a sink whose transaction did not commit")
def ghosts(run, tally):
    """Each message is of an event that is known."""
    for sink in run.sinks:
        for message in messages(run, sink):
            known = message.event_id in run.events or message.event_id in run.emitted
            tally.check(known, lambda m=message: f"{m.where}: {m.get('type')} of "
                        f"{m.get('subject')}, {m.event_id}", message.t)


@rule("bytes", "an event has the same bytes at all sinks, and those of the log")
def same_bytes(run, tally):
    """Each message beside the first of its event, that beside the log."""
    first = {}
    for sink in run.sinks:
        for message in messages(run, sink):
            before = first.setdefault(message.event_id, message)
            if before is not message:
                tally.check((message.attributes, message.data) == (before.attributes, before.data),
                            lambda m=message, b=before: f"{m.where} and {b.where} differ: "
                            f"{difference(b, m)}", message.t)
    for event_id, message in first.items():
        event = run.logged.get(event_id)
        if event:
            tally.check(is_of(message, event), lambda m=message, e=event:
                        f"{m.where} is not what the log has: {e}", message.t)
        step = run.steps.get(event_id)
        if step:
            tally.check((message.get("subject"), message.get("type")) == (step.key, step.type),
                        lambda m=message, s=step: f"{m.where} is not {s.key} {s.type}", message.t)


def difference(one, other):
    """In what two messages differ."""
    if one.data != other.data:
        return f"data {one.data[:80]!r}, {other.data[:80]!r}"
    return dict(set(one.attributes) ^ set(other.attributes))


def is_of(message, event):
    """Does a message say what the row of the log says?"""
    data = event.payload.encode() if event.payload is not None else b""
    fixed = (event.event_id, event.type, event.key, event.key, str(event.position), event.time)
    said = tuple(message.get(name) for name in
                 ("id", "type", "subject", "partitionkey", "sequence", "time"))
    return message.data == data and said == fixed and \
        all(message.get(name) == value for name, value in event.headers.items()
            if name in ("traceparent", "tracestate"))


@rule("once", "a sink that is exactly-once has each event once")
def once(run, tally):
    """Repeats where there must be none."""
    for sink in run.sinks:
        if not sink["exactly_once"]:
            continue
        seen = {}
        for message in messages(run, sink):
            before = seen.setdefault(message.event_id, message)
            tally.check(before is message,
                        lambda m=message, b=before: f"{m.where} again, after {b.where}", message.t)


@rule("order", "the events of a key are in order at every sink")
def order(run, tally):
    """First occurrences of each key's events: their versions go up by one."""
    for sink in run.sinks:
        newest, seen = {}, set()
        for message in messages(run, sink):
            step = run.steps.get(message.event_id)
            if step is None or message.event_id in seen:
                continue
            seen.add(message.event_id)
            before = newest.get(step.key, 0)
            tally.check(step.version > before,
                        lambda m=message, s=step, b=before: f"{m.where}: {s.key} version "
                        f"{s.version} after {b}", message.t)
            newest[step.key] = max(before, step.version)
            if not sink["event_types"] and step.version > before + 1:
                tally.add(f"{message.where}: {step.key} version {step.version}, and "
                          f"{before + 1} was not there", message.t)
        numbered(run, sink, tally)


def numbered(run, sink, tally):
    """Events that a client emitted one after the other, each acknowledged before the next."""
    newest, seen = defaultdict(lambda: -1), set()
    for message in messages(run, sink):
        call = run.emitted.get(message.event_id)
        if call is None or not call.done or message.event_id in seen or \
                "n" not in (call.args.get("payload") or {}):
            continue
        seen.add(message.event_id)
        number, name = call.args["payload"]["n"], (call.client, call.key, call.args.get("type"))
        tally.check(number > newest[name], lambda m=message, n=number, b=newest[name]:
                    f"{m.where}: {m.get('subject')} number {n} after {b}", message.t)
        newest[name] = max(newest[name], number)


@rule("payload", "an event says what the change was")
def payload(run, tally):
    """The data of the events of orders, once for each event."""
    seen = set()
    for sink in run.sinks:
        for message in messages(run, sink):
            step = run.steps.get(message.event_id)
            if step is None or message.event_id in seen:
                continue
            seen.add(message.event_id)
            own = run.orders[step.key]
            said = json.loads(message.data)
            right = {"key": step.key, "version": step.version, "state": step.state,
                     "amount": own.amount, "currency": own.currency, "account": own.account,
                     "request_key": step.request_key}
            tally.check(all(said.get(name) == value for name, value in right.items()),
                        lambda m=message: f"{m.where}: {m.data[:200]!r}", message.t)
