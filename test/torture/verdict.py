"""What the rules found: how much each looked at, and what was wrong."""

from dataclasses import dataclass, field

RULES = {}                      # name -> (what it demands, function)


@dataclass
class Tally:
    """What one rule has found."""

    checked: int = 0
    violations: list = field(default_factory=list)      # (where, t or None)

    def check(self, right, where, t=None):
        """One thing was looked at.  "where" may be a function, called if it is not right."""
        self.checked += 1
        if not right:
            self.add(where() if callable(where) else where, t)
        return right

    def add(self, where, t=None):
        """A violation."""
        self.violations.append((where, t))


def rule(name, demand):
    """Have a function(run, tally) be a rule."""
    def register(function):
        RULES[name] = (demand, function)
        return function
    return register


class Verdict:
    """The tallies of all rules over one run."""

    def __init__(self, run):
        self.run = run
        self.tallies = {}
        for name, (_, function) in RULES.items():
            self.tallies[name] = Tally()
            function(run, self.tallies[name])
        self.excused = set(run.info.get("not_exercised") or ())
        if not run.storms:
            self.excused.add("storms")

    def count(self, name):
        """The violations of a rule."""
        return len(self.tallies[name].violations)

    def total(self):
        """All violations."""
        return sum(len(tally.violations) for tally in self.tallies.values())

    def vacuous(self):
        """The rules that found nothing to look at, though the run should have had it."""
        return [name for name, tally in self.tallies.items()
                if tally.checked == 0 and name not in self.excused]

    def good(self):
        """Is all right, and was there anything to be wrong?"""
        return self.total() == 0 and not self.vacuous()

    def first(self):
        """(t, rule, where) of the first violation whose time is known, or None."""
        timed = [(t, name, where) for name, tally in self.tallies.items()
                 for where, t in tally.violations if t is not None]
        return min(timed, default=None)
