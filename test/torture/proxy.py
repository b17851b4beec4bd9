"""A TCP proxy between a sink and its broker that breaks on command.

The proxy is test/lib/tcp_proxy.py, which the tests of single sinks use too; see there for
what it can be told.
"""

import os
import subprocess
import sys

LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib")
SCRIPT = os.path.join(LIBRARY, "tcp_proxy.py")
sys.path.append(LIBRARY)

from local_broker import free_port


class Proxy:
    """A proxy to a port of this machine, at work."""

    def __init__(self, target, port=None):
        self.port = port or free_port()
        self.target = target
        self.process = subprocess.Popen(
            [sys.executable, "-B", SCRIPT, str(self.port), str(target)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self.process.stdout.readline()

    def tell(self, command):
        """Give a command."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer.startswith("ok"):
            raise OSError(f"the proxy says {answer!r} to {command!r}")

    def stop(self):
        """End it."""
        self.process.kill()
        self.process.wait()
