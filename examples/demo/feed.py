"""The feed's model: one order request a line, and what must come out of it.

Both files are JSON lines.  The feed holds requests and nothing else.  The
expectations hold, for every order key that the feed mentions, the endings
that are right for it and the answers that are right for each request.
"""

import json
from dataclasses import asdict, dataclass, field

CREATE = "create"
PAY = "pay"
COMPLETE = "complete"
CANCEL = "cancel"

# The event that each state announces.
EVENT_TYPES = {
    "created": "order.created",
    "paid": "order.paid",
    "completed": "order.completed",
    "cancelled": "order.cancelled",
}


@dataclass
class Request:
    """One order request, as a broker would carry it.

    A retry is the same request under another id: everything by which a
    receiver could tell a repeat (operation, order, request key) is equal.
    """

    id: int
    op: str
    order: str
    request_key: str | None = None
    amount: int | None = None
    currency: str | None = None
    account: str | None = None
    payload: dict | None = None
    if_missing: str = "error"
    # Not sent before these are answered: the sender has seen those answers.
    after: list[int] = field(default_factory=list)
    # May be sent at any time, but while one of these is unanswered "missing"
    # and "illegal" mean "came too early", and it is redelivered.
    needs: list[int] = field(default_factory=list)
    retry_of: int | None = None

    def identity(self):
        """What makes two requests the same request."""
        return (self.op, self.order, self.request_key)

    def to_json(self):
        """The request as one line, members that say nothing left out."""
        members = {k: v for k, v in asdict(self).items() if v not in (None, [])}
        return json.dumps(members, separators=(",", ":"))

    @classmethod
    def from_json(cls, line):
        """The request that a line of the feed holds."""
        return cls(**json.loads(line))


@dataclass
class Ending:
    """One way in which an order may rightly end.

    states is every state it passes through, first to last; no state at all
    means that the order must not exist.
    """

    states: list[str]
    amount: int | None = None
    currency: str | None = None
    account: str | None = None

    @property
    def state(self):
        """The final state, None where there must be no order."""
        return self.states[-1] if self.states else None

    def events(self):
        """(version, type) of each event that must have been published."""
        return [(n, EVENT_TYPES[s]) for n, s in enumerate(self.states, 1)]

    def charges(self):
        """How often the customer's money must have been taken."""
        return self.states.count("paid")


@dataclass
class Expectation:
    """What the generator knows of one order key."""

    order: str
    endings: list[Ending]
    answers: dict[int, list[str]]

    def to_json(self):
        """The expectation as one line; the charges are for human readers."""
        endings = [{**asdict(e), "state": e.state, "charges": e.charges()}
                   for e in self.endings]
        return json.dumps({"order": self.order, "endings": endings,
                           "answers": self.answers}, separators=(",", ":"))

    @classmethod
    def from_json(cls, line):
        """The expectation that a line of the expectations file holds."""
        members = json.loads(line)
        endings = [Ending(e["states"], e["amount"], e["currency"], e["account"])
                   for e in members["endings"]]
        answers = {int(k): v for k, v in members["answers"].items()}
        return cls(members["order"], endings, answers)


def read_feed(path):
    """All requests, in the order in which they arrive."""
    with open(path, encoding="utf-8") as lines:
        return [Request.from_json(line) for line in lines]


def read_expectations(path):
    """Order key -> Expectation."""
    with open(path, encoding="utf-8") as lines:
        return {e.order: e for e in map(Expectation.from_json, lines)}


def write_lines(path, items):
    """Write requests or expectations, one a line."""
    with open(path, "w", encoding="utf-8") as out:
        for item in items:
            out.write(item.to_json() + "\n")
