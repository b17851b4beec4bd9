"""A TCP proxy between a sink and its broker that breaks on command.

The proxy is test/lib/tcp_proxy.py, which the tests of single sinks use too; see there for
what it can be told.
"""

import os
import socket
import subprocess
import sys

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib", "tcp_proxy.py")


def free_port():
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
