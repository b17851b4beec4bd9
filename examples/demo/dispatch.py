"""The broker of the demo: hands the feed to the clients, at least once.

Each client is a process that gets one request at a time on its standard
input and answers it on its standard output.  Requests of one order go to
whichever client is free, so that races are real.  As with any broker,

- a request whose client died before it answered is delivered again;
- a request that came too early (answer "missing" or "illegal" while one that
  it needs is unanswered) is delivered again a little later;
- "missing" is believed only after a few more deliveries, since nobody can
  tell an unknown order from one that is on its way.

Everything runs in one thread: on_progress is called after each final answer,
and may take its time (the clients go on with what they hold).
"""

import heapq
import json
import os
import selectors
import subprocess
import time
from collections import deque

REDELIVERY_DELAY = 0.02         # seconds, doubled each time up to the maximum
REDELIVERY_DELAY_MAX = 0.5
REDELIVERIES_MAX = 200
MISSING_REDELIVERIES = 3
STALLED_AFTER = 90.0            # seconds without any final answer
UNASKED_DEATHS_MAX = 3          # clients that died and nobody killed them


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Client:
    """One client process, and the request that it holds."""

    def __init__(self, command, log):
        self.command = command
        self.log = log
        self.request = None
        self.ready = False
        self.received = b""
        self.process = None
        self.start()

    def start(self):
        """Start the process."""
        self.received = b""
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log)

    def send(self, request, ready):
        """Deliver one request; ready: an answer to it is final."""
        self.request, self.ready = request, ready
        try:
            self.process.stdin.write(request.to_json().encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass                # its end of file is read next

    def receive(self):
        """The answer, None while it is incomplete; EOFError if it died."""
        chunk = os.read(self.process.stdout.fileno(), 65536)
        if not chunk:
            raise EOFError
        self.received += chunk
        if not self.received.endswith(b"\n"):
            return None
        line, self.received = self.received, b""
        return json.loads(line)

    def stop(self):
        """End the process: idle, it leaves when its input ends."""
        if self.request:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                stream.close()
            except BrokenPipeError:
                pass
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Dispatcher:
    """Delivers a feed until every request has its final answer."""

    def __init__(self, requests, commands, log, on_progress):
        self.total = len(requests)
        self.queue = deque(requests)
        self.delayed = []                   # heap of (due, id, request)
        self.held = {}                      # id -> requests waiting for it
        self.answers = {}                   # id -> final answer
        self.redeliveries = {}
        self.unasked_deaths = 0
        self.expected_deaths = set()
        self.last_answer = time.monotonic()
        self.on_progress = on_progress
        self.selector = selectors.DefaultSelector()
        self.clients = [Client(command, log) for command in commands]

    def run(self):
        """Deliver everything; the final answers by request id."""
        for client in self.clients:
            self._watch(client)
        try:
            while len(self.answers) < self.total:
                self._deliver()
                for key, _ in self.selector.select(self._patience()):
                    self._hear(key.data)
                self._check_stalled()
        finally:
            self.selector.close()
            for client in self.clients:
                client.stop()
        return self.answers

    def busy_clients(self):
        """The clients that hold a request now."""
        return [c for c in self.clients if c.request]

    def kill_client(self, client):
        """Kill a client process with -9; it is started again."""
        self.expected_deaths.add(client.process.pid)
        client.process.kill()

    def _watch(self, client):
        self.selector.register(client.process.stdout, selectors.EVENT_READ, client)

    def _patience(self):
        """How long to wait for answers before looking at the queue again."""
        if not self.delayed:
            return 1.0
        return min(1.0, max(0.001, self.delayed[0][0] - time.monotonic()))

    def _deliver(self):
        """Give every idle client a request, as long as there are any."""
        for client in self.clients:
            if client.request is None:
                request = self._next()
                if request is None:
                    return
                client.send(request, self._answered(request.needs))

    def _next(self):
        """The request to deliver now: one that is due again, or a new one."""
        if self.delayed and self.delayed[0][0] <= time.monotonic():
            return heapq.heappop(self.delayed)[2]
        while self.queue:
            request = self.queue.popleft()
            if self._answered(request.after):
                return request
            waits_for = next(i for i in request.after if i not in self.answers)
            self.held.setdefault(waits_for, []).append(request)
        return None

    def _answered(self, ids):
        return all(i in self.answers for i in ids)

    def _hear(self, client):
        """Take what a client says, or its death."""
        try:
            answer = client.receive()
        except EOFError:
            self._bury(client)
            return
        if answer is None:
            return
        request, client.request = client.request, None
        if self._too_early(request, answer["outcome"], client.ready):
            self._redeliver(request)
        else:
            self._finish(request, answer)

    def _too_early(self, request, outcome, ready):
        """Is this an answer that another delivery may change?"""
        if outcome not in ("missing", "illegal"):
            return False
        return not ready or (outcome == "missing" and
                             self.redeliveries.get(request.id, 0) < MISSING_REDELIVERIES)

    def _redeliver(self, request):
        count = self.redeliveries[request.id] = self.redeliveries.get(request.id, 0) + 1
        if count > REDELIVERIES_MAX:
            raise DemoError(f"request {request.id} was delivered {count} times in vain")
        delay = min(REDELIVERY_DELAY * 2 ** min(count - 1, 10), REDELIVERY_DELAY_MAX)
        heapq.heappush(self.delayed, (time.monotonic() + delay, request.id, request))

    def _finish(self, request, answer):
        """Note a final answer, and let go what waited for it."""
        self.answers[request.id] = answer
        self.queue.extendleft(reversed(self.held.pop(request.id, [])))
        self.on_progress(self)
        self.last_answer = time.monotonic()

    def _bury(self, client):
        """A client died: start it again, deliver what it held again."""
        self.selector.unregister(client.process.stdout)
        pid = client.process.pid
        client.stop()
        if pid in self.expected_deaths:
            self.expected_deaths.discard(pid)
        else:
            self.unasked_deaths += 1
            if self.unasked_deaths > UNASKED_DEATHS_MAX:
                raise DemoError(f"client processes end by themselves, last {client.command}")
        if client.request:
            self.queue.appendleft(client.request)
            client.request = None
        client.start()
        self._watch(client)

    def _check_stalled(self):
        if time.monotonic() - self.last_answer > STALLED_AFTER:
            held = ", ".join(str(c.request.id) for c in self.busy_clients())
            raise DemoError(f"no answer for {STALLED_AFTER:.0f} seconds; "
                            f"requests with the clients: {held or 'none'}")
