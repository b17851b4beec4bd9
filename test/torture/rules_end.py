"""Rules about the end: all is delivered, nothing is left open, nothing has grown."""

import re

from verdict import rule

# What a client may be told besides answers: try again, the server goes or is not there, there
# is no room.  Anything else, 23505 and XX000 above all, is a defect.
EXPECTED = re.compile(r"OI00[1-5]|40001|40P01|55P03|08...|57P0[1-5]|57014|53...|58030|25006|25P02")

# in a server's log: no fault does this, but for the error that a test orders at a point, and what
# the server says of an index that a REINDEX CONCURRENTLY left when it was killed
ALARMING = re.compile(r"TRAP:|was terminated by signal (?:4|7|8|11)\b|"
                      r"\] XX\d{3} (?!.*(?:ERROR:  a test wants an error|"
                      r"WARNING:  cannot reindex invalid index \S+ concurrently))")

# how much larger a process may be at the end than another one of its kind at the beginning
GROWTH_BYTES = 32 * 1024 * 1024
GROWTH_DESCRIPTORS = 10


@rule("errors", "no client is told of anything but answers and that it has to try again")
def errors(run, tally):
    """The errors of all calls."""
    for call in run.calls:
        if call.status == "ok":
            continue
        tally.check(call.sqlstate is None or EXPECTED.fullmatch(call.sqlstate),
                    f"{call.name} {call.key}: {call.sqlstate} ({call.where})", call.t1)


@rule("drained", "in the end no subscription has anything left, and each is at rest")
def drained(run, tally):
    """The status of each subscription, by the run when it was quiet, and by the table now."""
    last = [("then", status) for status in run.final.get("subscription_status", ())]
    for when, status in [*last, *(("now", status) for status in run.state["status"])]:
        name = f"{status['name']} {when}"
        # what waits behind a dead event of its key is no lag: nobody has decided about it
        left = (status.get("lag_events") or 0) - behind_dead(run, status["name"])
        tally.check(left <= 0, f"{name}: {left} events are left")
        tally.check(not status.get("parked") or status["parked"] <= behind_dead(
            run, status["name"]), f"{name}: {status.get('parked')} events are parked")
        tally.check(status.get("state") == "idle", f"{name}: is {status.get('state')}, "
                    f"{status.get('detail') or status.get('last_error')}")


def behind_dead(run, subscription):
    """How many events wait behind dead ones."""
    states = list(run.failed.get(subscription, {}).values())
    return states.count("waiting") if "dead" in states else 0


@rule("rest", "the run came to rest in its time, and no worker slept before events")
def rest(run, tally):
    """What the run found left when it waited for all to be done."""
    left = run.final.get("not_quiet")
    if left is not None:
        tally.check(not left, "; ".join(left))


@rule("snapshots", "in the end no transaction is open that holds back the removal of old rows")
def snapshots(run, tally):
    """What the run found when it was quiet, and what is there now."""
    for when, found in (("then", run.final.get("snapshots")), ("now", run.state["snapshots"])):
        if found is not None:
            tally.check(not found, f"{when}: {found}")


def by_kind(processes):
    """Kind -> the largest of it, in bytes and in descriptors."""
    found = {}
    for process in processes or ():
        size, descriptors = found.get(process["kind"], (0, 0))
        found[process["kind"]] = (max(size, process["rss_anon"]),
                                  max(descriptors, process["descriptors"]))
    return found


@rule("leaks", "workers and launcher have no more memory and descriptors than at the beginning")
def leaks(run, tally):
    """Each kind of process, the largest then and now; most were started anew on the way."""
    begin, end = (by_kind(run.final.get(name)) for name in ("processes_begin", "processes_end"))
    for kind, (size, descriptors) in end.items():
        before = begin.get(kind)
        if before is None:
            continue
        tally.check(size <= before[0] + GROWTH_BYTES,
                    f"{kind}: {size / 1e6:.1f} MB, was {before[0] / 1e6:.1f}")
        tally.check(descriptors <= before[1] + GROWTH_DESCRIPTORS,
                    f"{kind}: {descriptors} descriptors, was {before[1]}")


@rule("server log", "no process crashed by itself, and no internal error was raised")
def server_log(run, tally):
    """The logs of the servers, as run.json names them."""
    for path in run.info.get("logs", ()):
        with open(path, encoding="utf-8", errors="replace") as log:
            for number, line in enumerate(log, 1):
                tally.check(not ALARMING.search(line),
                            lambda n=number, text=line: f"{path}:{n}: {text.strip()[:200]}")
