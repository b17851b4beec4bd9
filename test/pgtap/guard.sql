-- Promise 3, no path around the lifecycle: a change of an order is a
-- transition, with its history, money and event, or it is refused, whichever
-- statement attempts it and whoever runs it.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(96);

SELECT create_order('k' || i, 100, 'EUR', 'alice', '{"n": 1}') FROM generate_series(0, 9) i;
SELECT transition_order('k9', 'paid');

-- A legal UPDATE is a transition.
SELECT lives_ok($$UPDATE orders SET state = 'paid' WHERE key = 'k1'$$, 'UPDATE to a legal state');
SELECT pg_temp.rows_are($$SELECT state::text, version, money_status::text FROM orders WHERE key = 'k1'$$,
				  $$VALUES ('paid', 2, 'captured')$$, 'raises the version and moves the money');
SELECT pg_temp.rows_are($$SELECT version, state FROM order_history('k1')$$, $$VALUES (1, 'created'), (2, 'paid')$$,
				  'adds to the history');
SELECT is((SELECT effect FROM ledger WHERE order_key = 'k1' AND version = 2), 'capture', 'posts to the ledger');
SELECT is((SELECT type FROM outbox WHERE key = 'k1' AND version = 2), 'order.paid', 'writes the event');
SELECT is((SELECT outcome FROM transition_order('k1', 'paid')), 'replayed', 'and is what a function later finds');
SELECT lives_ok($$UPDATE orders SET state = 'completed' WHERE key = 'k1'$$, 'and another');
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');
SELECT lives_ok($$UPDATE orders SET state = 'cancelled' WHERE key IN ('k7', 'k8')$$, 'of several rows');
SELECT is((SELECT count(*) FROM outbox WHERE key IN ('k7', 'k8') AND type = 'order.cancelled'), 2::bigint, 'an event each');
SELECT lives_ok($$WITH u AS (UPDATE orders SET state = 'completed' WHERE key = 'k9' RETURNING version) SELECT * FROM u$$,
				'in a WITH');
SELECT is((SELECT version FROM orders WHERE key = 'k9'), 3, 'too');

-- An illegal one is refused.
CREATE TEMPORARY TABLE counts AS SELECT pg_temp.row_counts() AS before;
SELECT throws_ok(format('UPDATE orders SET state = %L WHERE key = %L', s, k), 'OI003', NULL, k || ' to ' || s)
FROM (VALUES ('k2', 'completed'), ('k2', 'nowhere'), ('k2', ''), ('k1', 'created'), ('k1', 'paid'), ('k1', 'cancelled'),
			 ('k7', 'paid'), ('k7', 'created')) v(k, s);
SELECT throws_ok($$UPDATE orders SET state = NULL WHERE key = 'k2'$$, NULL, NULL, 'to NULL');
SELECT throws_ok($$UPDATE orders SET state = 'paid'$$, 'OI003', NULL, 'all of them, of which some cannot');
SELECT throws_ok($$UPDATE orders SET state = 'paid' WHERE key IN ('k2', 'k7')$$, 'OI003', NULL, 'one legal, one not');
SELECT is((SELECT state FROM orders WHERE key = 'k2'), 'created', 'leaves both');
SELECT throws_ok($$UPDATE ONLY orders SET state = 'completed' WHERE key = 'k2'$$, 'OI003', NULL, 'UPDATE ONLY');
SELECT throws_ok($$UPDATE orders o SET state = v.s FROM (VALUES ('k2', 'completed')) v(k, s) WHERE o.key = v.k$$,
				 'OI003', NULL, 'UPDATE ... FROM');
SELECT matches((pg_temp.ending($$UPDATE orders SET state = 'completed' WHERE key = 'k2'$$)).detail, 'created',
			   'the detail names the current state');

-- Everything else of an order stays.
SELECT throws_ok(format('UPDATE orders SET %s WHERE key = %L', c, 'k2'), 'OI003', NULL, 'immutable: ' || c)
FROM unnest(ARRAY['key = ''other''', 'version = 5', 'version = version + 1', 'amount = 1', 'amount = NULL, tombstone = true',
	'currency = ''USD''', 'account = ''bob''', 'account = NULL', 'payload = ''{}''', 'payload = NULL',
	'created_at = created_at - interval ''1 day''', 'changed_at = changed_at - interval ''1 day''',
	'money_status = ''captured''', 'money_status = NULL', 'tombstone = true', 'history = ''{}''',
	'history = history || history[1]']) c;
SELECT throws_ok(format('UPDATE orders SET state = ''paid'', %s WHERE key = %L', c, 'k2'), 'OI003', NULL,
				 'nor together with a legal state: ' || c)
FROM unnest(ARRAY['amount = 1', 'currency = ''USD''', 'account = ''bob''', 'payload = ''{}''',
	'created_at = ''epoch''', 'tombstone = true', 'key = ''other''']) c;

-- What follows from the state follows from it, whatever else the statement says.
SELECT lives_ok($$UPDATE orders SET state = 'paid', version = 9, history = '{}', money_status = 'none', changed_at = 'epoch'
				  WHERE key = 'k0'$$, 'a legal state, with more that is not for the statement to say');
SELECT pg_temp.rows_are($$SELECT state, version, money_status, cardinality(history), changed_at > created_at FROM orders WHERE key = 'k0'$$,
				  $$VALUES ('paid', 2, 'captured', 2, true)$$, 'which is not what is stored');
UPDATE counts SET before = pg_temp.row_counts();

-- Removal.
SELECT throws_ok($$DELETE FROM orders WHERE key = 'k2'$$, 'OI003', NULL, 'DELETE');
SELECT throws_ok($$DELETE FROM orders WHERE key = 'k7'$$, 'OI003', NULL, 'DELETE of a final one');
SELECT throws_ok('DELETE FROM orders', 'OI003', NULL, 'DELETE of all');
SELECT throws_ok('TRUNCATE orders', 'OI003', NULL, 'TRUNCATE');
SELECT throws_ok('TRUNCATE orders CASCADE', 'OI003', NULL, 'TRUNCATE CASCADE');

-- MERGE.
SELECT throws_ok($$MERGE INTO orders o USING (VALUES ('k2')) v(k) ON o.key = v.k
				   WHEN MATCHED THEN UPDATE SET state = 'completed'$$, 'OI003', NULL, 'MERGE: illegal UPDATE');
SELECT throws_ok($$MERGE INTO orders o USING (VALUES ('k2')) v(k) ON o.key = v.k
				   WHEN MATCHED THEN UPDATE SET amount = 1$$, 'OI003', NULL, 'MERGE: UPDATE of what is immutable');
SELECT throws_ok($$MERGE INTO orders o USING (VALUES ('k2')) v(k) ON o.key = v.k
				   WHEN MATCHED THEN DELETE$$, 'OI003', NULL, 'MERGE: DELETE');

-- INSERT ... ON CONFLICT DO UPDATE.
SELECT throws_ok($$INSERT INTO orders (key, state, amount, currency) VALUES ('k2', 'created', 1, 'EUR')
				   ON CONFLICT (key) DO UPDATE SET amount = excluded.amount$$, 'OI003', NULL,
				 'ON CONFLICT DO UPDATE of what is immutable');
SELECT throws_ok($$INSERT INTO orders (key, state, amount, currency) VALUES ('k2', 'completed', 100, 'EUR')
				   ON CONFLICT (key) DO UPDATE SET state = excluded.state$$, 'OI003', NULL,
				 'ON CONFLICT DO UPDATE to an illegal state');

-- None of it left a trace.
SELECT is(pg_temp.row_counts(), before, 'nothing was written') FROM counts;
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

-- The legal ones of these have all their effects.
SELECT lives_ok($$MERGE INTO orders o USING (VALUES ('k3')) v(k) ON o.key = v.k
				  WHEN MATCHED THEN UPDATE SET state = 'paid'$$, 'MERGE to a legal state');
SELECT lives_ok($$INSERT INTO orders (key, state, amount, currency) VALUES ('k4', 'cancelled', 100, 'EUR')
				  ON CONFLICT (key) DO UPDATE SET state = excluded.state$$, 'ON CONFLICT DO UPDATE to a legal state');
SELECT pg_temp.rows_are($$SELECT key::text, state::text, version FROM orders WHERE key IN ('k3', 'k4') ORDER BY key$$,
				  $$VALUES ('k3', 'paid', 2), ('k4', 'cancelled', 2)$$, 'both are done');
SELECT is_empty('SELECT * FROM story_faults', 'with history, money and event');

-- One statement, one order, two changes: only one of them happens, and it happens wholly.
SELECT lives_ok($$WITH a AS (UPDATE orders SET state = 'paid' WHERE key = 'k5' RETURNING 1),
					   b AS (UPDATE orders SET state = 'cancelled' WHERE key = 'k5' RETURNING 1)
				  SELECT FROM a, b$$, 'two updates of one order in one statement');
SELECT is((SELECT version FROM orders WHERE key = 'k5'), 2, 'are one');
SELECT is_empty('SELECT * FROM story_faults', 'and one story');

-- An UPDATE that changes nothing is no transition.
SELECT is((pg_temp.ending($$UPDATE orders SET state = state WHERE key = 'k6'$$)).code IN ('00000', 'OI003'), true,
		  'an UPDATE that changes nothing');
SELECT is((SELECT version || ' ' || cardinality(history) FROM orders WHERE key = 'k6'), '1 1', 'is no version');
SELECT is((SELECT count(*) FROM outbox WHERE key = 'k6'), 1::bigint, 'and no event');

-- An INSERT by the owner is an import: no check, no event, no ledger; the lifecycle goes on from there.
UPDATE counts SET before = (SELECT count(*) FROM outbox) || ' ' || (SELECT count(*) FROM ledger);
INSERT INTO orders (key, state, version, amount, currency, account, money_status, history)
VALUES ('i1', 'paid', 2, 100, 'EUR', 'dave', 'captured',
		ARRAY[(1, 'created', now(), gen_random_uuid(), NULL, NULL)::order_step,
			  (2, 'paid', now(), gen_random_uuid(), 'pay-1', NULL)::order_step]);
SELECT is((SELECT count(*) FROM outbox) || ' ' || (SELECT count(*) FROM ledger), before, 'an import writes its row only')
FROM counts;
SELECT is((SELECT outcome FROM transition_order('i1', 'paid', 'pay-1')), 'replayed', 'its history is known');
SELECT is((SELECT outcome FROM transition_order('i1', 'cancelled', on_conflict => 'report')), 'illegal', 'its state too');
SELECT is((SELECT outcome || version FROM transition_order('i1', 'completed')), 'applied3', 'and it goes on');
SELECT is((SELECT string_agg(type, ' ') FROM outbox WHERE key = 'i1'), 'order.completed', 'with events from here');

-- An import that does not say where the money is: where the lifecycle has it in that state.
INSERT INTO orders (key, state, amount, currency, account) VALUES
	('i2', 'created', 100, 'EUR', 'dave'), ('i3', 'paid', 100, 'EUR', 'dave'), ('i4', 'nowhere', 100, 'EUR', 'dave');
SELECT is((SELECT outcome FROM transition_order('i2', 'paid')), 'applied', 'an order imported as created');
SELECT is((SELECT effect FROM ledger WHERE order_key = 'i2'), 'capture', 'is captured, as it was held');
SELECT is((SELECT money_status FROM orders WHERE key = 'i2'), 'captured', 'which its row then says');
SELECT is((SELECT outcome FROM transition_order('i3', 'completed')), 'applied', 'one imported as paid');
SELECT is((SELECT money_status FROM orders WHERE key = 'i3'), 'captured', 'was captured');
SELECT throws_ok($$SELECT transition_order('i4', 'paid')$$, 'OI003', NULL, 'one in a state that the lifecycle does not know');
SELECT is((SELECT outcome FROM create_order('i2', 100, 'EUR', 'dave')), 'replayed', 'an import stands for its creation');
SELECT is((SELECT event_id FROM create_order('i2', 100, 'EUR', 'dave')), NULL, 'of which there is no event');

-- What the tables themselves refuse to an import.
SELECT throws_ok($$INSERT INTO orders (key, state, amount, currency) VALUES ('', 'created', 1, 'EUR')$$, '23514', NULL,
				 'an empty key');
SELECT throws_ok($$INSERT INTO orders (key, state, amount, currency) VALUES ('x', 'created', -1, 'EUR')$$, '23514', NULL,
				 'a negative amount');
SELECT throws_ok($$INSERT INTO orders (key, state, amount, currency) VALUES ('x', 'created', 1, 'euro')$$, '23514', NULL,
				 'a bad currency');
SELECT throws_ok($$INSERT INTO orders (key, state) VALUES ('x', 'created')$$, '23514', NULL, 'no amount and no tombstone');
SELECT throws_ok($$INSERT INTO orders (key, state, amount, currency) VALUES ('k2', 'created', 1, 'EUR')$$, '23505', NULL,
				 'a key that is there');

-- A logical subscriber's apply has no side effects: ordinary triggers, not ALWAYS ones.
UPDATE counts SET before = (SELECT count(*) FROM outbox) || ' ' || (SELECT count(*) FROM ledger);
SET LOCAL session_replication_role = replica;
SELECT lives_ok($$UPDATE orders SET state = 'completed', version = 7 WHERE key = 'k2'$$, 'a replicated change is taken as it is');
SET LOCAL session_replication_role = origin;
SELECT is((SELECT count(*) FROM outbox) || ' ' || (SELECT count(*) FROM ledger), before, 'and has no effects of its own')
FROM counts;
SELECT is((SELECT version FROM orders WHERE key = 'k2'), 7, 'nor a version');

SELECT * FROM finish();
ROLLBACK;
