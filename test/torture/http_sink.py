"""A receiver of events by HTTP that keeps connections, and answers what it has written down.

An event is in the log before its 204 goes out, so what the sender takes for delivered is
there, however this process ends.  Of some events the first attempt is refused, with
503 and without a trace: these are the ones that the sender has to park.
"""

import hashlib
import os
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def do_POST(self):          # pylint: disable=invalid-name
        """An event."""
        length = int(self.headers.get("Content-Length", -1))
        body = self.rfile.read(max(length, 0))
        if len(body) != length:     # the connection broke off within the request, or its headers
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.server.refuses(headers.get("ce-id", "")):
            self.answer(503)
            return
        self.server.take(self.path, headers, body)
        self.answer(204)

    def answer(self, status):
        """A status and nothing else; 204 has no length."""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format, *args):       # pylint: disable=redefined-builtin
        """Nothing."""


class Server(socketserver.ThreadingTCPServer):
    """The receiver."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, config, log):
        super().__init__(("127.0.0.1", config.get("port", 0)), Handler)
        self.log = log
        self.share = config.get("refuse", 0)
        self.start = f"{os.getpid()}.{time.monotonic_ns()}"
        self.lock = threading.Lock()
        self.count = 0
        self.tried = set()

    def refuses(self, event):
        """Is this the first attempt of an event that is chosen, by its id, to be refused?"""
        digest = hashlib.sha256(event.encode()).digest()
        if int.from_bytes(digest[:4], "big") >= self.share * 2 ** 32:
            return False
        with self.lock:
            first = event not in self.tried
            self.tried.add(event)
        return first

    def take(self, path, headers, body):
        """Write an event down; the order of the log is that of the positions."""
        with self.lock:
            self.count += 1
            self.log.message({"start": self.start, "n": self.count}, headers.get("ce-subject"),
                             {"(path)": path, **headers}, body)

    def handle_error(self, request, client_address):
        """A sender that was killed: nothing to be told."""


def serve(config, log):
    """Listen, in a thread; returns the port."""
    server = Server(config, log)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]
