"""Planted bugs: patches with a head that says what they are, applied exactly or not at all.

    Bug: what is wrong, in one line
    Sinks: those of the run that is to catch it
    Expect: the rules of which one must be violated
    Kinds: of faults, where not all are wanted

    a unified diff
"""

import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
DIRECTORY = os.path.join(HERE, "mutants")
SOURCES = os.path.normpath(os.path.join(HERE, "..", ".."))


class PatchError(Exception):
    """A patch that is no patch, or does not apply any more."""


class Mutant:
    """A planted bug."""

    def __init__(self, name):
        self.name = name
        with open(os.path.join(DIRECTORY, f"{name}.patch"), encoding="utf-8") as file:
            head, mark, diff = file.read().partition("\ndiff --git ")
        if not mark:
            raise PatchError(f"{name}: no diff")
        fields = dict(re.findall(r"^(\w+): (.+)$", head, re.MULTILINE))
        try:
            self.bug = fields["Bug"]
            self.sinks = fields["Sinks"].split()
            self.expect = [rule.strip() for rule in fields["Expect"].split(",")]
        except KeyError as missing:
            raise PatchError(f"{name}: its head does not say {missing}") from None
        self.kinds = [kind.strip() for kind in fields.get("Kinds", "").split(",") if kind]
        self.files = dict(parse_file(name, part) for part in diff.split("\ndiff --git "))

    def apply(self, sources):
        """What becomes of the files: {path: (before, after)}.  Nothing is written."""
        changed = {}
        for path, hunks in self.files.items():
            with open(os.path.join(sources, path), encoding="utf-8") as file:
                before = after = file.read()
            for old, new in hunks:
                if after.count(old) != 1:
                    raise PatchError(f"{self.name} does not apply to {path} any more: "
                                     f"{after.count(old)} places look like\n{old}")
                after = after.replace(old, new)
            changed[path] = before, after
        return changed


def parse_file(name, part):
    """A file's path and its hunks: pairs of text before and after."""
    lines = part.splitlines(keepends=True)
    path = re.search(r"^\+\+\+ b/(.+)$", part, re.MULTILINE)
    if path is None:
        raise PatchError(f"{name}: a diff of no file")
    hunks = []
    for line in lines:
        if line.startswith("@@"):
            hunks.append(["", ""])
        elif hunks and line[0] in " -+":
            hunks[-1][0] += line[1:] if line[0] != "+" else ""
            hunks[-1][1] += line[1:] if line[0] != "-" else ""
    if not hunks or any(old == new for old, new in hunks):
        raise PatchError(f"{name}: a diff that changes nothing in {path[1]}")
    return path[1], hunks


def names():
    """All planted bugs."""
    return sorted(name.removesuffix(".patch") for name in os.listdir(DIRECTORY)
                  if name.endswith(".patch"))
