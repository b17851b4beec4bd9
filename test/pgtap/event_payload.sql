-- Promise 2: an event says of a change what the change was.  Its payload, put
-- together in jsonb's own form, is the same bytes as what the server makes of
-- its text, whatever the order's payload is and whichever members it has.
-- Found when planted: members out of order, padding left out, padding not
-- counted, an offset at every entry.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(9);

CREATE FUNCTION pg_temp.strange() RETURNS TABLE (key text) LANGUAGE sql AS $$
	SELECT s.key FROM (SELECT o.key, ROW(o.payload) AS stored, ROW(o.payload::text::jsonb) AS parsed FROM outbox o) s
	WHERE NOT s.stored *= s.parsed
$$;

-- Any JSON as the order's payload.
CREATE TEMPORARY TABLE shapes (n int GENERATED ALWAYS AS IDENTITY, payload jsonb);
INSERT INTO shapes (payload) VALUES
	(NULL), ('null'), ('true'), ('false'), ('""'), ('"a"'), ('"ab"'), ('"abc"'), ('"\u00e9 \u6f22"'), ('0'), ('-1.50'), ('1e100'),
	('123456789012345678901234567890.5'), ('{}'), ('[]'), ('[[]]'), ('[{}]'), ('{"": {}}'), ('[null, true, "x", 1.0, [2, {"k": [3]}]]');
INSERT INTO shapes (payload)
SELECT jsonb_object_agg('k' || i, jsonb_build_array(i, repeat('x', i), NULL, i % 2 = 0, jsonb_build_object('v', i / 7.0)))
FROM generate_series(1, 100) n, generate_series(1, n) i GROUP BY n;
INSERT INTO shapes (payload) SELECT to_jsonb(repeat('long ', n * 1000)) FROM generate_series(1, 20) n;
SELECT create_order('s' || n, n, 'EUR', payload => payload) FROM shapes;
SELECT is_empty('SELECT key FROM pg_temp.strange()', 'any payload: the same bytes as the server''s');
SELECT is_empty($$SELECT n FROM shapes s JOIN outbox o ON o.key = 's' || n WHERE o.payload->'payload' IS DISTINCT FROM s.payload$$,
				'any payload: as it was given');

-- A key and an account of each length, so that what follows them is padded in each way.
SELECT create_order(repeat('k', n), n, 'EUR', repeat('a', n), '[1]') FROM generate_series(1, 40) n;
SELECT is_empty('SELECT key FROM pg_temp.strange()', 'any key and account: the same bytes');
SELECT is_empty($$SELECT key FROM outbox WHERE key ~ '^k+$' AND payload - '{key,account}'::text[] <>
	jsonb_build_object('state', 'created', 'amount', length(key), 'currency', 'EUR', 'version', 1, 'payload', '[1]'::jsonb)$$,
	'any key and account: the other members');

-- The greatest amount, and each member that may be missing.
SELECT create_order('big', 9223372036854775807, 'EUR');
SELECT is(payload->>'amount', '9223372036854775807', 'the greatest amount') FROM outbox WHERE key = 'big';
SELECT cancel_order('s1', 'a reason', 'a request');
SELECT cancel_order('s2', 'a reason');
SELECT cancel_order('s3', request_key => 'a request');
SELECT transition_order('s4', 'paid', 'a request', '{"psp": [1, 2]}');
SELECT transition_order('s5', 'paid', payload => '3');
SELECT transition_order(repeat('k', n), 'paid', repeat('r', n)) FROM generate_series(1, 40) n;
SELECT is_empty('SELECT key FROM pg_temp.strange()', 'any member missing: the same bytes');
SELECT is((SELECT array_agg(DISTINCT ARRAY(SELECT jsonb_object_keys(payload))::text) FROM outbox WHERE key IN ('s1', 's2', 's3') AND version = 2),
		  ARRAY['{key,state,amount,reason,version,currency,from_state,request_key}',
				'{key,state,amount,reason,version,currency,from_state}',
				'{key,state,amount,version,currency,from_state,request_key}'], 'only those that there are');
SELECT is((SELECT payload->'payload' FROM outbox WHERE key = 's4' AND version = 2), '{"psp": [1, 2]}', 'the transition''s payload');
SELECT is((SELECT payload->'payload' FROM outbox WHERE key = 's5' AND version = 2), '3', 'a number');

SELECT * FROM finish();
ROLLBACK;
