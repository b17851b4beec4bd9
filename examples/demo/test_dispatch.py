#!/usr/bin/python3 -B
"""Does the demo's broker deliver at least once, and in a sensible order?

    python3 -m unittest test_dispatch   (in this directory; needs no server)

The clients are real processes, with a script in place of a database: each
notes what it got in a file of appended lines, then answers as it is told.
"""

import os
import sys
import tempfile
import unittest

import dispatch
from dispatch import DemoError, Dispatcher
from feed import CREATE, PAY, Request

# Answers a payment "missing" until the create of its order was seen, and
# kills itself once in the middle of the request that argv names.
CLIENT = """
import json, os, signal, sys
log, die_at = sys.argv[1], int(sys.argv[2])
for line in sys.stdin:
    request = json.loads(line)
    with open(log, "a+") as seen:
        seen.write(f"{request['op']} {request['id']}\\n")
        seen.flush()
        seen.seek(0)
        lines = seen.read().splitlines()
    if request["id"] == die_at and lines.count(f"{request['op']} {die_at}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    created = any(l.startswith("create") for l in lines)
    outcome = "done" if request["op"] == "create" or created else "missing"
    print(json.dumps({"id": request["id"], "outcome": outcome}), flush=True)
"""


class Deliveries(unittest.TestCase):
    """What the clients get to see."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.log = os.path.join(self.directory.name, "seen")

    def play(self, requests, die_at=0, clients=2):
        """Deliver; the outcomes by id, and what the clients saw."""
        command = [sys.executable, "-c", CLIENT, self.log, str(die_at)]
        answers = Dispatcher(requests, [command] * clients, None, lambda _: None).run()
        with open(self.log, encoding="ascii") as seen:
            return ({i: a["outcome"] for i, a in answers.items()},
                    seen.read().splitlines())

    def test_every_request_is_answered(self):
        """No fault: each is delivered once."""
        outcomes, seen = self.play([Request(i, CREATE, "a") for i in range(1, 30)])
        self.assertEqual({i: "done" for i in range(1, 30)}, outcomes)
        self.assertEqual(29, len(seen))

    def test_dead_client(self):
        """What it held is delivered again, to somebody alive."""
        outcomes, seen = self.play([Request(i, CREATE, "a") for i in range(1, 10)], die_at=4)
        self.assertEqual({i: "done" for i in range(1, 10)}, outcomes)
        self.assertEqual(2, seen.count("create 4"))

    def test_clients_that_always_die(self):
        """A broken client script ends the demo."""
        broken = [sys.executable, "-c", "raise SystemExit(1)"]
        with self.assertRaises(DemoError):
            Dispatcher([Request(1, CREATE, "a")], [broken], None, lambda _: None).run()

    def test_too_early(self):
        """A payment before its create comes again after it."""
        requests = [Request(1, PAY, "a", needs=[2]), Request(2, CREATE, "a")]
        outcomes, seen = self.play(requests, clients=1)
        self.assertEqual({1: "done", 2: "done"}, outcomes)
        self.assertEqual(["pay 1", "create 2", "pay 1"], seen)

    def test_unknown_order(self):
        """"missing" is final after a few more deliveries."""
        outcomes, seen = self.play([Request(1, PAY, "a")])
        self.assertEqual({1: "missing"}, outcomes)
        self.assertEqual(["pay 1"] * (1 + dispatch.MISSING_REDELIVERIES), seen)

    def test_held_until_the_answer(self):
        """A request is not sent before the answer that its sender saw."""
        requests = [Request(1, PAY, "a", after=[3]), Request(2, CREATE, "b"),
                    Request(3, CREATE, "a", after=[2])]
        _, seen = self.play(requests, clients=3)
        self.assertEqual(["create 2", "create 3", "pay 1"], seen)


if __name__ == "__main__":
    unittest.main()
