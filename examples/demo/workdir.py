"""The demo's working directory: its files, and one demo at a time in it."""

import fcntl
import os
import shutil
import signal
import sys
import time

POLL = 0.05


class Workdir:
    """The directory that OI_WORKDIR names."""

    def __init__(self, root):
        self.root = os.path.abspath(root)
        self.feed = self.path("feed.jsonl")
        self.expectations = self.path("expectations.jsonl")
        self.lock_file = None

    def path(self, name, directory=""):
        """A file of the directory, or of one in it."""
        return os.path.join(self.root, directory, name)

    def clean(self):
        """Remove what a former demo wrote; the server removes its own."""
        for name in os.listdir(self.root):
            if name.endswith((".jsonl", ".log", ".txt")):
                os.unlink(self.path(name))
        shutil.rmtree(self.path("events"), ignore_errors=True)
        os.mkdir(self.path("events"))

    def lock(self):
        """Be the only demo here, after another one has ended."""
        self._open()
        if not self._try_lock():
            print("Waiting for another demo in this directory to end ...", file=sys.stderr)
            fcntl.flock(self.lock_file, fcntl.LOCK_EX)
        self.lock_file.truncate(0)
        self.lock_file.write(f"{os.getpid()}\n")
        self.lock_file.flush()

    def unlock(self):
        """Let the next demo in."""
        self.lock_file.truncate(0)
        self.lock_file.close()

    def end_demo(self):
        """Ask demos that still run here to end, until none is left."""
        self._open()
        asked = None
        while not self._try_lock():
            self.lock_file.seek(0)
            pid = self.lock_file.readline().strip()
            if pid and pid != asked:
                os.kill(int(pid), signal.SIGTERM)
                asked = pid
            time.sleep(POLL)

    def _try_lock(self):
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False

    def _open(self):
        self.lock_file = open(self.path("lock"), "a+", encoding="ascii")
