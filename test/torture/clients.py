#!/usr/bin/python3 -B
"""Clients of the torture run: a process with a thread for each of some of them.

    clients.py RUNDIR CONNINFO SEED CLIENTS FIRST COUNT PAUSE

Each asks for what intents.py says, and asks again without an answer, until SIGTERM.
What was asked and answered is in RUNDIR/clients/N.jsonl, a line for each call.
"""

import json
import os
import random
import signal
import sys
import threading
import time

import psycopg

import intents
from intents import LEASE
from session import ANSWERS, Log, Lost, Session, Stop, run, sqlstate

PATIENCE = 30.0                 # seconds that an intent is tried for
LAST_PATIENCE = 10.0            # the same, once clients were told to stop
DELAY, DELAY_MAX = 0.02, 0.8    # seconds between tries, doubled each time


class Provider:
    """A payment provider, which remembers a charge by its key."""

    def __init__(self, path):
        self.path = path

    def charge(self, client, key, attempt, lateness):
        """Take the money, which takes its time."""
        time.sleep(lateness)
        line = json.dumps({"t": time.monotonic(), "client": client, "key": key,
                           "attempt": attempt}) + "\n"
        out = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(out, line.encode())
        os.close(out)
        return f"ch_{key}"


class Client(threading.Thread):
    """One of the clients."""

    def __init__(self, rundir, conninfo, seed, clients, number, pause, stopping):
        super().__init__(name=f"client {number}")
        self.seed, self.clients, self.number, self.pause = seed, clients, number, pause
        self.stopping = stopping
        self.session = Session(conninfo, number,
                               Log(os.path.join(rundir, "clients", f"{number}.jsonl")))
        self.provider = Provider(os.path.join(rundir, "provider.jsonl"))
        self.timing = random.Random(f"{seed}/timing/{number}")
        self.since = None

    def run(self):
        """Step by step."""
        number = 0
        while not self.stopping.is_set():
            step = intents.step(self.seed, self.number, number, self.clients)
            self.stopping.wait(step.pause * self.pause)
            self.session.look_for_orphans()
            self.perform(step)
            number += 1
        self.session.drop()

    def perform(self, step):
        """Ask for one thing until there is an answer, or no use."""
        handle = getattr(self, f"do_{step.intent.kind}")
        self.since = time.monotonic()
        try:
            handle(step)
        except (Stop, psycopg.Error):
            pass                # it is in the log

    def again(self, step, body, single=False):
        """Try a transaction until it is answered."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return run(self.session, step, attempt, body, single)
            except Lost:
                self.rest(attempt)
            except psycopg.Error as error:
                if sqlstate(error) not in ANSWERS:
                    raise
                raise Stop(sqlstate(error)) from error

    def rest(self, attempt):
        """Wait before the next try; Stop where it has been long enough."""
        patience = LAST_PATIENCE if self.stopping.is_set() else PATIENCE
        if time.monotonic() - self.since > patience:
            raise Stop("no answer")
        time.sleep(min(DELAY * 2 ** min(attempt, 8), DELAY_MAX) * self.timing.uniform(0.5, 1))

    # -- what can be asked for -----------------------------------------------

    def do_create(self, step):
        """One order."""
        self.again(step, lambda t: self.create(t, step.intent.key, step.intent.body), True)

    def create(self, transaction, key, body, conflict=None):
        """The call that creates an order."""
        order = intents.order(self.seed, key, body)
        more = {"pay_within": order.pay_within} if order.pay_within else {}
        return transaction.call(
            "create_order", key=order.key, amount=order.amount, currency=order.currency,
            account=order.account, payload=order.payload, **more,
            on_conflict=conflict or self.conflict(key))

    @staticmethod
    def conflict(key):
        """Errors for every other order, outcomes for the rest."""
        return "error" if int(key[-1], 16) % 2 else "report"

    def do_basket(self, step):
        """Several orders, all or none."""
        def body(transaction):
            for key in step.intent.orders:
                if self.create(transaction, key, 0, "report")["outcome"] == "in_progress":
                    raise Lost("in progress")
        self.again(step, body)

    def do_complete(self, step):
        """Complete an order, with a request key or without."""
        key = step.intent.key
        more = {"request_key": step.intent.id} if int(key[-1]) % 3 else {}
        self.again(step, lambda t: t.call(
            "transition_order", key=key, to_state="completed", **more,
            on_conflict=self.conflict(key)), True)

    def do_cancel(self, step):
        """Cancel an order."""
        intent = step.intent
        self.again(step, lambda t: t.call(
            "cancel_order", key=intent.key, reason=intent.kind, request_key=intent.id,
            if_missing=intent.how, on_conflict=self.conflict(intent.key)), True)

    do_refund = do_cancel

    def do_emit(self, step):
        """An event that nothing guards: asked for once, and done before the next one."""
        intent = step.intent
        try:
            run(self.session, once(step), 1, lambda t: t.call(
                "emit_event", type="parcel.tracked", key=intent.key,
                payload={"n": intent.number}), True)
        except Lost:
            self.rest(1)

    def do_inbox(self, step):
        """A message that is handled once."""
        intent = step.intent

        def body(transaction):
            claim = transaction.call("claim_key", key=intent.key, scope="inbox",
                                     request={"message": intent.key, "body": intent.body})
            if claim["outcome"] == "in_progress":
                raise Lost("in progress")
            if claim["outcome"] != "claimed":
                return
            event = transaction.call("emit_event", type="message.handled", key=intent.key,
                                     payload={"body": intent.body, "client": self.number})
            transaction.call("complete_key", key=intent.key, scope="inbox",
                             response={"event_id": str(event["emit_event"]),
                                       "body": intent.body})
        self.again(step, body)

    def claim(self, step, scope, request):
        """The attempt's number under a lease; Stop where it is done or somebody else's."""
        attempt = 0
        while True:
            attempt += 1
            claim = self.again(step, lambda t: t.call(
                "claim_key", key=step.intent.id if scope == "pay" else step.intent.key,
                scope=scope, request=request, lease=f"{LEASE} s"), True)
            if claim["outcome"] == "claimed":
                return claim["attempt"]
            if claim["outcome"] != "in_progress":
                raise Stop(claim["outcome"])
            self.rest(attempt)

    def do_pay(self, step):
        """Claim, charge, and record the payment with the claim's end."""
        intent = step.intent
        attempt = self.claim(once(step), "pay", {"pay": intent.key})
        charge = self.provider.charge(self.number, intent.id, attempt, step.lateness)

        def body(transaction):
            change = transaction.call("transition_order", key=intent.key, to_state="paid",
                                      request_key=intent.id, on_conflict="report")
            if change["outcome"] == "in_progress":
                raise Lost("in progress")
            done = transaction.call("complete_key", key=intent.id, scope="pay", attempt=attempt,
                                    response={"charge": charge, "outcome": change["outcome"],
                                              "attempt": attempt, "client": self.number})
            if done["complete_key"] not in ("completed", "replayed"):
                raise Stop("fenced off")
        self.again(step, body)

    def do_lease(self, step):
        """Work under a lease that ends in one of several ways."""
        intent = step.intent
        request = {"work": intent.key, "body": intent.body}
        attempt = self.claim(once(step), "work", request)
        time.sleep(step.lateness)
        if intent.how == "abandon":
            return
        if intent.how == "extend":
            self.again(step, lambda t: t.call(
                "extend_key", key=intent.key, lease=f"{LEASE} s", scope="work",
                attempt=attempt), True)
        if intent.how == "release":
            self.again(step, lambda t: t.call(
                "release_key", key=intent.key, scope="work", attempt=attempt), True)
            return
        self.again(step, lambda t: t.call(
            "complete_key", key=intent.key, scope="work", attempt=attempt,
            response={"client": self.number, "attempt": attempt}), True)


def once(step):
    """The same step in a transaction that has committed when it is answered."""
    return intents.replace(step, two_phase=None)


def main():
    """Run some clients until SIGTERM."""
    rundir, conninfo, seed, clients, first, count, pause = sys.argv[1:]
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    running = [Client(rundir, conninfo, int(seed), int(clients), int(first) + n, float(pause),
                      stopping) for n in range(int(count))]
    for client in running:
        client.start()
    for client in running:
        client.join()


if __name__ == "__main__":
    main()
