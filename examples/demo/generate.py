#!/usr/bin/python3 -B
"""Generate a feed of order requests, and what must come out of it.

    generate.py FEED EXPECTATIONS [--size 10000] [--seed 1]

The same size and seed give the same two files, byte by byte.

Every order follows one of the scenarios below.  A scenario fixes the
requests, what may race with what, and the endings that are right whichever
request wins.  Sixteen clients make the order of arrival a matter of chance,
so a request that depends on another either waits for its answer ("after":
the customer saw it) or is redelivered until the other is answered ("needs":
it merely overtook it); see feed.Request.
"""

import argparse
import random
from dataclasses import dataclass, field, replace

from feed import (CANCEL, COMPLETE, CREATE, PAY, Ending, Expectation, Request,
                  write_lines)

# Orders and storms for each request of the feed: 4,000 and 20 of 10,000.
ORDERS_SHARE = 0.4
STORMS_SHARE = 0.002
STORM_SIZE = 50

CURRENCIES = ("EUR", "USD", "GBP")
ACCOUNTS = 200

# The least distance between two numbers by which the feed is sorted.
TICK = 1e-6


@dataclass
class Draft:
    """A request before the feed is sorted and it gets its id."""

    request: Request
    at: float
    answers: list[str]
    after: list["Draft"] = field(default_factory=list)
    needs: list["Draft"] = field(default_factory=list)
    retry_of: "Draft | None" = None


class OrderPlan:
    """Builds the requests of one order."""

    def __init__(self, rng, number, start):
        self.rng = rng
        self.key = f"order-{number:06d}"
        self.start = start
        self.drafts = []
        self.amount = rng.randrange(100, 500_000)
        self.currency = rng.choice(CURRENCIES)
        self.account = f"customer-{rng.randrange(ACCOUNTS):03d}"
        self.payload = {"items": rng.randrange(1, 9)}
        self.keys_made = 0

    def create(self, answers, *, at=None, amount=None, after=()):
        """Add a create request."""
        request = Request(0, CREATE, self.key, None, amount or self.amount,
                          self.currency, self.account, self.payload)
        return self._add(request, at, answers, after, ())

    def change(self, op, answers, *, at=None, after=(), needs=(), if_missing="error"):
        """Add a payment, completion or cancel under a request key of its own."""
        self.keys_made += 1
        request = Request(0, op, self.key, f"{self.key}/{op}/{self.keys_made}",
                          if_missing=if_missing)
        return self._add(request, at, answers, after, needs)

    def ending(self, *states):
        """One right ending of this order."""
        if not states:
            return Ending([])
        return Ending(list(states), self.amount, self.currency, self.account)

    def later(self, draft):
        """A time after a draft's; one in ten overtakes it instead."""
        if self.rng.random() < 0.1:
            return max(0.0, draft.at - self.rng.uniform(0, 150))
        return draft.at + self.rng.uniform(1, 120)

    def beside(self, draft):
        """A time so near to a draft's that the two race."""
        return draft.at + self.rng.uniform(-1, 1)

    def _add(self, request, at, answers, after, needs):
        draft = Draft(request, self.start if at is None else at, list(answers),
                      list(after), list(needs))
        self.drafts.append(draft)
        return draft


CREATED = ("created", "replayed")
APPLIED = ("applied", "replayed")
CANCELLED = ("cancelled", "replayed")


def only_created(plan):
    """An order that nobody pays."""
    plan.create(CREATED)
    return [plan.ending("created")]


def paid(plan):
    """An order and its payment."""
    create = plan.create(CREATED)
    plan.change(PAY, APPLIED, at=plan.later(create), needs=[create])
    return [plan.ending("created", "paid")]


def completed(plan):
    """An order, paid and completed, in whatever order that arrives."""
    create = plan.create(CREATED)
    pay = plan.change(PAY, APPLIED, at=plan.later(create), needs=[create])
    plan.change(COMPLETE, APPLIED, at=plan.later(pay), needs=[create, pay])
    return [plan.ending("created", "paid", "completed")]


def cancelled(plan):
    """An order that is cancelled."""
    create = plan.create(CREATED)
    plan.change(CANCEL, CANCELLED, at=plan.later(create), needs=[create])
    return [plan.ending("created", "cancelled")]


def pay_cancel_race(plan):
    """Payment and cancel at once: one of them wins, and the money follows."""
    create = plan.create(CREATED)
    at = create.at + plan.rng.uniform(20, 120)
    pay = plan.change(PAY, APPLIED + ("illegal",), at=at, needs=[create])
    plan.change(CANCEL, CANCELLED + ("ignored",), at=plan.beside(pay), needs=[create])
    return [plan.ending("created", "paid"), plan.ending("created", "cancelled")]


def double_payment_race(plan):
    """The pay button pressed twice: two request keys, one payment."""
    create = plan.create(CREATED)
    at = create.at + plan.rng.uniform(20, 120)
    pay = plan.change(PAY, APPLIED + ("illegal",), at=at, needs=[create])
    plan.change(PAY, APPLIED + ("illegal",), at=plan.beside(pay), needs=[create])
    return [plan.ending("created", "paid")]


def cancel_overtakes(plan):
    """A cancel that arrives before its create: there must be no order.

    Every second time the payment comes too.
    """
    cancel = plan.change(CANCEL, ("tombstoned", "replayed"), if_missing="tombstone")
    create = plan.create(("refused",), at=plan.start + plan.rng.uniform(1, 120),
                         after=[cancel])
    if plan.rng.random() < 0.5:
        plan.change(PAY, ("illegal", "missing"), at=plan.later(create),
                    needs=[cancel, create])
    return [plan.ending()]


def create_cancel_race(plan):
    """Create and cancel at once: cancelled either way."""
    create = plan.create(CREATED + ("refused",))
    plan.change(CANCEL, CANCELLED + ("tombstoned",), at=plan.beside(create),
                if_missing="tombstone")
    return [plan.ending(), plan.ending("created", "cancelled")]


def late_cancel(plan):
    """A cancel after the payment was confirmed: too late."""
    create = plan.create(CREATED)
    pay = plan.change(PAY, APPLIED, at=plan.later(create), needs=[create])
    plan.change(CANCEL, ("ignored",), at=pay.at + plan.rng.uniform(1, 120), after=[pay])
    return [plan.ending("created", "paid")]


def changed_amount(plan):
    """The create comes again with another amount: a mismatch, no change."""
    create = plan.create(CREATED)
    plan.create(("mismatch",), amount=plan.amount + plan.rng.randrange(1, 10_000),
                at=create.at + plan.rng.uniform(1, 200), after=[create])
    return [plan.ending("created")]


def unknown_key(plan):
    """A request for an order that nobody ever creates."""
    plan.change(plan.rng.choice((PAY, COMPLETE, CANCEL)), ("missing",))
    return [plan.ending()]


# Scenario and its share of the orders, in percent.
SCENARIOS = (
    (only_created, 53.0), (paid, 18.0), (completed, 8.0), (cancelled, 6.0),
    (pay_cancel_race, 4.0), (double_payment_race, 2.0), (cancel_overtakes, 3.0),
    (create_cancel_race, 1.5), (late_cancel, 1.5), (changed_amount, 2.0),
    (unknown_key, 1.0))


def plan_orders(rng, size):
    """All first-time requests, and the endings of each order."""
    scenarios, weights = zip(*SCENARIOS)
    drafts, endings = [], {}
    for number in range(1, round(size * ORDERS_SHARE) + 1):
        plan = OrderPlan(rng, number, rng.uniform(0, size))
        endings[plan.key] = rng.choices(scenarios, weights)[0](plan)
        drafts += plan.drafts
    return drafts, endings


def repeat(draft, at):
    """The same request once more."""
    return replace(draft, at=at, request=replace(draft.request), retry_of=draft)


def retry_delay(rng):
    """How long after a request its retry comes: at once, soon, or late."""
    kind = rng.random()
    if kind < 0.3:
        return rng.uniform(0, 6)
    if kind < 0.7:
        return rng.uniform(0, 400)
    return rng.uniform(400, 3000)


def add_retries(rng, drafts, size):
    """Storms of one request, and single retries up to the feed's size."""
    storms = max(1, round(size * STORMS_SHARE))
    retries = []
    for draft in rng.sample(drafts, storms):
        retries += [repeat(draft, draft.at + n * TICK) for n in range(1, STORM_SIZE)]
    missing = size - len(drafts) - len(retries)
    if missing < 0:
        raise ValueError(f"a feed of {size} requests is too small")
    for draft in rng.choices(drafts, k=missing):
        retries.append(repeat(draft, draft.at + retry_delay(rng)))
    return drafts + retries


def number_requests(drafts):
    """Sort the feed, give out ids, and write them where drafts referred."""
    drafts.sort(key=lambda d: d.at)
    for number, draft in enumerate(drafts, 1):
        draft.request.id = number
    for draft in drafts:
        request = draft.request
        request.after = [d.request.id for d in draft.after]
        request.needs = [d.request.id for d in draft.needs]
        if draft.retry_of:
            request.retry_of = draft.retry_of.request.id


def generate(size, seed):
    """The requests and the expectations of one seed."""
    rng = random.Random(seed)
    drafts, endings = plan_orders(rng, size)
    drafts = add_retries(rng, drafts, size)
    number_requests(drafts)
    expectations = {key: Expectation(key, e, {}) for key, e in endings.items()}
    for draft in drafts:
        answers = expectations[draft.request.order].answers
        answers[draft.request.id] = draft.answers
    return [d.request for d in drafts], list(expectations.values())


def main():
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("feed")
    parser.add_argument("expectations")
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    requests, expectations = generate(args.size, args.seed)
    write_lines(args.feed, requests)
    write_lines(args.expectations, expectations)


if __name__ == "__main__":
    main()
