"""What programs that watch themselves said while they ran: see scripts/private.

AddressSanitizer and valgrind write to files of a directory.  UndefinedBehaviorSanitizer looks for its
options when it first has something to say, where a server's process no longer has them, and so says it to
the server's log.
"""

import re
from pathlib import Path

UNDEFINED = re.compile(r":\d+:\d+: runtime error: ")


class Findings:
    """The files of a directory, and logs below another one; no directory: nothing is found."""

    def __init__(self, directory, logs):
        self.directory = directory
        self.logs = logs
        self.read = {}          # file -> how far

    def new(self):
        """What was said since the last call: for each file its name and its new lines."""
        if not self.directory:
            return
        for path in sorted(Path(self.directory).iterdir()):
            lines = self.new_lines(path)
            if lines:
                yield path.name, lines
        for path in sorted(Path(self.logs).rglob("*.log")):
            lines = [line for line in self.new_lines(path) if UNDEFINED.search(line)]
            if lines:
                yield f"UndefinedBehaviorSanitizer, in {path.name}", lines

    def new_lines(self, path):
        """Lines of a file that were not there at the last call."""
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(self.read.get(path, 0))
            text = file.read()
            self.read[path] = file.tell()
        return text.splitlines()
