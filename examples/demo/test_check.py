#!/usr/bin/python3 -B
"""Does the checker see damage?  Plants each kind of it and has it counted.

    python3 -m unittest test_check      (in this directory; needs no server)

The recorded data is made from a generated feed: what a side without any
fault would leave behind.  Each test does one kind of damage to it and
demands that exactly that is found, so a checker that counts nothing, or
everything, fails here.
"""

import json
import random
import unittest
from collections import Counter

import generate
from check import (DEFECTS, Move, Order, Recorded, charge_moves, check,
                   ledger_moves)
from feed import CANCEL, CREATE, EVENT_TYPES, PAY

SIZE = 1000


def event_line(key, version, kind):
    """A published event."""
    return json.dumps({"specversion": "1.0", "id": f"{key}/{version}/{kind}", "type": kind,
                       "data": {"key": key, "version": version}}).encode() + b"\n"


class Story:
    """A feed that went through without a fault, to be damaged."""

    def __init__(self, seed, demanded_moves):
        rng = random.Random(seed)
        self.demanded_moves = demanded_moves
        self.requests, expectations = generate.generate(SIZE, seed)
        self.expectations = {e.order: e for e in expectations}
        self.endings = {e.order: rng.choice(e.endings) for e in expectations}
        self.recorded = Recorded()
        self.events = []
        for key, ending in self.endings.items():
            self._record(key, ending)
        self.answers = {}
        seen = Counter()
        for request in self.requests:
            self._answer(request, seen)

    def _record(self, key, ending):
        if not ending.states:
            return
        self.recorded.orders[key] = Order(ending.state, ending.amount, ending.currency,
                                          ending.account)
        self.recorded.moves[key] = self.demanded_moves(ending)
        for version, kind in ending.events():
            self.recorded.changes.append((key, version, kind))
            self.events.append((key, version, kind))

    def _answer(self, request, seen):
        """The answer that a faultless side would have given."""
        right = self.expectations[request.order].answers[request.id]
        ending = self.endings[request.order]
        seen[request.identity()] += 1
        again = seen[request.identity()] > 1
        if request.op == CREATE and "refused" in right and not ending.states:
            outcome = "refused"
        elif request.op == PAY and "illegal" in right and "paid" not in ending.states:
            outcome = "illegal"
        elif request.op == CANCEL and "ignored" in right and ending.state == "paid":
            outcome = "ignored"
        else:
            outcome = "replayed" if again and "replayed" in right else right[0]
        self.answers[request.id] = {"outcome": outcome}

    def verdict(self):
        """What the checker says."""
        if not self.recorded.published:
            self.recorded.published = b"".join(event_line(*e) for e in self.events)
        return check(self.requests, self.expectations, self.answers, self.recorded,
                     self.demanded_moves)

    def an_order(self, *states):
        """The key of an order that went through these states and no others."""
        return next(k for k, e in self.endings.items()
                    if e.states == list(states) and len(self.expectations[k].endings) == 1)

    def a_request(self, op, **wanted):
        """A first-time request of a kind, by the outcome that it had."""
        return next(r for r in self.requests if r.op == op and not r.retry_of
                    and self.answers[r.id]["outcome"] == wanted["outcome"])


class Damage(unittest.TestCase):
    """One kind of damage a test."""

    def setUp(self):
        self.story = Story(7, ledger_moves)
        self.recorded = self.story.recorded

    def expect(self, **counts):
        """Exactly these defects must be found, underscores for blanks."""
        verdict = self.story.verdict()
        wanted = {kind: counts.get(kind.replace(" ", "_"), 0) for kind in DEFECTS}
        self.assertEqual(wanted, {kind: verdict.count(kind) for kind in DEFECTS},
                         verdict.found)

    def test_no_damage(self):
        """Promises 1 to 6 kept: nothing is counted, whoever won the races."""
        for seed in range(5):
            for moves in (ledger_moves, charge_moves):
                self.story = Story(seed, moves)
                self.expect()

    def test_double_charge(self):
        """Two captures of one order."""
        moves = self.recorded.moves[self.story.an_order("created", "paid")]
        moves.append(moves[-1])
        self.expect(double_charges=1, wrong_money=1)

    def test_double_charge_of_the_usual_tables(self):
        """Three charges of one order are two too many."""
        self.story = Story(7, charge_moves)
        key = self.story.an_order("created", "paid")
        self.story.recorded.moves[key] *= 3
        self.expect(double_charges=2, wrong_money=1)

    def test_charge_of_a_cancelled_order(self):
        """Captured although cancelled."""
        key = self.story.an_order("created", "cancelled")
        amount, currency = self.story.endings[key].amount, self.story.endings[key].currency
        self.recorded.moves[key].append(Move("capture", "escrow", "revenue", amount, currency))
        self.expect(wrong_money=1)

    def test_missing_movement(self):
        """Cancelled, but the funds are still held."""
        self.recorded.moves[self.story.an_order("created", "cancelled")].pop()
        self.expect(wrong_money=1)

    def test_movement_of_another_amount(self):
        """Captured one unit less."""
        moves = self.recorded.moves[self.story.an_order("created", "paid")]
        last = moves.pop()
        moves.append(Move(last.effect, last.debit, last.credit, last.amount - 1, last.currency))
        self.expect(wrong_money=1)

    def test_movement_to_another_account(self):
        """Held from somebody else's account."""
        moves = self.recorded.moves[self.story.an_order("created")]
        first = moves.pop()
        moves.append(Move(first.effect, "customer-x", first.credit, first.amount,
                          first.currency))
        self.expect(wrong_money=1)

    def test_changed_amount_of_an_order(self):
        """The order row has the amount of the changed request."""
        key = self.story.an_order("created")
        order = self.recorded.orders[key]
        self.recorded.orders[key] = Order(order.state, order.amount + 5, order.currency,
                                          order.account)
        self.expect(wrong_money=1)

    def test_movement_without_an_order(self):
        """Money moved for a key that must not exist."""
        key = self.story.an_order()
        self.recorded.moves[key] = [Move("hold", "a", "escrow", 1, "EUR")]
        self.expect(wrong_money=1)

    def test_lost_order(self):
        """Acknowledged, published, and gone with its money: its event is a ghost."""
        key = self.story.an_order("created")
        del self.recorded.orders[key], self.recorded.moves[key]
        self.recorded.changes = [c for c in self.recorded.changes if c[0] != key]
        self.expect(lost_orders=1, ghost_events=1)

    def test_lost_order_that_could_have_been_refused(self):
        """Absent would be right if its create had not been acknowledged."""
        key = next(k for k, e in self.story.expectations.items()
                   if len(e.endings) == 2 and not self.story.endings[k].states)
        request = next(r for r in self.story.requests if r.op == CREATE and r.order == key)
        self.story.answers[request.id]["outcome"] = "created"
        self.expect(lost_orders=1)

    def test_order_that_must_not_exist(self):
        """Created after its cancel, with an event and no money."""
        key = self.story.an_order()
        self.recorded.orders[key] = Order("created", 1, "EUR", "a")
        self.recorded.changes.append((key, 1, EVENT_TYPES["created"]))
        self.story.events.append((key, 1, EVENT_TYPES["created"]))
        self.expect(wrong_states=1)

    def test_order_that_nobody_asked_for(self):
        """A key that is in no request."""
        self.recorded.orders["nobody's"] = Order("created", 1, "EUR", "a")
        self.expect(wrong_states=1, wrong_money=1)

    def test_wrong_state(self):
        """Stopped half-way: the payment's effects are there, the state is not."""
        key = self.story.an_order("created", "paid")
        order = self.recorded.orders[key]
        self.recorded.orders[key] = Order("created", order.amount, order.currency,
                                          order.account)
        self.expect(wrong_states=1)

    def test_lost_event(self):
        """Two committed changes that nobody heard of."""
        del self.story.events[3], self.story.events[10]
        self.expect(lost_events=2)

    def test_change_that_the_history_lost(self):
        """A state that the order must have passed, neither noted nor published."""
        key = self.story.an_order("created", "paid")
        gone = (key, 1, EVENT_TYPES["created"])
        self.recorded.changes.remove(gone)
        self.story.events.remove(gone)
        self.expect(lost_events=1)

    def test_nothing_published(self):
        """No file at all."""
        count = len(self.story.events)
        self.recorded.published = b"\n"
        self.expect(lost_events=count, torn_lines=1)

    def test_ghost_event(self):
        """An event of a change that was rolled back."""
        key = self.story.an_order("created")
        self.story.events.append((key, 2, EVENT_TYPES["paid"]))
        self.expect(ghost_events=1)

    def test_event_of_another_type(self):
        """The right version under the wrong name is one lost and one ghost."""
        key, version, _ = self.story.events[5]
        self.story.events[5] = (key, version, "order.renamed")
        self.expect(lost_events=1, ghost_events=1)

    def test_repeated_events(self):
        """The same line twice more."""
        self.story.events += [self.story.events[4]] * 2
        self.expect(repeated_events=2)

    def test_events_out_of_order(self):
        """Paid before created."""
        key = self.story.an_order("created", "paid")
        first, second = [i for i, e in enumerate(self.story.events) if e[0] == key]
        events = self.story.events
        events[first], events[second] = events[second], events[first]
        self.expect(events_out_of_order=1)

    def test_torn_last_line(self):
        """The file ends within an event."""
        self.story.verdict()
        self.recorded.published = self.recorded.published[:-20]
        self.expect(torn_lines=1, lost_events=1)

    def test_last_line_without_its_end(self):
        """A whole event, but the next one would be glued to it."""
        self.story.verdict()
        self.recorded.published = self.recorded.published[:-1]
        self.expect(torn_lines=1, lost_events=1)

    def test_line_glued_to_a_torn_one(self):
        """Half a line of a killed writer, and the next writer's after it."""
        self.story.verdict()
        lines = self.recorded.published.splitlines(keepends=True)
        lines[6] = lines[6][:30] + lines[6]
        self.recorded.published = b"".join(lines)
        self.expect(torn_lines=1, lost_events=1)

    def test_hole_in_the_file(self):
        """Zero bytes where an event was."""
        self.story.verdict()
        lines = self.recorded.published.splitlines(keepends=True)
        lines[6] = bytes(len(lines[6]) - 1) + b"\n"
        self.recorded.published = b"".join(lines)
        self.expect(torn_lines=1, lost_events=1)

    def test_wrong_answer(self):
        """A changed amount taken for a repeat."""
        request = self.story.a_request(CREATE, outcome="mismatch")
        self.story.answers[request.id]["outcome"] = "replayed"
        self.expect(wrong_answers=1)

    def test_no_answer(self):
        """A request that was never answered."""
        del self.story.answers[self.story.a_request(PAY, outcome="applied").id]
        self.expect(wrong_answers=1)

    def test_done_twice(self):
        """A retry answered as if it had been the first."""
        request = next(r for r in self.story.requests
                       if r.op == CREATE and r.retry_of
                       and self.story.answers[r.id]["outcome"] == "replayed")
        self.story.answers[request.id]["outcome"] = "created"
        self.expect(wrong_answers=1)


class Feed(unittest.TestCase):
    """The generator keeps what the demo says of the feed."""

    @classmethod
    def setUpClass(cls):
        cls.requests, cls.expectations = generate.generate(10_000, 1)

    def test_size(self):
        """Ten thousand requests of four thousand orders, a third are retries."""
        self.assertEqual(10_000, len(self.requests))
        self.assertEqual(4_000, len(self.expectations))
        retries = sum(r.retry_of is not None for r in self.requests)
        self.assertTrue(3_000 <= retries <= 4_000, retries)

    def test_same_seed_same_feed(self):
        """Nothing but size and seed decides."""
        again, expectations = generate.generate(10_000, 1)
        self.assertEqual([r.to_json() for r in self.requests], [r.to_json() for r in again])
        self.assertEqual([e.to_json() for e in self.expectations],
                         [e.to_json() for e in expectations])
        other, _ = generate.generate(10_000, 2)
        self.assertNotEqual([r.to_json() for r in self.requests],
                            [r.to_json() for r in other])

    def test_storms(self):
        """Twenty times fifty of the same request in a row."""
        longest = Counter()
        for before, request in zip(self.requests, self.requests[1:]):
            if before.identity() == request.identity():
                longest[request.identity()] += 1
        self.assertGreaterEqual(sum(n >= 45 for n in longest.values()), 15)

    def test_disorder(self):
        """Payments before their create, and cancels that overtake it."""
        early = [r for r in self.requests if not r.retry_of and any(n > r.id for n in r.needs)]
        self.assertGreater(len(early), 100)
        tombstones = [r for r in self.requests if r.op == CANCEL
                      and r.if_missing == "tombstone" and not r.retry_of]
        self.assertGreater(len(tombstones), 100)

    def test_retries_are_repeats(self):
        """A retry differs from its request in nothing but the id."""
        for request in self.requests:
            if request.retry_of:
                first = self.requests[request.retry_of - 1]
                self.assertEqual((first.identity(), first.amount, first.payload),
                                 (request.identity(), request.amount, request.payload))

    def test_nothing_waits_for_ever(self):
        """"after" has no cycle: each time round somebody can be sent."""
        left, answered = list(self.requests), set()
        while left:
            ready = [r for r in left if answered.issuperset(r.after)]
            self.assertTrue(ready, left[:3])
            answered.update(r.id for r in ready)
            left = [r for r in left if r.id not in answered]


if __name__ == "__main__":
    unittest.main()
