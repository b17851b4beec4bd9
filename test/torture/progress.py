"""A line every few seconds: how far a run is."""

import os
import time

EVERY = 5.0                     # seconds


class Progress:
    """Counts what clients have written so far."""

    def __init__(self, rundir, faults, cluster):
        self.directory = os.path.join(rundir, "clients")
        self.faults = faults
        self.cluster = cluster
        self.began = self.shown = time.monotonic()
        self.read = {}          # file -> how far
        self.calls = 0
        self.unknown = 0

    def show(self, now=False):
        """Print a line, if it is time to."""
        if not now and time.monotonic() - self.shown < EVERY:
            return
        self.shown = time.monotonic()
        self.count()
        print(f"{self.shown - self.began:6.0f} s  {self.faults.count:5} faults of "
              f"{len(self.faults.struck):2} kinds  {self.calls:7} calls, {self.unknown} without "
              f"an answer  {self.cluster.promotions} promotions", flush=True)

    def count(self):
        """Look at what is new in the clients' logs."""
        for name in os.listdir(self.directory):
            with open(os.path.join(self.directory, name), "rb") as log:
                log.seek(self.read.get(name, 0))
                data = log.read()
            self.read[name] = self.read.get(name, 0) + len(data)
            self.calls += data.count(b"\n")
            self.unknown += data.count(b'"status": "unknown"')
