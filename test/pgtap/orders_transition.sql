-- Promises 1 and 3: an order moves along its lifecycle and on no other way; a
-- repeated request is recognised, by its request key or else by the state it
-- asked for, and never swallowed by mistake.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(66);

-- Through the whole of it.
CREATE TEMPORARY TABLE c AS SELECT * FROM create_order('k1', 100, 'EUR', 'alice');
CREATE TEMPORARY TABLE p AS SELECT * FROM transition_order('k1', 'paid', payload => '{"psp": "x"}');
CREATE TEMPORARY TABLE d AS SELECT * FROM transition_order('k1', 'completed');
SELECT is(order_key || outcome || state || version, 'k1createdcreated1', 'created') FROM c;
SELECT is(order_key || outcome || state || version, 'k1appliedpaid2', 'paid') FROM p;
SELECT is(order_key || outcome || state || version, 'k1appliedcompleted3', 'completed') FROM d;
SELECT is((SELECT detail FROM p), NULL, 'nothing to explain');
SELECT is((SELECT changed_at FROM d), (SELECT changed_at FROM get_order('k1')), 'changed_at is the order''s');
SELECT pg_temp.rows_are('SELECT event_id FROM c UNION ALL SELECT event_id FROM p UNION ALL SELECT event_id FROM d',
				  $$SELECT event_id FROM order_history('k1')$$, 'each has its event');

-- A repeat without request key: every state it has passed through.
SELECT pg_temp.rows_are(format($$SELECT outcome::text, state::text, version, event_id FROM transition_order('k1', %L)$$, x.state),
				  format($$SELECT 'replayed', 'completed', 3, %L::uuid$$, x.event_id),
				  'to ' || x.state || ' once more: replayed, with that change''s event')
FROM (SELECT * FROM c UNION ALL SELECT * FROM p UNION ALL SELECT * FROM d) x;
SELECT is((SELECT count(*) FROM outbox WHERE key = 'k1'), 3::bigint, 'nothing was written');
SELECT throws_ok($$SELECT transition_order('k1', 'cancelled')$$, 'OI003', NULL, 'a state it has not been in: OI003');
SELECT throws_ok($$SELECT transition_order('k1', 'nowhere')$$, 'OI003', NULL, 'a state that does not exist: OI003');
SELECT throws_ok($$SELECT transition_order('k1', 'Paid')$$, 'OI003', NULL, 'names of states are meant as they are written');

-- Every pair of states, by orders that are in them.
CREATE TEMPORARY TABLE at_state (key text, state text);
INSERT INTO at_state VALUES ('s-created', 'created'), ('s-paid', 'paid'), ('s-completed', 'completed'),
	('s-cancelled', 'cancelled');
SELECT create_order(key, 100, 'EUR', 'bob') FROM at_state;
SELECT transition_order('s-paid', 'paid');
SELECT transition_order('s-completed', 'paid');
SELECT transition_order('s-completed', 'completed');
SELECT transition_order('s-cancelled', 'cancelled');
SELECT is((SELECT o.state FROM get_order(key) o), state, 'an order that is ' || state) FROM at_state;
-- with a request key, so that none is a mere repeat
SELECT throws_ok(format('SELECT transition_order(%L, %L, %L)', a.key, t.state, 'illegal-' || t.state), 'OI003', NULL,
				 a.state || ' to ' || t.state || ' is illegal')
FROM at_state a, at_state t
WHERE (a.state, t.state) NOT IN (('created', 'paid'), ('created', 'cancelled'), ('paid', 'completed'));
SELECT is_empty($$SELECT * FROM at_state a JOIN orders o USING (key) WHERE a.state <> o.state$$, 'none of them moved');

-- What an illegal one says.
CREATE TEMPORARY TABLE e AS SELECT * FROM pg_temp.ending($$SELECT transition_order('s-created', 'completed')$$);
SELECT matches(detail, 'created', 'illegal: the detail names the current state') FROM e;
SELECT matches(hint, 'cancelled.*paid|paid.*cancelled', 'the hint names the allowed targets') FROM e;
SELECT isnt(hint, NULL, 'in a final state the hint says that there is none')
FROM pg_temp.ending($$SELECT transition_order('s-completed', 'paid', 'rk')$$);
CREATE TEMPORARY TABLE illegal AS SELECT * FROM transition_order('s-created', 'completed', on_conflict => 'report');
SELECT is(order_key || outcome || state || version, 's-createdillegalcreated1', 'report: illegal') FROM illegal;
SELECT is(changed_at, (SELECT changed_at FROM get_order('s-created')), 'report: since when') FROM illegal;
SELECT is(event_id, NULL, 'report: no event') FROM illegal;
SELECT matches(detail, 'created', 'report: why') FROM illegal;

-- Missing.
SELECT throws_ok($$SELECT transition_order('nobody', 'paid')$$, 'OI004', NULL, 'no such order: OI004');
SELECT throws_ok($$SELECT transition_order('nobody', 'paid', 'rk')$$, 'OI004', NULL, 'with a request key too');
CREATE TEMPORARY TABLE missing AS SELECT * FROM transition_order('nobody', 'paid', on_conflict => 'report');
SELECT is(order_key || outcome, 'nobodymissing', 'report: missing') FROM missing;
SELECT ok(state IS NULL AND version IS NULL AND event_id IS NULL AND changed_at IS NULL, 'report: nothing to tell')
FROM missing;
SELECT is((SELECT count(*) FROM orders WHERE key = 'nobody'), 0::bigint, 'and no order came of it');

-- Request keys.
SELECT create_order('r1', 100, 'EUR', 'carol');
CREATE TEMPORARY TABLE r AS SELECT * FROM transition_order('r1', 'paid', 'pay-1');
SELECT is(outcome, 'applied', 'with a request key') FROM r;
SELECT is((SELECT request_key FROM order_history('r1') WHERE version = 2), 'pay-1', 'which the history keeps');
SELECT is((SELECT payload->>'request_key' FROM outbox WHERE key = 'r1' AND version = 2), 'pay-1', 'and the event tells');
SELECT is(outcome || state || version, 'replayedpaid2', 'seen: replayed') FROM transition_order('r1', 'paid', 'pay-1');
SELECT is(event_id, (SELECT event_id FROM r), 'with the event of the change it made')
FROM transition_order('r1', 'paid', 'pay-1');
SELECT is(outcome, 'replayed', 'the payload of the repeat is not compared')
FROM transition_order('r1', 'paid', 'pay-1', '{"other": true}');
SELECT throws_ok($$SELECT transition_order('r1', 'paid', 'pay-2')$$, 'OI003', NULL,
				 'a second payment of a paid order is illegal, not swallowed');
SELECT throws_ok($$SELECT transition_order('r1', 'completed', 'pay-1')$$, 'OI001', NULL,
				 'a request key that stood for another target: OI001');
CREATE TEMPORARY TABLE mismatch AS
	SELECT * FROM transition_order('r1', 'completed', 'pay-1', on_conflict => 'report');
SELECT is(order_key || outcome || state || version, 'r1mismatchpaid2', 'report: mismatch') FROM mismatch;
SELECT is(event_id, NULL, 'report: no event') FROM mismatch;
SELECT isnt(detail, NULL, 'report: why') FROM mismatch;
SELECT is(outcome || version, 'applied3', 'a new one may go on') FROM transition_order('r1', 'completed', 'done-1');
SELECT is(outcome || state || version, 'replayedcompleted3', 'the first is still known later')
FROM transition_order('r1', 'paid', 'pay-1');
SELECT is(event_id, (SELECT event_id FROM r), 'with its own event') FROM transition_order('r1', 'paid', 'pay-1');
SELECT is(outcome, 'replayed', 'without request key it is a repeat by its state') FROM transition_order('r1', 'paid');
SELECT create_order('r2', 100, 'EUR', 'carol');
SELECT is(outcome, 'applied', 'another order may use the same request key') FROM transition_order('r2', 'paid', 'pay-1');

-- A request key of a cancellation is of the same kind.
SELECT create_order('r3', 100, 'EUR', 'carol');
SELECT is(outcome, 'applied', 'cancelled by a transition') FROM transition_order('r3', 'cancelled', 'stop-1');
SELECT is(outcome, 'replayed', 'which cancel_order repeats') FROM cancel_order('r3', request_key => 'stop-1');
SELECT throws_ok($$SELECT transition_order('r3', 'paid', 'stop-1')$$, 'OI001', NULL, 'and which is no payment');

-- A tombstone goes nowhere.
SELECT cancel_order('t1', if_missing => 'tombstone');
SELECT throws_ok($$SELECT transition_order('t1', 'paid')$$, 'OI003', NULL, 'a tombstone cannot be paid');
SELECT is(outcome, 'replayed', 'cancelled it is already') FROM transition_order('t1', 'cancelled');

-- What was refused leaves the transaction as it was.
SELECT is(outcome, 'applied', 'the transaction goes on') FROM transition_order('s-created', 'paid');
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
