-- Promise 1, one winner, for create_order: the first call creates, a repeat
-- gets its result, a call that means something else is told so and learns
-- nothing of what is stored.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(84);

-- Created.
CREATE TEMPORARY TABLE first AS
	SELECT * FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 2]}');
SELECT is(order_key, 'k1', 'the key comes back') FROM first;
SELECT is(outcome, 'created', 'created') FROM first;
SELECT is(state, 'created', 'in the initial state') FROM first;
SELECT is(version, 1, 'as version 1') FROM first;
SELECT ok(changed_at BETWEEN now() AND clock_timestamp(), 'at this time') FROM first;
SELECT is(detail, NULL, 'nothing to explain') FROM first;
SELECT is(event_id, (SELECT event_id FROM outbox WHERE key = 'k1'), 'event_id is that of its event') FROM first;

-- Replayed.
SELECT pg_temp.rows_are($$SELECT order_key, 'replayed', state, version, event_id, changed_at, detail FROM first$$,
				  $$SELECT order_key, outcome::text, state, version, event_id, changed_at, detail
					FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 2]}')$$,
				  'again: the same, replayed');
SELECT is(outcome, 'replayed', 'a payload that jsonb calls equal is the same payload')
FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1.0, 2.00]}');
SELECT is(outcome, 'replayed', 'headers are not compared')
FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 2]}', headers => '{"traceparent": "x"}');
SELECT is(outcome, 'replayed', 'nor is pay_within')
FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 2]}', pay_within => '1 hour');
SELECT is(outcome, 'replayed', 'with report as well')
FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 2]}', on_conflict => 'report');
SELECT is((SELECT count(*) FROM outbox WHERE key = 'k1'), 1::bigint, 'there is one event');
SELECT is((SELECT count(*) FROM ledger WHERE order_key = 'k1'), 1::bigint, 'one movement');
SELECT is((SELECT count(*) FROM payment_deadlines WHERE order_key = 'k1'), 0::bigint, 'no deadline came with a repeat');

-- After the order has moved on, a repeat tells where it is now and which event the call stands for.
SELECT is(outcome, 'applied', 'paid') FROM transition_order('k1', 'paid');
SELECT is(outcome || state || version, 'replayedpaid2', 'a late repeat: the current state')
FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 2]}');
SELECT is(event_id, (SELECT event_id FROM first), 'and the event of the creation')
FROM create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 2]}');

-- Optional arguments left out.
SELECT is(outcome, 'created', 'without account and payload') FROM create_order('k2', 0, 'JPY');
SELECT is(outcome, 'replayed', 'and again') FROM create_order('k2', 0, 'JPY');
SELECT is((SELECT count(*) FROM ledger WHERE order_key = 'k2'), 0::bigint, 'no account, no movement');
SELECT is(outcome, 'created', 'the largest amount') FROM create_order('k3', 9223372036854775807, 'EUR', 'alice');

-- Mismatch: each field, and all of them.
CREATE TEMPORARY TABLE differing (field text, call text);
INSERT INTO differing VALUES
	('amount', $$create_order('k1', 1251, 'EUR', 'alice', '{"items": [1, 2]}')$$),
	('currency', $$create_order('k1', 1250, 'USD', 'alice', '{"items": [1, 2]}')$$),
	('account', $$create_order('k1', 1250, 'EUR', 'bob', '{"items": [1, 2]}')$$),
	('account', $$create_order('k1', 1250, 'EUR', NULL, '{"items": [1, 2]}')$$),
	('payload', $$create_order('k1', 1250, 'EUR', 'alice', '{"items": [1, 3]}')$$),
	('payload', $$create_order('k1', 1250, 'EUR', 'alice')$$);
SELECT throws_ok('SELECT ' || call, 'OI001', NULL, 'another ' || field || ': OI001') FROM differing;
SELECT ok(e.detail ~ d.field AND (SELECT bool_and(o = d.field OR e.detail !~ o)
								  FROM unnest(ARRAY['amount', 'currency', 'account', 'payload']) o),
		  'the detail names ' || field || ' and no other field')
FROM differing d, pg_temp.ending('SELECT ' || call) e;
SELECT ok(concat(e.message, e.detail, e.hint) !~ '125|EUR|USD|alice|bob|items',
		  'and no value that is stored or was given: ' || field)
FROM differing d, pg_temp.ending('SELECT ' || call) e;
SELECT matches((pg_temp.ending($$SELECT create_order('k1', 7, 'CHF', 'carol', '[]')$$)).detail,
			   'amount.*currency.*account.*payload', 'all four at once');
SELECT throws_ok($$SELECT create_order('k2', 0, 'JPY', 'alice')$$, 'OI001', NULL, 'an account where there was none');
SELECT throws_ok($$SELECT create_order('k2', 0, 'JPY', NULL, 'null')$$, 'OI001', NULL,
				 'the JSON null is not no payload');

-- The same, as a row.
CREATE TEMPORARY TABLE reported AS
	SELECT * FROM create_order('k1', 7, 'EUR', 'bob', '{"items": [1, 2]}', on_conflict => 'report');
SELECT is(outcome, 'mismatch', 'report: mismatch') FROM reported;
SELECT is(order_key || state || version, 'k1paid2', 'report: where the order is') FROM reported;
SELECT is(changed_at, (SELECT changed_at FROM get_order('k1')), 'report: since when') FROM reported;
SELECT is(event_id, NULL, 'report: this call stands for no event') FROM reported;
SELECT matches(detail, 'amount.*account', 'report: which fields') FROM reported;
SELECT ok(detail !~ 'currency|payload|1250|alice', 'report: no others and no values') FROM reported;
SELECT is((SELECT version FROM orders WHERE key = 'k1'), 2, 'none of this changed the order');

-- A tombstone stands.
SELECT is(outcome, 'tombstoned', 'cancelled before it was created') FROM cancel_order('t1', if_missing => 'tombstone');
SELECT throws_ok($$SELECT create_order('t1', 100, 'EUR', 'alice')$$, 'OI005', NULL, 'refused: OI005');
CREATE TEMPORARY TABLE refused AS SELECT * FROM create_order('t1', 100, 'EUR', 'alice', on_conflict => 'report');
SELECT is(outcome || state || version, 'refusedcancelled1', 'report: refused') FROM refused;
SELECT is(event_id, NULL, 'report: no event') FROM refused;
SELECT ok(changed_at IS NOT NULL, 'report: since when') FROM refused;
SELECT isnt(detail, NULL, 'report: why') FROM refused;
SELECT is((SELECT count(*) FROM outbox WHERE key = 't1'), 0::bigint, 'no event was written');
SELECT is((SELECT count(*) FROM ledger WHERE order_key = 't1'), 0::bigint, 'and no movement');

-- Deadlines.
SELECT is(outcome, 'created', 'pay_within') FROM create_order('d1', 1, 'EUR', pay_within => '2 hours');
SELECT is(d.due_at, o.created_at + '2 hours', 'gives a deadline')
FROM payment_deadlines d JOIN orders o ON o.key = d.order_key WHERE d.order_key = 'd1';
SELECT is(outcome, 'created', 'no pay_within') FROM create_order('d2', 1, 'EUR');
SELECT is((SELECT count(*) FROM payment_deadlines WHERE order_key = 'd2'), 0::bigint, 'none: the setting''s default is never');
SET LOCAL order_idempotency.pay_within = '30 min';
SELECT is(outcome, 'created', 'the setting pay_within') FROM create_order('d3', 1, 'EUR');
SELECT is(d.due_at, o.created_at + '30 minutes', 'is used where the call says nothing')
FROM payment_deadlines d JOIN orders o ON o.key = d.order_key WHERE d.order_key = 'd3';
SELECT is(outcome, 'created', 'pay_within of the call') FROM create_order('d4', 1, 'EUR', pay_within => '1 day');
SELECT is(d.due_at, o.created_at + '1 day', 'goes before the setting')
FROM payment_deadlines d JOIN orders o ON o.key = d.order_key WHERE d.order_key = 'd4';
SELECT is(outcome, 'created', 'pay_within of zero') FROM create_order('d5', 1, 'EUR', pay_within => '0');
SELECT is((SELECT count(*) FROM payment_deadlines WHERE order_key = 'd5'), 0::bigint, 'is never, as in the setting');
RESET order_idempotency.pay_within;

-- Large payloads are stored out of line, and compared all the same.
CREATE TEMPORARY TABLE large AS
	SELECT jsonb_agg(md5(i::text) ORDER BY i) AS p, jsonb_agg(md5((i + (i = 9000)::int)::text) ORDER BY i) AS q
	FROM generate_series(1, 10000) i;
SELECT ok(pg_column_size(p) > 300000, 'a payload of 300 kB') FROM large;
SELECT is((SELECT outcome FROM large, create_order('large', 1, 'EUR', 'alice', p)), 'created', 'is stored');
SELECT is((SELECT outcome FROM large, create_order('large', 1, 'EUR', 'alice', p)), 'replayed', 'and found to be the same');
SELECT is((SELECT detail FROM large, create_order('large', 1, 'EUR', 'alice', q, on_conflict => 'report')),
		  'The request differs from the first one in: payload.', 'or found to be different');
SELECT is((SELECT outcome FROM transition_order('large', 'paid')), 'applied', 'the order changes');
UPDATE orders SET state = 'completed' WHERE key = 'large';
SELECT is((SELECT o.payload = p FROM large, orders o WHERE key = 'large'), true, 'and its payload stays');
SELECT is((SELECT e.payload->'payload' = p FROM large, outbox e WHERE key = 'large' AND version = 1), true, 'its event has it');
SELECT is((SELECT outcome FROM large, claim_key('large', p)), 'claimed', 'as the request of a claim');
SELECT is((SELECT outcome FROM large, claim_key('large', p)), 'replayed', 'the same');
SELECT is((SELECT outcome FROM large, claim_key('large', q)), 'mismatch', 'and different');
SELECT is((SELECT complete_key('large', p) FROM large), 'completed', 'as its response');
SELECT is((SELECT response = p FROM large, claim_key('large')), true, 'which is replayed');

-- A part that is rolled back leaves nothing: key, order, ledger and event go together.
CREATE TEMPORARY TABLE counts AS SELECT pg_temp.row_counts() AS before;
SELECT is((pg_temp.ending($$DO 'BEGIN
	PERFORM order_idempotency.create_order(''z'', 100, ''EUR'', ''alice'', pay_within => ''1 hour'');
	PERFORM order_idempotency.transition_order(''z'', ''paid'');
	PERFORM order_idempotency.emit_event(''mail.sent'', ''z'');
	RAISE division_by_zero; END'$$)).code, '22012', 'a part of the work is rolled back');
SELECT is(pg_temp.row_counts(), before, 'nothing of it is left') FROM counts;
SELECT is(outcome || version, 'created1', 'and the key is free') FROM create_order('z', 50, 'EUR', 'bob');

SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
