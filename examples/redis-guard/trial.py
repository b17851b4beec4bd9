#!/usr/bin/python3
"""Charge each of some keys once, by many workers, and count what was charged.

    trial.py with|without|usual [empty]

    with        claims, with Redis before them
    without     claims alone
    usual       Redis alone
    empty       Redis is emptied (FLUSHALL) in the middle

DATABASE_URL says where the database is, REDIS_PORT where Redis is, on this machine.
Each key is sent three times, at any time.  Of one in ten the first worker that does
the work dies before it commits, or in the commit.  Table charges has to be there, with
columns key and dies, and a deferred trigger that fails where dies is true.  Prints
one line of JSON.
"""

import collections
import json
import os
import random
import sys
import threading
import time

import psycopg
import redis

import guard

KEYS = 100
TIMES = 3
WORKERS = 8
ATTEMPTS = 25                   # of a client that is told to come again
WAIT = 0.1                      # s, between them


class Crash(Exception):
    """The worker dies."""


class Trial:
    """One run: its workers share the list of what is to be sent."""

    def __init__(self, mode, empty):
        self.mode = mode
        self.empty = empty
        self.counts = collections.Counter()
        self.lock = threading.Lock()
        self.dying = {f"{mode}-{i}" for i in range(KEYS) if i % 20 in (0, 15)}
        self.requests = [f"{mode}-{i}" for i in range(KEYS)] * TIMES
        random.shuffle(self.requests)
        self.half = len(self.requests) // 2
        self.answers = {}

    def count(self, what):
        """Add one to a counter."""
        with self.lock:
            self.counts[what] += 1

    def charge(self, connection, request):
        """The effect that must happen once: a row, here."""
        with self.lock:
            dies = request["key"] in self.dying
            self.dying.discard(request["key"])
        in_commit = dies and request["key"].endswith("5")
        connection.execute("INSERT INTO charges (key, dies) VALUES (%s, %s)",
                           (request["key"], in_commit))
        self.count("asked to charge")
        if dies and not in_commit:
            raise Crash
        return {"charged": request["amount"]}

    def send(self, cache, connection, key):
        """Send one request until it has an answer, as a client would."""
        handle = guard.handle_as_usual if self.mode == "usual" else guard.handle
        for _ in range(ATTEMPTS):
            try:
                return handle(cache, connection, key, {"key": key, "amount": 4990}, self.charge)
            except (Crash, psycopg.errors.RaiseException):
                self.count("crashes")
            except guard.Busy:
                self.count("told to come again")
            time.sleep(WAIT)
        self.count("given up")
        return None

    def next_request(self, cache):
        """The next key to send, or None; in the middle Redis loses all."""
        with self.lock:
            if not self.requests:
                return None
            key = self.requests.pop()
            if self.empty and len(self.requests) == self.half:
                cache.flushall()
        return key

    def work(self):
        """One worker."""
        control = redis.Redis(port=int(os.environ["REDIS_PORT"]), socket_timeout=1)
        cache = None if self.mode == "without" else control
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            while (key := self.next_request(control)) is not None:
                response = self.send(cache, connection, key)
                if response is not None:
                    self.count("answered")

    def run(self):
        """All workers, then the count of what they did."""
        threads = [threading.Thread(target=self.work) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            charged = dict(connection.execute(
                "SELECT key, count(*) FROM charges WHERE starts_with(key, %s) GROUP BY key",
                (self.mode + "-",)).fetchall())
        return {
            "keys": KEYS, "requests": KEYS * TIMES,
            "once": sum(times == 1 for times in charged.values()),
            "more than once": sum(times > 1 for times in charged.values()),
            "never": KEYS - len(charged), **self.counts}


if __name__ == "__main__":
    random.seed(int(os.environ.get("SEED", "7")))
    print(json.dumps(Trial(sys.argv[1], "empty" in sys.argv[2:]).run()))
