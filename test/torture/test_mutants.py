#!/usr/bin/python3 -B
"""Can all bugs still be planted?

    python3 -m unittest test_mutants    (in this directory; needs no server)

A patch that does not apply to the sources any more plants nothing, and a run that finds
nothing then says nothing.
"""

import unittest

import check                    # noqa: F401  has the rules registered
import consumers
import faults
import patching
from verdict import RULES


class Mutants(unittest.TestCase):
    """Each patch."""

    def test_enough(self):
        """There are some of each kind."""
        self.assertGreaterEqual(len(patching.names()), 12)

    def test_apply(self):
        """Each hunk fits in one place of the sources."""
        for name in patching.names():
            with self.subTest(name):
                for before, after in patching.Mutant(name).apply(patching.SOURCES).values():
                    self.assertNotEqual(before, after)

    def test_heads(self):
        """What is to catch it is there."""
        kinds = set(faults.SERVER_KINDS + faults.BROKER_KINDS)
        for name in patching.names():
            with self.subTest(name):
                mutant = patching.Mutant(name)
                self.assertLessEqual(set(mutant.expect), set(RULES))
                self.assertLessEqual(set(mutant.sinks), set(consumers.READERS))
                self.assertLessEqual(set(mutant.kinds), kinds)

    def test_patch_that_does_not_apply(self):
        """It is an error, and a loud one."""
        mutant = patching.Mutant(patching.names()[0])
        for hunks in mutant.files.values():
            hunks[0][0] += "something that is not there\n"
        with self.assertRaises(patching.PatchError):
            mutant.apply(patching.SOURCES)


if __name__ == "__main__":
    unittest.main()
