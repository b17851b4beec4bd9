"""Rules about claims: one winner, fencing."""

from collections import defaultdict

from verdict import rule

SLACK = 0.1                     # seconds: clocks of client and server go alike, but not exactly


def seconds(interval):
    """The seconds of an interval as clients write it ("3.0 s"); None: no lease."""
    if interval is None:
        return None
    number, _, unit = str(interval).partition(" ")
    return float(number) * {"": 1, "s": 1, "ms": 0.001, "min": 60}[unit]


def wins(calls):
    """The claims that were won for certain, in their order."""
    return [c for c in calls if c.name == "claim_key" and c.done and c.outcome == "claimed"]


def within(run, before, call):
    """Was the earlier one still to be remembered?"""
    return call.t1 - before.t0 < run.retention


def given_back(calls, attempt):
    """Was, or may an attempt have been, released?"""
    return any(c.name == "release_key" and not c.never and c.args.get("attempt") == attempt
               and c.outcome in (None, "released") for c in calls)


@rule("claims", "a claim is never won twice")
def claims(run, tally):
    """Each key without a lease has one winner, each attempt of one with a lease."""
    for (scope, key), calls in run.by_claim.items():
        won = wins(calls)
        tally.checked += len(won)
        for before, call in pairs(run, won):
            leased = call.args.get("lease") is not None
            if leased and before.answer.get("attempt") == call.answer.get("attempt"):
                tally.add(f"{scope}/{key}: attempt {call.answer.get('attempt')} twice "
                          f"({before.where}, {call.where})", call.t1)
            elif not leased and not given_back(calls, None):
                tally.add(f"{scope}/{key}: won twice ({before.where}, {call.where})", call.t1)


def pairs(run, won):
    """Each two wins that are near enough to know of each other."""
    for i, call in enumerate(won):
        for before in won[:i]:
            if within(run, before, call):
                yield before, call


@rule("attempts", "a later claim of a key has a higher attempt, and comes after the lease")
def attempts(run, tally):
    """Wins of a key in the order of time."""
    for (scope, key), calls in run.by_claim.items():
        for before, call in pairs(run, wins(calls)):
            first, second = before.answer.get("attempt"), call.answer.get("attempt")
            if call.args.get("lease") is None or first == second:
                continue
            if before.t1 < call.t0:
                tally.check(second > first, f"{scope}/{key}: attempt {second} after {first} "
                            f"({call.where})", call.t1)
            if second == first + 1 and not given_back(calls, first):
                until = lease_end(calls, before, call)
                tally.check(call.t1 >= until - SLACK,
                            f"{scope}/{key}: attempt {second} within the lease of {first} "
                            f"({call.where})", call.t1)


def lease_end(calls, win, later):
    """Until when an attempt was safe before a later one had the key, at the least.  What is
    extended after that is of another time: a key that was let go of begins with 1 again."""
    extended = [c.t0 + seconds(c.args["lease"]) for c in calls
                if c.name == "extend_key" and c.done and c.outcome == "extended"
                and c.t0 < later.t1 and c.args.get("attempt") == win.answer.get("attempt")]
    return max([win.t0 + seconds(win.args["lease"]), *extended])


@rule("fences", "a leased key is completed by one attempt, and not after a later one has it")
def fences(run, tally):
    """Each completion, beside the other completions and the wins."""
    for (scope, key), calls in run.by_claim.items():
        completed = [c for c in calls if c.name == "complete_key" and c.done
                     and c.outcome == "completed" and c.args.get("attempt") is not None]
        late = [c for c in calls if c.name in ("complete_key", "extend_key", "release_key")
                and c.outcome == "stale" and c.done]
        tally.checked += len(completed) + len(late)
        for i, call in enumerate(completed):
            attempt = call.args["attempt"]
            for other in completed[:i]:
                if within(run, other, call):
                    tally.add(f"{scope}/{key}: completed by attempts {other.args['attempt']} and "
                              f"{attempt} ({other.where}, {call.where})", call.t1)
            for win in wins(calls):
                if (win.answer.get("attempt") or 0) > attempt and within(run, call, win) \
                        and within(run, win, call):
                    tally.add(f"{scope}/{key}: completed by attempt {attempt} and won by "
                              f"{win.answer['attempt']} ({call.where}, {win.where})",
                              max(call.t1, win.t1))


@rule("replays", "a repeated claim gets the response of the one that did the work")
def replays(run, tally):
    """Each replayed claim: somebody may have won it, and with that response."""
    for (scope, key), calls in run.by_claim.items():
        responses = defaultdict(list)
        for call in calls:
            if call.name == "complete_key" and not call.never:
                responses["complete"].append(call.args.get("response"))
        may_have_won = any(c.name == "claim_key" and not c.never and
                           c.outcome in (None, "claimed") for c in calls)
        for call in calls:
            if call.name != "claim_key" or not call.done or call.outcome != "replayed":
                continue
            response = call.answer.get("response")
            tally.check(may_have_won and (response is None or response in responses["complete"]),
                        f"{scope}/{key}: replayed with {response} ({call.where})", call.t1)


@rule("remembered", "an acknowledged completion is in the table, as it was acknowledged")
def remembered(run, tally):
    """Leased claims, of which the table has the keys."""
    rows = {(scope, key): (attempt, completed, response)
            for scope, key, attempt, completed, response in run.state["claims"]}
    end = max((c.t1 for c in run.calls), default=0)
    for (scope, key), calls in run.by_claim.items():
        for call in calls:
            attempt = call.args.get("attempt")
            if call.name != "complete_key" or not call.done or call.outcome != "completed" \
                    or attempt is None or end - call.t0 > run.retention / 2:
                continue
            row = rows.get((scope, key))
            tally.check(row == (attempt, True, call.args.get("response")),
                        f"{scope}/{key}: is {row}, completed by attempt {attempt} "
                        f"({call.where})", call.t1)


@rule("storms", "no claim is won twice while generations come and go")
def storms(run, tally):
    """What was won in storms of claims."""
    for storm in run.storms:
        tally.checked += storm["keys"]
        for key in storm["doubles"]:
            tally.add(f"storm {storm['storm']}: key {key} was won twice", storm["t"])
