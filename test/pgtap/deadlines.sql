-- Payment deadlines (promises 2 and 3): an order that is still in its initial
-- state when its time is over is cancelled, as cancel_order would, with the
-- money and the event; any other is left alone.  Every statement commits by
-- itself: the maintenance process acts on what is committed.
--
-- Bugs that this catches: an order cancelled out of a later state; a deadline
-- left behind, or acted upon before its time; one that is only looked at in the
-- launcher's round; a reopened order taken for one that was cancelled.
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(38);

-- Cancelled when the time is over, and not before.
CREATE TEMPORARY TABLE d AS SELECT * FROM create_order('d1', 100, 'EUR', 'alice', '{"sku": "book"}', pay_within => '300 ms');
SELECT is(outcome || state, 'createdcreated', 'an order with a deadline') FROM d;
SELECT ok(pg_temp.wait_until($$(SELECT state = 'cancelled' FROM order_idempotency.orders WHERE key = 'd1')$$), 'is cancelled');
SELECT ok(changed_at >= created_at + '300 ms', 'not before its time') FROM orders WHERE key = 'd1';
SELECT ok(changed_at < created_at + '20 s', 'nor in the round of a minute') FROM orders WHERE key = 'd1';
SELECT pg_temp.rows_are($$SELECT version, state::text, request_key::text, reason::text FROM order_history('d1')$$,
	$$VALUES (1, 'created', NULL::text, NULL::text), (2, 'cancelled', NULL, 'not paid in time')$$, 'its history says why');
SELECT pg_temp.rows_are(
	$$SELECT type::text, version, payload->>'reason', payload->>'from_state', payload->>'amount' FROM outbox WHERE key = 'd1' ORDER BY position$$,
	$$VALUES ('order.created', 1, NULL::text, NULL::text, '100'), ('order.cancelled', 2, 'not paid in time', 'created', '100')$$,
	'and so does the event');
SELECT pg_temp.rows_are(
	$$SELECT version, effect::text, debit_account::text, credit_account::text, amount FROM ledger WHERE order_key = 'd1' ORDER BY version$$,
	$$VALUES (1, 'hold', 'alice', 'escrow', 100), (2, 'release', 'escrow', 'alice', 100)$$, 'the money went back');
SELECT is(money_status, 'returned', 'the order says so') FROM get_order('d1');
SELECT is((SELECT count(*) FROM payment_deadlines), 0::bigint, 'nothing is left of the deadline');
SELECT is((SELECT count(*) FROM deadline_failures), 0::bigint, 'nothing failed');
SELECT throws_ok($$SELECT transition_order('d1', 'paid', 'late')$$, 'OI003', NULL, 'a payment that comes later is illegal');
SELECT is(outcome, 'replayed', 'and a cancellation a repeat') FROM cancel_order('d1');
SELECT is(outcome || state, 'replayedcancelled', 'a repeated create makes no new order, and no new deadline')
FROM create_order('d1', 100, 'EUR', 'alice', '{"sku": "book"}', pay_within => '1 ms');
SELECT is((SELECT count(*) FROM payment_deadlines), 0::bigint, 'none');

-- Left alone: paid, cancelled, taken further; one that is not there any more.
SELECT create_order('paid', 100, 'EUR', 'alice', pay_within => '200 ms'), transition_order('paid', 'paid', 'p');
SELECT create_order('done', 100, 'EUR', 'alice', pay_within => '200 ms'), transition_order('done', 'paid'), transition_order('done', 'completed');
SELECT create_order('gone', 100, 'EUR', 'alice', pay_within => '200 ms'), cancel_order('gone', 'by hand');
INSERT INTO payment_deadlines VALUES ('nobody', now() + '200 ms');
SELECT create_order('open', 100, 'EUR', 'alice');
SELECT create_order('far', 100, 'EUR', 'alice', pay_within => '1 day');
SELECT ok(pg_temp.wait_until($$(SELECT count(*) = 1 FROM order_idempotency.payment_deadlines)$$), 'all but one deadline are over');
SELECT is(order_key, 'far', 'the one that is a day off') FROM payment_deadlines;
SELECT pg_temp.rows_are($$SELECT key::text, state::text, version FROM orders WHERE key <> 'd1' ORDER BY key$$,
	$$VALUES ('done', 'completed', 3), ('far', 'created', 1), ('gone', 'cancelled', 2), ('open', 'created', 1), ('paid', 'paid', 2)$$,
	'none of those was changed');
SELECT is(reason, 'by hand', 'one that was cancelled before keeps its reason') FROM order_history('gone') WHERE version = 2;

-- From a setting, of the session or of the database.
SET order_idempotency.pay_within = '1 s';
SELECT is(outcome, 'created', 'the setting pay_within') FROM create_order('s1', 1, 'EUR');
RESET order_idempotency.pay_within;
SELECT ok(pg_temp.wait_until($$(SELECT state = 'cancelled' FROM order_idempotency.orders WHERE key = 's1')$$), 'is a deadline too');
SELECT is((SELECT count(*) FROM ledger WHERE order_key = 's1'), 0::bigint, 'no account: no money to give back');

-- What a session never committed, nobody acts upon.
BEGIN;
SELECT create_order('never', 1, 'EUR', pay_within => '1 ms');
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT create_order('never', 1, 'EUR', pay_within => '1 ms');
ROLLBACK TO a;
SELECT create_order('ever', 1, 'EUR', pay_within => '1 ms');
COMMIT;
SELECT ok(pg_temp.wait_until($$(SELECT state = 'cancelled' FROM order_idempotency.orders WHERE key = 'ever')$$), 'a savepoint on the way');
SELECT is((SELECT count(*) FROM orders WHERE key = 'never'), 0::bigint, 'what was rolled back is not there');

-- Committed long after its time was over: below where the last look ended.
BEGIN;
SELECT create_order('late', 1, 'EUR', pay_within => '1 ms');
SELECT pg_temp.wait_until('clock_timestamp() > (SELECT due_at FROM order_idempotency.payment_deadlines WHERE order_key = ''late'')');
COMMIT;
SELECT ok(pg_temp.wait_until($$(SELECT state = 'cancelled' FROM order_idempotency.orders WHERE key = 'late')$$), 'a commit that came late');
SELECT ok(changed_at < created_at + '20 s', 'is not left to the round') FROM orders WHERE key = 'late';

-- Another lifecycle: the initial state counts, whatever its name; and where it
-- cannot be cancelled, it is not.
BEGIN;
INSERT INTO lifecycle VALUES (NULL, 'new', 'order.new', 'hold'), ('new', 'paying', 'order.paying', NULL),
	('paying', 'new', 'order.again', NULL), ('paying', 'paid', 'order.paid', 'capture'),
	('new', 'cancelled', 'order.stopped', 'release'), ('paying', 'cancelled', 'order.stopped', 'release');
COMMIT;
SELECT create_order('l1', 5, 'EUR', 'bob', pay_within => '200 ms');
SELECT create_order('l2', 5, 'EUR', 'bob', pay_within => '200 ms'), transition_order('l2', 'paying');
SELECT create_order('l3', 5, 'EUR', 'bob', pay_within => '200 ms'), transition_order('l3', 'paying'), transition_order('l3', 'new', 'back');
SELECT ok(pg_temp.wait_until($$(SELECT count(*) = 1 FROM order_idempotency.payment_deadlines)$$), 'three more deadlines are over');
SELECT is(state, 'cancelled', 'still in the initial state: cancelled') FROM get_order('l1');
SELECT is(type, 'order.stopped', 'by the lifecycle''s event') FROM outbox WHERE key = 'l1' AND version = 2;
SELECT is(state, 'paying', 'in another state that could be cancelled: left alone') FROM get_order('l2');
SELECT is(state, 'cancelled', 'in the initial state again: cancelled') FROM get_order('l3');
SELECT is(money_status, 'returned', 'with its money') FROM get_order('l3');

-- Cancelled once, opened again, and not paid: that is not a repeat.
BEGIN;
DELETE FROM lifecycle;
INSERT INTO lifecycle VALUES (NULL, 'new', 'order.new', NULL), ('new', 'cancelled', 'order.stopped', NULL),
	('cancelled', 'new', 'order.again', NULL), ('new', 'paid', 'order.paid', NULL);
COMMIT;
SELECT create_order('r1', 5, 'EUR', pay_within => '400 ms'), cancel_order('r1'), transition_order('r1', 'new', 'again');
SELECT ok(pg_temp.wait_until($$(SELECT version = 4 FROM order_idempotency.orders WHERE key = 'r1')$$), 'an order that was opened again');
SELECT is(state, 'cancelled', 'is cancelled again') FROM get_order('r1');
SELECT is(request_key || reason, 'payment deadlinenot paid in time', 'by a request of its own')
FROM order_history('r1') WHERE version = 4;

-- No way to cancel.
BEGIN;
DELETE FROM lifecycle;
INSERT INTO lifecycle VALUES (NULL, 'new', 'order.new', NULL), ('new', 'paid', 'order.paid', NULL);
COMMIT;
SELECT create_order('n1', 5, 'EUR', pay_within => '100 ms');
SELECT ok(pg_temp.wait_until($$(SELECT count(*) = 1 FROM order_idempotency.payment_deadlines)$$), 'in a lifecycle without cancellation');
SELECT is(state, 'new', 'nothing is cancelled') FROM get_order('n1');
DELETE FROM lifecycle;

SELECT is((SELECT count(*) FROM deadline_failures), 0::bigint, 'nothing failed');
SELECT is_empty($$SELECT * FROM pg_temp.story_faults WHERE key IN ('d1', 'paid', 'done', 'gone', 's1', 'ever', 'late')$$,
	'orders, ledger and events tell one story');
SELECT * FROM finish();
