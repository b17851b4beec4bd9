#!/usr/bin/python3 -B
"""Does the seed say what is tried?

    python3 -m unittest test_seed       (in this directory; needs no server)
"""

import itertools
import unittest
from collections import Counter

import faults
import intents

CLIENTS = 32
STEPS = 60
BROKERS = ["http", "kafka", "rabbitmq"]


def steps(seed):
    """What all clients do."""
    return [intents.step(seed, client, number, CLIENTS)
            for client in range(CLIENTS) for number in range(STEPS)]


def planned(seed, count):
    """The first faults, with a random number of each."""
    return [(*fault[:3], fault[3].random())
            for fault in itertools.islice(faults.plan(seed, BROKERS), count)]


class Seed(unittest.TestCase):
    """The plans of runs."""

    def test_same_seed(self):
        """The same seed, the same requests and faults; another one, others."""
        self.assertEqual(steps(3), steps(3))
        self.assertNotEqual(steps(3), steps(4))
        self.assertEqual(planned(3, 200), planned(3, 200))
        self.assertNotEqual(planned(3, 200), planned(4, 200))

    def test_retries(self):
        """About 30 % are deliberate retries, of each of the three sorts."""
        retries = Counter(step.retry for step in steps(1))
        share = 1 - retries[""] / sum(retries.values())
        self.assertTrue(0.25 < share < 0.35, share)
        self.assertEqual(set(retries), {"", "concurrent", "repeat", "other body"})

    def test_collisions(self):
        """Most orders are wanted by several clients."""
        wanted = {}
        for client, number in itertools.product(range(CLIENTS), range(STEPS)):
            step = intents.step(1, client, number, CLIENTS)
            if step.intent.kind == "create":
                wanted.setdefault(step.intent.key, set()).add(client)
        several = sum(len(clients) > 1 for clients in wanted.values())
        self.assertGreater(several, len(wanted) / 2)

    def test_other_body(self):
        """Another body is another request under the same key."""
        first, second = (intents.order(1, "o-000001", body) for body in (0, 1))
        self.assertEqual(first.key, second.key)
        self.assertNotEqual(first, second)

    def test_rounds(self):
        """Every kind of fault has its turn in a round, and can be struck."""
        kinds = faults.SERVER_KINDS + faults.BROKER_KINDS
        for seed in range(5):
            first = planned(seed, len(kinds) + len(faults.OFTEN))
            self.assertEqual({kind for _, kind, _, _ in first}, set(kinds))
        for kind in kinds:
            self.assertTrue(callable(getattr(faults.Faults, kind.replace(" ", "_"))), kind)

    def test_chosen_kinds(self):
        """Only the chosen kinds, where some are."""
        chosen = ("promote", "broker cut")
        found = {kind for _, kind, _, _ in
                 itertools.islice(faults.plan(1, BROKERS, chosen), 50)}
        self.assertEqual(found, set(chosen))


if __name__ == "__main__":
    unittest.main()
