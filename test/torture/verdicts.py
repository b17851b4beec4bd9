"""What the checker says of a run, on the screen and in the ledger of all runs."""

import json
import os
import time

from check import judge as check
from check import summary, table

SHOWN = 5                       # violations of a rule


def judge(rundir, workdir, info, failures, tap, left_out):
    """Have the run checked, print the table, add to the ledger; how many violations."""
    verdict = check(rundir)
    violations = verdict.total() + len(failures)
    lines = list(table(verdict, SHOWN)) + [f"found by the run: {text}" for text in failures]
    if tap:
        print_tap(verdict, lines, failures, left_out)
    else:
        print("\n".join(lines))
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(info["struck"].items()))
    print(f"# {len(info['struck'])} kinds of faults: {kinds}")
    print(f"# {info['promotions']} promotions, {info['rewinds']} of pg_rewind")
    print(f"# {summary(verdict)}", flush=True)
    add_to_ledger(os.path.join(workdir, "ledger.jsonl"), info, verdict, violations)
    return violations + (0 if verdict.good() else 1)


def print_tap(verdict, lines, failures, left_out):
    """A test for each rule, one for what the run found by itself, one for each sink left out."""
    tests = [(not verdict.count(name) and (tally.checked or name in verdict.excused),
              f"{name}: {tally.checked} looked at") for name, tally in verdict.tallies.items()]
    tests.append((not failures, "all came to rest"))
    for sink, why in left_out.items():
        tests.append((os.environ.get("CI") != "true", f"sink {sink} # skip {why}"))
    print(f"1..{len(tests)}")
    for number, (good, text) in enumerate(tests, 1):
        print(f"{'ok' if good else 'not ok'} {number} - {text}")
    for line in lines:
        print(f"# {line}")


def add_to_ledger(path, info, verdict, violations):
    """One line for this run."""
    line = {"date": time.strftime("%Y-%m-%d", time.gmtime(info["start"])),
            "commit": info["commit"], "seed": info["seed"], "faults": info["faults"],
            "struck": info["struck"], "seconds": round(info["end"] - info["start"]),
            "calls": len(verdict.run.calls), "orders": len(verdict.run.orders),
            "events": len(verdict.run.events), "sinks": [s["sink"] for s in info["sinks"]],
            "violations": violations}
    with open(path, "a", encoding="utf-8") as ledger:
        ledger.write(json.dumps(line) + "\n")
