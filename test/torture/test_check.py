#!/usr/bin/python3 -B
"""Does the checker see damage?  Plants each kind of it and has it counted.

    python3 -m unittest test_check      (in this directory; needs no server)

story.py makes a run without a fault.  Each test does one kind of damage to it, and demands
that exactly the rules that it breaks find it, as often as it was done: a rule that counts
nothing, or everything, fails here.
"""

import contextlib
import copy
import io
import os
import tempfile
import unittest

import check
import story as stories
from verdict import RULES


class Damage(unittest.TestCase):
    """A faultless story, to be damaged."""

    def setUp(self):
        self.story = stories.faultless()
        self.calls = self.story.calls

    def verdict(self):
        """What the checker says."""
        with tempfile.TemporaryDirectory() as directory:
            self.story.write(directory)
            return check.judge(directory, offline=True)

    def expect(self, **counts):
        """Exactly these violations, underscores for blanks."""
        verdict = self.verdict()
        wanted = {name: counts.get(name.replace(" ", "_"), 0) for name in RULES}
        self.assertEqual(wanted, {name: verdict.count(name) for name in RULES},
                         "\n".join(check.table(verdict, 99)))
        self.assertEqual([], verdict.vacuous())

    def find(self, name, key, outcome=None):
        """The line of a call."""
        return next(line for line in self.calls if line["call"] == name
                    and line["args"]["key"] == key
                    and outcome in (None, (line["answer"] or {}).get("outcome")))

    def event(self, key, version=1):
        """An event of an order."""
        return next(e for e in self.story.log if (e.key, e.version) == (key, version))


class Orders(Damage):
    """What clients were told, and the tables."""

    def test_no_damage(self):
        """Nothing is found where nothing is wrong, and every rule looked at something."""
        self.expect()

    def test_lost_order(self):
        """An acknowledged order is not there, with everything that was its own."""
        del self.story.orders["o-plain"]
        self.story.log.remove(self.event("o-plain"))
        self.expect(creates=2, answers=2)

    def test_order_of_another_amount(self):
        """The row is not what was asked for; the money neither."""
        self.story.orders["o-0"].amount = 501
        self.expect(creates=1, money=1, payload=2)

    def test_created_twice(self):
        """Two calls were told that they made it."""
        self.find("create_order", "o-plain", "replayed")["answer"]["outcome"] = "created"
        self.expect(creates=1, once_done=1)

    def test_two_events_for_one_order(self):
        """A replay answered with an event of its own."""
        self.find("create_order", "o-plain", "replayed")["answer"]["event_id"] = \
            self.story.uuid()
        self.expect(answers=1)

    def test_missing_after_acknowledged(self):
        """It was there, and then it was not."""
        self.story.call("transition_order", {"key": "o-0", "to_state": "completed"}, None,
                        status="error", sqlstate="OI004", committed=False)
        self.expect(answers=1)

    def test_missing_before(self):
        """It was not there yet: nothing is wrong with that."""
        line = self.story.call("transition_order", {"key": "o-0", "to_state": "paid"}, None,
                               status="error", sqlstate="OI004", committed=False)
        line.update(t0=50.0, t1=100.5)
        self.expect()

    def test_version_that_goes_back(self):
        """An answer from before an acknowledged change."""
        line = self.find("create_order", "o-0")
        again = copy.deepcopy(line)
        again.update(t0=self.story.tick(), t1=self.story.now)
        again["answer"]["outcome"] = "replayed"
        self.calls.append(again)
        self.expect(answers=1)

    def test_old_version_in_an_old_snapshot(self):
        """The transaction began before the change: nothing is wrong."""
        again = copy.deepcopy(self.find("create_order", "o-0"))
        begun = copy.deepcopy(again)
        begun.update(t0=100.9, t1=100.95, iso="REPEATABLE READ", txn="1.50")
        again.update(t0=self.story.tick(), t1=self.story.now, iso="REPEATABLE READ", txn="1.50")
        begun["answer"]["outcome"] = again["answer"]["outcome"] = "replayed"
        self.calls += [begun, again]
        self.expect()

    def test_answer_of_another_request(self):
        """A payment was answered with the event of the creation."""
        self.find("transition_order", "o-0")["answer"]["event_id"] = self.event("o-0").id
        self.expect(answers=1)

    def test_own_request_refused(self):
        """A retry of what was done is told that it is illegal."""
        self.story.call("transition_order", {"key": "o-0", "to_state": "paid",
                                             "request_key": "pay-0"},
                        {"order_key": "o-0", "outcome": "illegal", "state": "paid", "version": 2,
                         "event_id": None})
        self.expect(answers=1)

    def test_another_request_refused(self):
        """A second payment is illegal: nothing is wrong with that."""
        self.story.call("transition_order", {"key": "o-0", "to_state": "paid",
                                             "request_key": "pay-again"},
                        {"order_key": "o-0", "outcome": "illegal", "state": "paid", "version": 2,
                         "event_id": None})
        self.expect()

    def test_mismatch_with_itself(self):
        """The same request was taken for another one."""
        self.story.call("create_order", {"key": "o-0", "amount": 500, "currency": "EUR",
                                         "account": "a-1", "payload": None}, None,
                        status="error", sqlstate="OI001", committed=False)
        self.expect(answers=1)

    def test_another_request_taken_for_it(self):
        """Another amount was answered as a repeat."""
        self.find("create_order", "o-plain", "replayed")["args"]["amount"] = 501
        self.expect(creates=1)

    def test_refused_without_a_tombstone(self):
        """There is an order, and the create is refused."""
        self.story.call("create_order", {"key": "o-0", "amount": 1}, None, status="error",
                        sqlstate="OI005", committed=False)
        self.expect(answers=1)

    def test_intent_done_twice(self):
        """The retry of a cancellation was told that it did it, too."""
        again = copy.deepcopy(self.find("transition_order", "o-0"))
        again.update(t0=self.story.tick(), t1=self.story.now)
        self.calls.append(again)
        self.expect(once_done=1)

    def test_gap_in_a_history(self):
        """A version that is not there; its event and its money are of nothing."""
        order = self.story.orders["o-1"]
        del order.history[1]
        self.expect(histories=1, answers=1, events=2, bytes=1, money=1, order=6)

    def test_illegal_history(self):
        """Completed without a payment."""
        order = self.story.orders["o-plain"]
        self.story.change(order, "paid")
        version, _, event_id, _ = order.history[1]
        order.history[1] = (version, "completed", event_id, None)
        order.state = "completed"
        self.expect(histories=1, asked_for=1, events=1, bytes=1, payload=1)

    def test_history_that_ends_elsewhere(self):
        """The row says another state."""
        self.story.orders["o-plain"].state = "cancelled"
        self.expect(histories=1)

    def test_change_nobody_asked_for(self):
        """A payment that is in no client's log."""
        self.story.change(self.story.orders["o-plain"], "paid", "nobody's")
        self.expect(asked_for=1)

    def test_change_of_a_transaction_that_was_rolled_back(self):
        """The only call that asked for it did not commit."""
        line = self.find("transition_order", "o-3")
        line["committed"] = False
        self.expect(asked_for=1, all_or_nothing=1)

    def test_cancelled_by_a_deadline(self):
        """Nobody asked for it but the deadline: nothing is wrong."""
        self.story.change(self.story.orders["o-plain"], "cancelled")
        self.expect()

    def test_half_a_transaction(self):
        """Of two orders of one transaction one is there; whether it committed is not known."""
        for key in ("o-b1", "o-b2"):
            self.find("create_order", key)["committed"] = None
        del self.story.orders["o-b2"]
        self.story.log.remove(self.event("o-b2"))
        self.story.ledger = [row for row in self.story.ledger if row[0] != "o-b2"]
        self.expect(all_or_nothing=1)

    def test_double_charge(self):
        """Captured once more."""
        row = next(row for row in self.story.ledger if row[0] == "o-0" and row[2] == "capture")
        self.story.ledger.append(list(row))
        self.expect(money=1)

    def test_money_that_was_not_moved(self):
        """A refund without its row."""
        self.story.ledger = [row for row in self.story.ledger if row[2] != "refund"]
        self.expect(money=1)

    def test_money_of_nothing(self):
        """A movement without an order."""
        self.story.ledger.append(["o-back", 1, "hold", "a-1", "escrow", 1, "EUR"])
        self.expect(money=1)


class Claims(Damage):
    """Keys."""

    def test_won_twice(self):
        """A claim without a lease."""
        self.story.claim("m-1")
        self.expect(claims=1)

    def test_won_again_after_it_expired(self):
        """The claim was kept for as long as it had to be."""
        self.story.now += 1001
        self.story.claim("m-1")
        self.story.info["not_exercised"] = ["remembered"]   # the completion is too old
        self.expect()

    def test_won_by_one_that_was_rolled_back(self):
        """Nothing is wrong with that."""
        self.story.claim("m-2", committed=False)
        self.story.claim("m-2")
        self.expect()

    def test_attempt_twice(self):
        """Two have the same attempt."""
        self.story.claim("l-2", 1, lease=3.0)
        self.story.now += 5
        self.story.claim("l-2", 1, lease=3.0)
        self.expect(claims=1)

    def test_attempt_that_goes_back(self):
        """The second one has a lower number."""
        self.story.claim("l-2", 2, lease=3.0)
        self.story.now += 5
        self.story.claim("l-2", 1, lease=3.0)
        self.expect(attempts=1)

    def test_within_the_lease(self):
        """Taken over too early."""
        self.story.claim("l-2", 1, lease=30.0)
        self.story.claim("l-2", 2, lease=30.0)
        self.expect(attempts=1)

    def test_within_the_lease_that_was_extended(self):
        """The first lease was over, the extended one not."""
        self.story.claim("l-2", 1, lease=3.0)
        self.story.call("extend_key", {"key": "l-2", "scope": "work", "lease": "60.0 s",
                                       "attempt": 1}, {"extend_key": "extended"})
        self.story.now += 5
        self.story.claim("l-2", 2, lease=3.0)
        self.expect(attempts=1)

    def test_within_the_lease_after_a_release(self):
        """It was given back: nothing is wrong."""
        self.story.claim("l-2", 1, lease=30.0)
        self.story.call("release_key", {"key": "l-2", "scope": "work", "attempt": 1},
                        {"release_key": "released"})
        self.story.claim("l-2", 2, lease=30.0)
        self.expect()

    def test_completed_by_two(self):
        """Both attempts were told that they completed it."""
        late = next(line for line in self.calls if line["answer"] == {"complete_key": "stale"})
        late["answer"] = {"complete_key": "completed"}
        self.expect(fences=2, once_done=1, remembered=1)

    def test_won_after_it_was_completed(self):
        """A third attempt although the work is done."""
        self.story.claim("l-1", 3, lease=3.0)
        self.expect(fences=1)

    def test_another_response(self):
        """The repeat got a response that nobody gave."""
        self.find("claim_key", "l-1", "replayed")["answer"]["response"] = {"by": 3}
        self.expect(replays=1)

    def test_replay_of_nothing(self):
        """Nobody ever won it."""
        self.story.call("claim_key", {"key": "m-9", "scope": "work"},
                        {"outcome": "replayed", "response": None})
        self.expect(replays=1)

    def test_won_twice_in_a_storm(self):
        """While generations came and went."""
        self.story.storms[0]["doubles"] = ["17", "23"]
        self.expect(storms=2)

    def test_completion_that_was_forgotten(self):
        """The row is not completed."""
        self.story.claims[0][3:] = [False, None]
        self.expect(remembered=1)


class Events(Damage):
    """The way of the events."""

    def sink(self, sink):
        """The lines of a sink's consumer, to be damaged."""
        return self.story.consume(sink)

    def test_change_without_an_event(self):
        """The log lacks it, so no sink has it either."""
        self.story.log.remove(self.event("o-plain"))
        self.expect(events=1, delivered=6)

    def test_event_of_no_change(self):
        """The log has an event of an order that did not change."""
        stories.Event(self.story, "order.paid", "o-plain", {"key": "o-plain"}, 2)
        self.expect(events=1)

    def test_lost_at_one_sink(self):
        """Each sink in its turn lacks the last event."""
        for sink in stories.SINKS:
            with self.subTest(sink):
                self.setUp()
                self.sink(sink).pop()
                self.expect(delivered=1)

    def test_lost_in_the_middle(self):
        """The next one of its key is there without it."""
        lines = self.sink("http")
        del lines[next(i for i, e in enumerate(self.story.log) if e.key == "o-1")]
        self.expect(delivered=1, order=1)

    def test_dead_letter(self):
        """It was set aside: nothing is wrong."""
        self.sink("http").pop()
        self.story.failed.append(["http", self.story.log[-1].id, "dead"])
        self.expect()

    def test_emitted_event_lost(self):
        """Acknowledged, and neither in the log nor anywhere."""
        self.story.log.pop()
        self.expect(delivered=6)

    def test_repeated(self):
        """Once more at each: only some sinks may."""
        for sink in stories.SINKS:
            with self.subTest(sink):
                self.setUp()
                self.story.consume(sink, [*self.story.log, self.story.log[-1]])
                self.expect(once=int(sink in ("file", "kafka", "redis")))

    def test_read_again(self):
        """The consumer had to begin anew: the positions tell."""
        for sink in stories.SINKS:
            with self.subTest(sink):
                self.setUp()
                lines = self.sink(sink)
                lines += copy.deepcopy(lines)
                self.expect()

    def test_file_cut_back(self):
        """What was cut off and written anew is there once."""
        lines = self.sink("file")
        lines += [{"t": 600.0, "sink": "file", "cut": lines[-2]["pos"]},
                  *copy.deepcopy(lines[-2:])]
        self.expect()

    def test_file_cut_back_for_good(self):
        """What was cut off is not there."""
        lines = self.sink("file")
        lines.append({"t": 600.0, "sink": "file", "cut": lines[-2]["pos"]})
        self.expect(delivered=2)

    def test_lease_of_another_time(self):
        """The key was let go of, and attempt 1 of its next time extends its lease."""
        self.story.claim("l-9", 1, lease=3.0)
        self.story.now += 5
        self.story.claim("l-9", 2, lease=3.0)
        self.story.now += 2000
        self.story.claim("l-9", 1, lease=3.0)
        self.story.call("extend_key", {"key": "l-9", "scope": "work", "attempt": 1, "lease": "3.0 s"},
                        {"extend_key": "extended"})
        self.story.complete("l-9", 1, {"by": 1})
        self.expect()

    def test_lease_that_was_extended(self):
        """Another one has it all the same."""
        self.story.claim("l-9", 1, lease=3.0)
        self.story.call("extend_key", {"key": "l-9", "scope": "work", "attempt": 1, "lease": "30.0 s"},
                        {"extend_key": "extended"})
        self.story.now += 5
        self.story.claim("l-9", 2, lease=3.0)
        self.expect(attempts=1)

    def test_ghost(self):
        """An event of a transaction that was rolled back, at one sink."""
        ghost = stories.Event(self.story, "order.created", "o-back", {"key": "o-back"}, 1)
        self.story.log.pop()
        self.story.consume("nats", [*self.story.log, ghost])
        self.expect(ghosts=1)

    def test_ghost_whose_caller_was_told(self):
        """The same, and the client knows the event's id."""
        ghost = stories.Event(self.story, "order.created", "o-back", {"key": "o-back"}, 1)
        self.story.log.pop()
        self.find("create_order", "o-back")["answer"]["event_id"] = ghost.id
        self.story.consume("nats", [*self.story.log, ghost])
        self.expect(ghosts=1, all_or_nothing=1)

    def emitted_without_an_answer(self):
        """Everywhere, and gone from the log; who emitted it was never told."""
        event = self.story.log.pop()
        call = next(line for line in self.story.calls
                    if (line["answer"] or {}).get("emit_event") == event.id)
        call.update(answer=None, status="unknown", committed=None)
        for sink in stories.SINKS:
            self.story.consume(sink, [*self.story.log, event])
        self.story.log_was_emptied = True
        return event, call

    def test_emitted_without_an_answer(self):
        """It may have committed: nothing is wrong."""
        self.emitted_without_an_answer()
        self.expect()

    def test_emitted_without_an_answer_and_lost(self):
        """Where it is at one sink, it must be at all."""
        self.emitted_without_an_answer()
        self.story.consume("http", self.story.log)
        self.expect(delivered=1)

    def test_emitted_without_an_answer_and_in_no_log(self):
        """The log has all that there ever was, and not this."""
        self.emitted_without_an_answer()
        self.story.log_was_emptied = False
        self.expect(ghosts=6)

    def test_emitted_twice_without_an_answer(self):
        """One call has one event."""
        event, _ = self.emitted_without_an_answer()
        again = copy.copy(event)
        again.id = self.story.uuid()
        self.story.consume("rabbitmq", [*self.story.log, event, again])
        self.expect(ghosts=1)

    def test_emitted_and_failed(self):
        """The client knows that its transaction was rolled back."""
        _, call = self.emitted_without_an_answer()
        call["committed"] = False
        self.expect(ghosts=6)

    def test_new_id(self):
        """An event was sent again under another id."""
        last = self.story.log[-1]
        again = copy.copy(last)
        again.id = self.story.uuid()
        self.story.consume("rabbitmq", [*self.story.log, again])
        self.expect(ghosts=1)

    def test_other_bytes(self):
        """One sink has a blank more."""
        event = copy.copy(self.story.log[-1])
        event.data += b" "
        self.story.consume("redis", [*self.story.log[:-1], event])
        self.expect(bytes=1)

    def test_other_bytes_than_the_log(self):
        """All sinks agree, and the log says something else."""
        for sink in stories.SINKS:
            self.sink(sink)
        self.story.log[-1].data = b'{"n": 17}'
        self.expect(bytes=1)

    def test_other_attribute(self):
        """The trace got lost on one way."""
        event = copy.copy(self.story.log[-1])
        event.headers = {}
        self.story.consume("kafka", [*self.story.log[:-1], event])
        self.expect(bytes=1)

    def test_out_of_order(self):
        """Paid before created."""
        for sink in stories.SINKS:
            with self.subTest(sink):
                self.setUp()
                events = list(self.story.log)
                events[0], events[1] = events[1], events[0]
                self.story.consume(sink, events)
                self.expect(order=2)

    def test_repeat_is_no_disorder(self):
        """The first event came once more behind the second."""
        self.story.consume("http", [*self.story.log[:2], *self.story.log])
        self.expect()

    def test_emitted_out_of_order(self):
        """What one client emitted one after the other."""
        events = list(self.story.log)
        events[-1], events[-2] = events[-2], events[-1]
        self.story.consume("http", events)
        self.expect(order=1)

    def test_torn(self):
        """Half a message."""
        lines = self.sink("file")
        lines[-1]["body_base64"] = lines[-1]["body_base64"][:40]
        self.expect(whole=1, delivered=1)

    def test_two_names(self):
        """The protocol's id is another one than the event's."""
        self.sink("nats")[-1]["headers"]["Nats-Msg-Id"] = "17"
        self.expect(whole=1, delivered=1)

    def test_payload_of_another_change(self):
        """The event says another state than the order had."""
        event = self.event("o-plain")
        event.data = event.data.replace(b'"created"', b'"paid"')
        self.expect(payload=1)


class End(Damage):
    """The end of a run."""

    def test_not_drained(self):
        """A subscription has something left."""
        self.story.status[2].update(lag_events=3)
        self.expect(drained=1)

    def test_not_at_rest(self):
        """It is still trying, and has parked something."""
        self.story.status[2].update(state="retrying", parked=1)
        self.expect(drained=2)

    def test_waiting_behind_a_dead_letter(self):
        """That is no lag."""
        self.story.consume("http", self.story.log[:-2])
        self.story.failed += [["http", self.story.log[-2].id, "dead"],
                              ["http", self.story.log[-1].id, "waiting"]]
        self.story.status[1].update(lag_events=1, parked=1, dead=1)
        self.expect()

    def test_asleep(self):
        """A worker had to be woken by hand."""
        self.story.final["not_quiet"].append("asleep before 3 events: to-http")
        self.expect(rest=1)

    def test_open_snapshot(self):
        """Somebody forgot a transaction."""
        self.story.snapshots.append([17, "client backend", "x", "idle in transaction", "700", ""])
        self.expect(snapshots=1)

    def test_leak_of_memory(self):
        """A worker has grown."""
        self.story.final["processes_end"][0]["rss_anon"] += 100_000_000
        self.expect(leaks=1)

    def test_leak_of_descriptors(self):
        """It has left files open."""
        self.story.final["processes_end"][0]["descriptors"] += 100
        self.expect(leaks=1)

    def test_internal_error(self):
        """A client was told what no client must be told."""
        self.story.call("create_order", {"key": "o-x"}, None, status="error", sqlstate="XX000",
                        committed=False)
        self.story.call("create_order", {"key": "o-y"}, None, status="error", sqlstate="23505",
                        committed=False)
        self.expect(errors=2)

    def test_to_be_tried_again(self):
        """These are no defects."""
        for state in ("40001", "57P01", "53100", "OI002"):
            self.story.call("create_order", {"key": "o-x"}, None, status="error", sqlstate=state,
                            committed=False)
        self.expect()

    def test_crash(self):
        """A process ended by itself."""
        self.story.server_log.append("LOG:  server process (PID 1) was terminated by signal 11")
        self.expect(server_log=1)

    def test_internal_error(self):
        """An error that should not be."""
        self.story.server_log.append("2026-11-22 [1] XX000 torture torture a: ERROR:  no such block")
        self.expect(server_log=1)

    def test_reindex_killed(self):
        """The next REINDEX CONCURRENTLY finds what one left that was killed."""
        self.story.server_log.append(
            "2026-11-22 [1] XX002 torture torture control: WARNING:  cannot reindex invalid index "
            '"pg_toast.pg_toast_16563_index_ccnew" concurrently, skipping')
        self.expect()

    def test_killed_by_the_run(self):
        """That is what it does."""
        self.story.server_log.append("LOG:  server process (PID 1) was terminated by signal 9")
        self.expect()


class Report(Damage):
    """What is printed, and the exit status."""

    def report(self):
        """Output and status of check.py."""
        with tempfile.TemporaryDirectory() as directory:
            self.story.write(directory)
            check.sys.argv = ["check.py", "--offline", directory]
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                return check.main(), output.getvalue()

    def test_good(self):
        """Exit status 0."""
        status, output = self.report()
        self.assertEqual(0, status, output)
        self.assertIn("0 violations", output)

    def test_violation(self):
        """Exit status 1, with the rule, the place, and after how many faults."""
        self.story.claim("m-1")
        status, output = self.report()
        self.assertEqual(1, status)
        self.assertIn("work/m-1: won twice", output)
        self.assertRegex(output, r"the first \(claims\) after \d+ faults")

    def test_vacuous(self):
        """A run without claims is no pass, unless it was not to have any."""
        self.story.calls = [line for line in self.calls if "_key" not in line["call"]]
        self.story.claims = []
        status, output = self.report()
        self.assertEqual(1, status)
        self.assertIn("NOTHING CHECKED", output)
        self.story.info["not_exercised"] = ["claims", "attempts", "fences", "replays",
                                            "remembered"]
        self.assertEqual(0, self.report()[0])

    def test_not_whole(self):
        """Exit status 2."""
        with tempfile.TemporaryDirectory() as directory:
            check.sys.argv = ["check.py", "--offline", directory]
            with contextlib.redirect_stderr(io.StringIO()):
                self.assertEqual(2, check.main())

    def test_client_that_was_killed(self):
        """Its last line has no end: it counts for nothing."""
        with tempfile.TemporaryDirectory() as directory:
            self.story.write(directory)
            path = os.path.join(directory, "clients", "1.jsonl")
            with open(path, "a", encoding="utf-8") as file:
                file.write('{"t0": 1')
            self.assertTrue(check.judge(directory, offline=True).good())


if __name__ == "__main__":
    unittest.main()
