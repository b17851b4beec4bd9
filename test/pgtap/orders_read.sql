-- Promise: get_order and order_history show all of an order, the history one
-- gapless step a version, and change nothing.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(30);

SELECT create_order('k1', 100, 'EUR', 'alice', '{"items": [1]}');
SELECT transition_order('k1', 'paid', 'pay-1');

SELECT pg_temp.rows_are($$SELECT order_key, state, version, amount, currency, account, money_status, payload, tombstone,
						   allowed_transitions FROM get_order('k1')$$,
				  $$VALUES ('k1', 'paid', 2, 100::bigint, 'EUR', 'alice', 'captured', '{"items": [1]}'::jsonb, false,
							ARRAY['completed'])$$, 'get_order: all of it');
SELECT pg_temp.rows_are($$SELECT created_at, changed_at FROM get_order('k1')$$,
				  $$SELECT created_at, changed_at FROM orders WHERE key = 'k1'$$, 'get_order: its times');
SELECT is_empty($$SELECT * FROM get_order('nobody')$$, 'get_order: no row for an order that is not there');
SELECT is_empty($$SELECT * FROM order_history('nobody')$$, 'order_history: no rows either');
SELECT throws_ok($$SELECT * FROM get_order(NULL)$$, '22004', NULL, 'get_order: NULL key');
SELECT throws_ok($$SELECT * FROM order_history(NULL)$$, '22004', NULL, 'order_history: NULL key');
SELECT throws_ok($$SELECT * FROM get_order('')$$, '22023', NULL, 'get_order: empty key');
SELECT throws_ok($$SELECT * FROM order_history('')$$, '22023', NULL, 'order_history: empty key');
SELECT throws_ok($$SELECT * FROM get_order(repeat('k', 256))$$, '22001', NULL, 'get_order: key too long');
SELECT throws_ok($$SELECT * FROM order_history(repeat('k', 256))$$, '22001', NULL, 'order_history: key too long');

-- Money and ways on, state by state.
SELECT create_order('k2', 100, 'EUR', 'alice');
SELECT is(money_status, 'held', 'created: held') FROM get_order('k2');
SELECT set_eq($$SELECT unnest(allowed_transitions) FROM get_order('k2')$$, ARRAY['paid', 'cancelled'],
			  'created: may be paid or cancelled');
SELECT transition_order('k2', 'paid');
SELECT transition_order('k2', 'completed');
SELECT is(money_status, 'captured', 'completed: captured') FROM get_order('k2');
SELECT is(allowed_transitions, '{}', 'completed: final') FROM get_order('k2');
SELECT create_order('k3', 100, 'EUR', 'alice');
SELECT cancel_order('k3', 'why');
SELECT is(money_status, 'returned', 'cancelled: returned') FROM get_order('k3');
SELECT is(allowed_transitions, '{}', 'cancelled: final') FROM get_order('k3');
SELECT create_order('k4', 100, 'EUR');
SELECT pg_temp.rows_are($$SELECT account, payload, tombstone FROM get_order('k4')$$, $$VALUES (NULL::text, NULL::jsonb, false)$$,
				  'what was not given is NULL');

-- History.
SELECT pg_temp.rows_are($$SELECT version, state, request_key, reason FROM order_history('k1')$$,
				  $$VALUES (1, 'created', NULL, NULL), (2, 'paid', 'pay-1', NULL)$$, 'order_history: step by step');
SELECT pg_temp.rows_are($$SELECT version, state, request_key, reason FROM order_history('k3')$$,
				  $$VALUES (1, 'created', NULL, NULL), (2, 'cancelled', NULL, 'why')$$, 'order_history: with the reason');
SELECT pg_temp.rows_are($$SELECT h.event_id, h.at FROM order_history('k2') h ORDER BY h.version$$,
				  $$SELECT o.event_id, o.created_at FROM outbox o WHERE o.key = 'k2' ORDER BY o.version$$,
				  'order_history: events and times are those of the log');
SELECT is((SELECT count(DISTINCT event_id) FROM order_history('k2')), 3::bigint, 'each step has an event of its own');

-- A long one.
INSERT INTO lifecycle VALUES (NULL, 'a', 'x.a', NULL), ('a', 'b', 'x.b', NULL), ('b', 'a', 'x.back', NULL), ('b', 'c', 'x.c', NULL);
SET CONSTRAINTS ALL IMMEDIATE;
SELECT create_order('k5', 1, 'EUR');
DO $$
BEGIN
	FOR i IN 1 .. 500 LOOP
		PERFORM order_idempotency.transition_order('k5', 'b', 'there-' || i);
		PERFORM order_idempotency.transition_order('k5', 'a', 'back-' || i);
	END LOOP;
END
$$;
SELECT is((SELECT version FROM get_order('k5')), 1001, 'a thousand changes');
SELECT is((SELECT array_agg(version ORDER BY ordinality) = array_agg(ordinality::int ORDER BY ordinality)
		   FROM order_history('k5') WITH ORDINALITY), true, 'each in its place');
SELECT is((SELECT count(DISTINCT event_id) FROM order_history('k5')), 1001::bigint, 'with an event each');
SELECT is((SELECT outcome FROM transition_order('k5', 'b', 'there-1')), 'replayed', 'the first request key is still known');
SELECT is((SELECT event_id FROM transition_order('k5', 'b', 'there-1')),
		  (SELECT event_id FROM order_history('k5') WHERE version = 2), 'and stands for its own change');
SELECT is((SELECT outcome FROM transition_order('k5', 'b', 'there-501')), 'applied', 'and a new one is new');

-- Reading takes nothing but a snapshot.
SELECT is((SELECT count(*) FROM outbox WHERE key = 'k1'), 2::bigint, 'no event for reading');
SET LOCAL transaction_read_only = on;
SELECT is((SELECT state FROM get_order('k1')), 'paid', 'get_order: in a READ ONLY transaction');
SELECT is((SELECT count(*) FROM order_history('k1')), 2::bigint, 'order_history: in a READ ONLY transaction');

SELECT * FROM finish();
ROLLBACK;
