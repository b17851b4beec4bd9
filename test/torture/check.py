#!/usr/bin/python3 -B
"""The verdict over a run of the torture.

    check.py RUNDIR [--offline] [--all]

Reads what clients and consumers wrote down, and the tables of the server that run.json
names, which are then in RUNDIR/state.json; --offline takes them from there.  Believes
nothing that the extension says of itself but what the rules are about.

Prints a row for each rule: how many things it looked at, how many were wrong; and the first
violations, with --all every one.  Exits with 0 if all is right, 1 if something is wrong or a
rule found nothing to look at, 2 if the directory is not whole.
"""

import argparse
import json
import os
import sys

import psycopg

# pylint: disable=unused-import,wrong-import-order
# the rules register themselves, in this order
import rules_orders             # noqa: F401
import rules_claims             # noqa: F401
import rules_events             # noqa: F401
import rules_end                # noqa: F401
from database import read_state
from evidence import EvidenceError, read_json, read_run
from verdict import RULES, Verdict

SHOWN = 5                       # violations of a rule


def read_tables(directory, offline):
    """The rows of the tables, from the server or from the file."""
    if offline:
        return read_json(directory, "state.json")
    state = read_state(read_json(directory, "run.json")["dsn"])
    with open(os.path.join(directory, "state.json"), "w", encoding="utf-8") as file:
        json.dump(state, file)
    return state


def judge(directory, offline=False):
    """The verdict over a run's directory; raises EvidenceError or psycopg.Error."""
    return Verdict(read_run(directory, read_tables(directory, offline)))


def mark(verdict, name):
    """A word for how a rule went."""
    if verdict.count(name):
        return "VIOLATED"
    if verdict.tallies[name].checked:
        return "ok"
    return "not exercised" if name in verdict.excused else "NOTHING CHECKED"


def table(verdict, shown):
    """The lines of the report."""
    yield f"{'rule':<15}{'checked':>10}{'violations':>12}  "
    for name, tally in verdict.tallies.items():
        yield f"{name:<15}{tally.checked:>10}{len(tally.violations):>12}  {mark(verdict, name)}"
    for name, tally in verdict.tallies.items():
        if tally.violations:
            yield ""
            yield f"{name}: {RULES[name][0]}"
            yield from (f"    {where}" for where, _ in tally.violations[:shown])
            if len(tally.violations) > shown:
                yield f"    and {len(tally.violations) - shown} more"


def summary(verdict):
    """The last line."""
    run = verdict.run
    calls, got = len(run.calls), sum(len(r.messages) for r in run.received.values())
    text = f"seed {run.info.get('seed')}: {len(run.faults)} faults, {calls} calls, " \
           f"{len(run.orders)} orders, {len(run.events)} events, {got} messages: " \
           f"{verdict.total()} violations"
    if verdict.vacuous():
        text += f"; nothing checked: {', '.join(verdict.vacuous())}"
    first = verdict.first()
    if first:
        text += f"; the first ({first[1]}) after {run.faults_until(first[0])} faults"
    return text


def main():
    """Judge a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rundir")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    try:
        verdict = judge(args.rundir, args.offline)
    except (EvidenceError, OSError, psycopg.Error) as error:
        print(f"check: {error}", file=sys.stderr)
        return 2
    for line in table(verdict, sys.maxsize if args.all else SHOWN):
        print(line)
    print(summary(verdict))
    return 0 if verdict.good() else 1


if __name__ == "__main__":
    sys.exit(main())
