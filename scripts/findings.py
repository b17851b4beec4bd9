"""What programs that watch themselves wrote while they ran: see scripts/private."""

import os


class Findings:
    """The files of a directory; None: there is none, and nothing is found."""

    def __init__(self, directory):
        self.directory = directory
        self.read = {}          # file -> how far

    def new(self):
        """What was written since the last call: for each file its name and its new lines."""
        if not self.directory:
            return
        for name in sorted(os.listdir(self.directory)):
            with open(os.path.join(self.directory, name), encoding="utf-8",
                      errors="replace") as file:
                file.seek(self.read.get(name, 0))
                text = file.read()
                self.read[name] = file.tell()
            if text.strip():
                yield name, text.splitlines()
