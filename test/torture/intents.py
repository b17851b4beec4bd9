"""What clients want: a pure function of the seed, the client and the step.

Of a client's steps about 70 % are requests of its own, which meet those of others: keys are
taken from a window that moves on with the steps, so several clients want the same order
created, paid, cancelled at about the same time.  The rest are deliberate retries:

    10 %    another client's request of the same step, so that the two race
    15 %    its own one of up to 15 steps before, answered or not
     5 %    the same with another body, which must not be taken for the first

An intent's id is the same for all that ask for the same thing, whoever does.
"""

import random
from dataclasses import dataclass, field, replace

READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE = (
    "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

# how many orders a step goes on by, and from how many its clients choose
ORDERS_PER_STEP = 6
WINDOW = 24

CURRENCIES = ("EUR", "USD", "GBP")
ACCOUNTS = 40

# a lease in seconds, and the time of the provider that outlasts it
LEASE = 3.0
TOO_LONG = 3.4

KINDS = (("create", 32), ("pay", 17), ("complete", 8), ("cancel", 8), ("refund", 4),
         ("inbox", 11), ("lease", 11), ("emit", 5), ("basket", 4))


@dataclass(frozen=True)
class Intent:
    """One logical request.

    how: for a lease what becomes of it, for a cancel what if the order is missing.
    orders: of a basket, which creates several in one transaction.
    two_phase: None, or "commit" or "rollback": prepared, and what then.
    savepoint: another order is created and rolled back first.
    """

    id: str
    kind: str
    key: str
    body: int = 0
    how: str = ""
    orders: tuple = ()
    number: int = 0


@dataclass(frozen=True)
class Step:
    """An intent, and in what kind of transaction it is asked for."""

    intent: Intent
    isolation: str
    two_phase: str | None = None
    savepoint: bool = False
    lateness: float = 0.0       # of the provider or the work under a lease, in seconds
    pause: float = 0.0          # before it, as a share of the usual pause
    retry: str = ""             # why it is a deliberate retry


@dataclass
class Order:
    """What an order's key stands for; body 0 is what its creator meant."""

    key: str
    amount: int
    currency: str
    account: str | None
    payload: dict = field(default_factory=dict)
    pay_within: str | None = None


def order_key(number):
    """The key of an order."""
    return f"o-{number:06d}"


def order(seed, key, body):
    """The request that creates an order; another body is another request."""
    rng = random.Random(f"{seed}/order/{key}")
    made = Order(key, rng.randrange(0, 500_000), rng.choice(CURRENCIES),
                 None if rng.random() < 0.05 else f"account-{rng.randrange(ACCOUNTS):03d}",
                 {"items": rng.randrange(1, 9), "note": "x" * rng.choice((0, 20, 200, 4000))},
                 "2 s" if rng.random() < 0.05 else None)
    return made if body == 0 else replace(made, amount=made.amount + body)


def step(seed, client, number, clients):
    """What a client does in a step."""
    rng = random.Random(f"{seed}/{client}/{number}")
    roll = rng.random()
    retry = ""
    intent = None
    if roll < 0.10:
        intent, retry = own(seed, rng.randrange(clients), number), "concurrent"
    elif roll < 0.30:
        intent, retry = own(seed, client, max(0, number - rng.randrange(1, 16))), "repeat"
        if roll >= 0.25:
            intent, retry = other_body(intent), "other body"
    if intent is None or (retry and intent.kind == "emit"):     # nothing guards an emit
        intent, retry = own(seed, client, number), ""
    return Step(intent,
                rng.choices((READ_COMMITTED, REPEATABLE_READ, SERIALIZABLE), (6, 2, 2))[0],
                rng.choices((None, "commit", "rollback"), (94, 4, 2))[0],
                rng.random() < 0.06,
                TOO_LONG if rng.random() < 0.03 else rng.random() ** 3 * 0.1,
                rng.uniform(0.2, 1.8), retry)


def own(seed, client, number):
    """The request that a client first makes in a step."""
    rng = random.Random(f"{seed}/own/{client}/{number}")
    kinds, weights = zip(*KINDS)
    kind = rng.choices(kinds, weights)[0]
    return MAKERS[kind](rng, client, number)


def other_body(intent):
    """The same key for another request, where it is compared."""
    if intent.kind not in ("create", "inbox", "lease"):
        return intent
    return replace(intent, id=f"{intent.id}/other", body=1)


def some_order(rng, number, back):
    """A key from the window as it was some steps ago."""
    first = max(0, number - rng.randrange(0, back + 1)) * ORDERS_PER_STEP
    return order_key(first + rng.randrange(WINDOW))


def create(rng, _client, number):
    """Create an order."""
    key = some_order(rng, number, 0)
    return Intent(f"create/{key}", "create", key)


def pay(rng, _client, number):
    """Pay an order, under one of two keys: the button was pressed twice."""
    key = some_order(rng, number, 6)
    which = int(rng.random() < 0.15)
    return Intent(f"pay/{key}/{which}", "pay", key, number=which)


def complete(rng, _client, number):
    """Complete an order."""
    key = some_order(rng, number, 10)
    return Intent(f"complete/{key}", "complete", key)


def cancel(rng, _client, number):
    """Cancel an order, one that may not be there yet."""
    key = some_order(rng, number, 4)
    how = rng.choice(("tombstone", "error", "error"))
    return Intent(f"cancel/{key}/{how}", "cancel", key, how=how)


def refund(rng, _client, number):
    """Cancel an order that has been paid by now."""
    key = some_order(rng, number, 12)
    return Intent(f"refund/{key}", "refund", key, how="error")


def inbox(rng, _client, number):
    """Handle a message once: a claim without a lease, and an event."""
    key = f"m-{number * 3 + rng.randrange(12):06d}"
    return Intent(f"inbox/{key}", "inbox", key)


def lease(rng, _client, number):
    """Do some work under a lease."""
    key = f"l-{number * 3 + rng.randrange(12):06d}"
    how = rng.choices(("complete", "extend", "release", "abandon"), (70, 12, 9, 9))[0]
    return Intent(f"lease/{key}", "lease", key, how=how)


def emit(_rng, client, number):
    """An event of the client's own, numbered."""
    return Intent(f"emit/{client}/{number}", "emit", f"e-{client:02d}", number=number)


def basket(rng, _client, number):
    """Several orders in one transaction, in the order of their keys."""
    keys = sorted({some_order(rng, number, 2) for _ in range(rng.randrange(2, 5))})
    return Intent("basket/" + "+".join(keys), "basket", keys[0], orders=tuple(keys))


MAKERS = {"create": create, "pay": pay, "complete": complete, "cancel": cancel,
          "refund": refund, "inbox": inbox, "lease": lease, "emit": emit, "basket": basket}
