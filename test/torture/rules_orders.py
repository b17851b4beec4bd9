"""Rules about orders: what clients were told, what is in the tables."""

from bisect import bisect_left
from collections import Counter, defaultdict

from evidence import FIRST
from verdict import rule

# what a create asks for, as far as it is compared with the row
ASKED = ("amount", "currency", "account")

# where the money goes: (debit, credit); None stands for the order's account
MOVES = {"hold": (None, "escrow"), "capture": ("escrow", "revenue"),
         "release": ("escrow", None), "refund": ("revenue", None)}


def as_asked(order, call):
    """Does the row have what the call asked for?"""
    return all(getattr(order, name) == call.args.get(name) for name in ASKED)


@rule("creates", "an acknowledged create is exactly one order, as it was asked for")
def creates(run, tally):
    """Each create that was acknowledged."""
    for key, calls in run.by_key.items():
        first = []
        for call in calls:
            if call.name != "create_order" or not call.done or \
                    call.outcome not in ("created", "replayed"):
                continue
            order = run.orders.get(key)
            tally.check(order is not None and not order.tombstone,
                        f"{key}: acknowledged ({call.where}), and not there", call.t1)
            if order is not None:
                tally.check(as_asked(order, call),
                            f"{key}: {call.outcome} ({call.where}), and is another order", call.t1)
            if call.outcome == "created":
                first.append(call)
        for call in first[1:]:
            tally.add(f"{key}: created once more ({call.where})", call.t1)


@rule("answers", "every later answer agrees with what was acknowledged")
def answers(run, tally):
    """Each answer, beside the order's history and what was known before."""
    for key, calls in run.by_key.items():
        order = run.orders.get(key)
        steps = order.steps if order else []
        exists = min((c.acknowledged for c in calls if c.done and c.acknowledged is not None
                      and c.outcome in ("created", "replayed", "applied", "cancelled")),
                     default=None)
        for call in calls:
            if call.done and call.outcome in ("created", "replayed", "applied", "cancelled"):
                wrong = untrue(call, order, steps)
                tally.check(wrong is None, f"{key}: {wrong} ({call.where})", call.t1)
            elif call.outcome == "missing" and exists is not None:
                tally.check(call.looked <= exists,
                            f"{key}: missing after it was there ({call.where})", call.t1)
            elif call.outcome in ("mismatch", "refused", "illegal", "ignored"):
                wrong = wrongly_refused(call, order, steps)
                tally.check(wrong is None, f"{key}: {wrong} ({call.where})", call.t1)
        going_back(key, calls, tally)


def untrue(call, order, steps):
    """What is wrong with the answer of a call that was acknowledged, or None."""
    if order is None:
        return f"{call.outcome}, and not there"
    version, state = call.answer.get("version"), call.answer.get("state")
    if version is not None and not any((s.version, s.state) == (version, state) for s in steps):
        return f"answered {state} as version {version}, which it never was"
    target = {"create_order": None, "cancel_order": "cancelled"}.get(
        call.name, call.args.get("to_state"))
    told = call.answer.get("event_id")
    if told is None:
        return None if order.tombstone else f"{call.outcome} without an event"
    step = next((s for s in steps if s.event_id == told), None)
    if step is None:
        return f"{call.outcome} with event {told}, which it does not have"
    if call.name == "create_order":
        return None if step.version == 1 else "created by a later event"
    if target is not None and step.state != target:
        return f"asked for {target}, answered with the event of {step.state}"
    if call.args.get("request_key") not in (None, step.request_key):
        return f"answered with the event of request {step.request_key}"
    return None


def wrongly_refused(call, order, steps):
    """Why a call should not have been refused, or None."""
    if order is None or call.status == "unknown":
        return None
    if call.name == "create_order":
        if call.outcome == "refused" and not order.tombstone:
            return "refused, and there is no tombstone"
        if call.outcome == "mismatch" and as_asked(order, call) and \
                same_payload(order, call.args.get("payload")):
            return "a mismatch with its own request"
        return None
    own = [s for s in steps if call.args.get("request_key") is not None
           and s.request_key == call.args["request_key"] and call.outcome != "mismatch"]
    if own and (call.answer.get("version") or 0) >= own[0].version:
        return f"{call.outcome} in version {call.answer['version']}, though version " \
               f"{own[0].version} was its own"
    return None


def same_payload(order, given):
    """Is the payload what the row has?"""
    import json                 # pylint: disable=import-outside-toplevel
    kept = json.loads(order.payload) if order.payload is not None else None
    return kept == given


def going_back(key, calls, tally):
    """No answer may be older than one that was acknowledged before it was asked for."""
    known = sorted((c.acknowledged, c.answer["version"]) for c in calls
                   if c.done and c.acknowledged is not None and c.answer.get("version"))
    newest, times = [], [t for t, _ in known]
    for _, version in known:
        newest.append(max(version, newest[-1] if newest else 0))
    for call in calls:
        version = call.answer.get("version")
        if not version or call.status != "ok":
            continue
        before = bisect_left(times, call.looked)
        if before:
            tally.check(version >= newest[before - 1],
                        f"{key}: version {version} after {newest[before - 1]} was known "
                        f"({call.where})", call.t1)


@rule("once done", "a logical request has its work done once, whoever asks how often")
def once_done(run, tally):
    """The calls of one intent: one may say that it did it."""
    first = defaultdict(list)
    for call in run.calls:
        if call.done and call.intent is not None and call.name != "claim_key" and \
                call.outcome in FIRST:
            first[call.intent, call.name, call.args.get("scope"), call.key].append(call)
    for (intent, *_), calls in first.items():
        # a claim that has expired is a new one
        expires = run.retention if calls[0].name == "complete_key" else None
        for before, call in zip(calls, calls[1:]):
            if expires is None or call.t0 - before.t1 < expires:
                tally.add(f"{intent}: {call.outcome} once more ({call.where})", call.t1)
        tally.checked += len(calls)


@rule("histories", "a history is legal, gapless, and ends where the order is")
def histories(run, tally):
    """Each order's steps."""
    seen = Counter()
    for order in run.orders.values():
        wrong = wrong_history(order)
        tally.check(wrong is None, lambda o=order, w=wrong: f"{o.key}: {w}", changed(run, order))
        seen.update(step.event_id for step in order.steps if step.event_id)
    for event_id, times in seen.items():
        if times > 1:
            tally.add(f"event {event_id} in {times} histories")


def wrong_history(order):
    """What is wrong with a history, or None."""
    steps = order.steps
    if not steps:
        return "no history"
    if [s.version for s in steps] != list(range(1, len(steps) + 1)):
        return f"versions {[s.version for s in steps]}"
    if (order.version, order.state) != (steps[-1].version, steps[-1].state):
        return f"is {order.state} {order.version}, its history ends with " \
               f"{steps[-1].state} {steps[-1].version}"
    if order.tombstone:
        return "a tombstone with events" if len(steps) > 1 or steps[0].event_id else None
    for before, step in zip([None, *steps], steps):
        if step.type is None:
            return f"{before.state if before else 'nothing'} became {step.state}"
        if step.event_id is None:
            return f"{step.state} without an event"
    keys = Counter(s.request_key for s in steps if s.request_key)
    twice = [name for name, times in keys.items() if times > 1]
    return f"request {twice[0]} twice" if twice else None


def changed(run, order):
    """When the last change that was acknowledged was, or None."""
    return max((c.t1 for c in run.by_key.get(order.key, ()) if c.done), default=None)


@rule("asked for", "nothing is in the tables that no transaction asked for and may have committed")
def asked_for(run, tally):
    """Each step has a call that may have made it."""
    for order in run.orders.values():
        may = [c for c in run.by_key.get(order.key, ()) if not c.never]
        for step in order.steps:
            if step.version == 1:
                wanted = ("cancel_order" if order.tombstone else "create_order",)
            else:
                wanted = ("transition_order", "cancel_order")
            by_deadline = step.state == "cancelled" and step.request_key is None and \
                step.version > 1
            found = by_deadline or any(
                c.name in wanted and c.args.get("to_state", step.state) == step.state
                and (step.version == 1 or c.args.get("request_key") == step.request_key)
                for c in may)
            tally.check(found, f"{order.key}: version {step.version}, {step.state}")


@rule("all or nothing", "of a transaction all changes are there, or none")
def all_or_nothing(run, tally):
    """The events that the calls of a transaction made; and of those that were rolled back."""
    made = defaultdict(list)
    seen = run.events.keys() | {m.event_id for r in run.received.values() for m in r.messages}
    for call in run.calls:
        told = call.answer.get("event_id") if call.outcome in FIRST else \
            call.outcome if call.name == "emit_event" else None
        if told is None or call.status != "ok":
            continue
        if call.never:
            tally.check(told not in seen,
                        f"{call.key}: event {told} was rolled back ({call.where})", call.t1)
        elif call.txn is not None:
            made[call.client, call.txn].append((told, call))
    for told in made.values():
        there = [event_id in seen for event_id, _ in told]
        if len(told) > 1:
            tally.check(all(there) or not any(there),
                        f"{sum(there)} of {len(there)} changes of a transaction "
                        f"({told[0][1].where})", told[0][1].t1)


@rule("money", "every order has exactly the money movements of its states")
def money(run, tally):
    """Each order's rows of the ledger, in their order."""
    posted = defaultdict(list)
    for key, *row in run.state["ledger"]:
        posted[key].append(tuple(row))
    for order in run.orders.values():
        must = [demanded(order, step) for step in order.steps
                if step.effect and order.account is not None and not order.tombstone]
        tally.check(posted.pop(order.key, []) == must,
                    lambda o=order, m=must: f"{o.key}: {o.state}, must have {m}",
                    changed(run, order))
    for key in posted:
        tally.add(f"{key}: money without an order")


def demanded(order, step):
    """The row of the ledger that a step must have."""
    debit, credit = MOVES[step.effect]
    return (step.version, step.effect, debit or order.account, credit or order.account,
            order.amount, order.currency)
