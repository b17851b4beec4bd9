-- Promise 1, one winner, for cancel_order: a cancellation happens once, comes
-- too late without harm, and may overtake the creation that it is for.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(53);

-- Cancelled.
SELECT create_order('k1', 100, 'EUR', 'alice');
CREATE TEMPORARY TABLE x AS SELECT * FROM cancel_order('k1', 'out of stock', 'stop-1');
SELECT is(order_key || outcome || state || version, 'k1cancelledcancelled2', 'cancelled') FROM x;
SELECT is(event_id, (SELECT event_id FROM outbox WHERE key = 'k1' AND version = 2), 'with its event') FROM x;
SELECT is(detail, NULL, 'nothing to explain') FROM x;
SELECT is(reason, 'out of stock', 'the history keeps the reason') FROM order_history('k1') WHERE version = 2;
SELECT is(request_key, 'stop-1', 'and the request key') FROM order_history('k1') WHERE version = 2;
SELECT is(payload->>'reason', 'out of stock', 'the event tells the reason') FROM outbox WHERE key = 'k1' AND version = 2;
SELECT is(type, 'order.cancelled', 'under its type') FROM outbox WHERE key = 'k1' AND version = 2;
SELECT is(effect || debit_account || credit_account || amount, 'releaseescrowalice100', 'the money goes back')
FROM ledger WHERE order_key = 'k1' AND version = 2;

-- Replayed.
SELECT pg_temp.rows_are($$SELECT order_key, 'replayed', state, version, event_id, changed_at, detail FROM x$$,
				  $$SELECT order_key, outcome::text, state, version, event_id, changed_at, detail
					FROM cancel_order('k1', 'out of stock', 'stop-1')$$, 'again: the same, replayed');
SELECT is(outcome, 'replayed', 'without request key') FROM cancel_order('k1');
SELECT is(outcome, 'replayed', 'for another reason') FROM cancel_order('k1', 'another');
SELECT is(reason, 'out of stock', 'the first reason stands') FROM order_history('k1') WHERE version = 2;
SELECT is(outcome, 'replayed', 'whatever is to be done with missing ones') FROM cancel_order('k1', if_missing => 'tombstone');
SELECT is(outcome || state, 'ignoredcancelled', 'by a request of its own: there is nothing left to cancel')
FROM cancel_order('k1', request_key => 'stop-2');
SELECT is((SELECT count(*) FROM outbox WHERE key = 'k1'), 2::bigint, 'nothing more was written');

-- Ignored: no longer cancellable.
SELECT create_order('k2', 100, 'EUR', 'alice');
SELECT transition_order('k2', 'paid', 'pay-1');
CREATE TEMPORARY TABLE i AS SELECT * FROM cancel_order('k2', 'too late', 'stop-1');
SELECT is(order_key || outcome || state || version, 'k2ignoredpaid2', 'paid: ignored') FROM i;
SELECT is(event_id, NULL, 'which stands for no event') FROM i;
SELECT matches(detail, 'paid', 'and says why') FROM i;
SELECT is(outcome, 'ignored', 'once more: ignored') FROM cancel_order('k2', 'too late', 'stop-1');
SELECT is(outcome, 'ignored', 'with report too') FROM cancel_order('k2', on_conflict => 'report');
SELECT is(outcome, 'ignored', 'it is not missing') FROM cancel_order('k2', if_missing => 'tombstone');
SELECT transition_order('k2', 'completed');
SELECT is(outcome || state, 'ignoredcompleted', 'completed: ignored') FROM cancel_order('k2');
SELECT is((SELECT count(*) FROM outbox WHERE key = 'k2'), 3::bigint, 'nothing was written');

-- A request key that stood for something else.
SELECT throws_ok($$SELECT cancel_order('k2', request_key => 'pay-1')$$, 'OI001', NULL,
				 'the request key of a payment: OI001');
CREATE TEMPORARY TABLE m AS SELECT * FROM cancel_order('k2', request_key => 'pay-1', on_conflict => 'report');
SELECT is(order_key || outcome || state || version, 'k2mismatchcompleted3', 'report: mismatch') FROM m;
SELECT isnt(detail, NULL, 'report: why') FROM m;
SELECT is(event_id, NULL, 'report: no event') FROM m;

-- Missing.
SELECT throws_ok($$SELECT cancel_order('nobody')$$, 'OI004', NULL, 'no such order: OI004');
SELECT throws_ok($$SELECT cancel_order('nobody', if_missing => 'error')$$, 'OI004', NULL, 'said in so many words');
CREATE TEMPORARY TABLE n AS SELECT * FROM cancel_order('nobody', on_conflict => 'report');
SELECT is(order_key || outcome, 'nobodymissing', 'report: missing') FROM n;
SELECT ok(state IS NULL AND version IS NULL AND event_id IS NULL AND changed_at IS NULL, 'report: nothing to tell') FROM n;
SELECT is((SELECT count(*) FROM orders WHERE key = 'nobody'), 0::bigint, 'nothing came of it');

-- A tombstone.
CREATE TEMPORARY TABLE counts AS SELECT (SELECT count(*) FROM outbox) AS events, (SELECT count(*) FROM ledger) AS movements;
CREATE TEMPORARY TABLE t AS SELECT * FROM cancel_order('t1', 'changed my mind', 'stop-9', if_missing => 'tombstone');
SELECT is(order_key || outcome || state || version, 't1tombstonedcancelled1', 'tombstoned') FROM t;
SELECT is(event_id, NULL, 'which stands for no event') FROM t;
SELECT ok(changed_at IS NOT NULL, 'at this time') FROM t;
SELECT is((SELECT count(*) FROM outbox), events, 'no event was written') FROM counts;
SELECT is((SELECT count(*) FROM ledger), movements, 'no movement either') FROM counts;
SELECT is(tombstone, true, 'get_order says what it is') FROM get_order('t1');
SELECT ok(amount IS NULL AND currency IS NULL AND account IS NULL AND payload IS NULL, 'and that nothing else is known')
FROM get_order('t1');
SELECT is((SELECT allowed_transitions FROM get_order('t1')), '{}', 'it goes nowhere from there');
SELECT is(reason, 'changed my mind', 'its history keeps the reason') FROM order_history('t1') WHERE version = 1;
SELECT is(request_key, 'stop-9', 'and the request key') FROM order_history('t1') WHERE version = 1;
SELECT is(outcome, 'replayed', 'again: replayed') FROM cancel_order('t1', 'changed my mind', 'stop-9', if_missing => 'tombstone');
SELECT is(event_id, NULL, 'still without an event') FROM cancel_order('t1', if_missing => 'tombstone');
SELECT is(outcome, 'replayed', 'as cancel_order without if_missing') FROM cancel_order('t1');
SELECT is((SELECT outcome FROM create_order('t1', 100, 'EUR', 'alice', on_conflict => 'report')), 'refused',
		  'the creation that it overtook is refused');
SELECT throws_ok($$SELECT create_order('t1', 100, 'EUR', 'alice')$$, 'OI005', NULL, 'by OI005');
SELECT is(version, 1, 'the tombstone did not change') FROM get_order('t1');

-- A tombstone in a part that is rolled back does not stand.
SELECT is((pg_temp.ending($$DO 'BEGIN
	PERFORM order_idempotency.cancel_order(''t2'', if_missing => ''tombstone'');
	RAISE division_by_zero; END'$$)).code, '22012', 'a part that is rolled back');
SELECT is(outcome, 'created', 'leaves the key free') FROM create_order('t2', 100, 'EUR', 'alice');

-- An order without an account is cancelled without a movement.
SELECT create_order('k4', 100, 'EUR');
SELECT is(outcome, 'cancelled', 'without an account') FROM cancel_order('k4');
SELECT is((SELECT count(*) FROM ledger WHERE order_key = 'k4'), 0::bigint, 'no movement');

SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
