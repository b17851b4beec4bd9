-- Promise: every setting has its unit and bounds, can be changed by those whom
-- it concerns and by nobody else, and a name that does not exist is refused.
BEGIN;
\ir lib/tools.psql
SELECT plan(38);

SELECT order_idempotency.get_order('k');
CREATE ROLE somebody;
SELECT pg_temp.rows_are($$SELECT name, vartype, unit, context, boot_val, min_val, max_val FROM pg_settings
					WHERE name LIKE 'order_idempotency.%' ORDER BY name COLLATE "C"$$, $$VALUES
	('order_idempotency.environment', 'string', NULL, 'sighup', '', NULL, NULL),
	('order_idempotency.headers', 'string', NULL, 'user', '', NULL, NULL),
	('order_idempotency.hot_keys', 'enum', NULL, 'sighup', 'plain', NULL, NULL),
	('order_idempotency.in_flight_wait', 'integer', 'ms', 'user', '5000', '-1', '2147483647'),
	('order_idempotency.key_retention', 'integer', 's', 'sighup', '604800', '1', '2147483647'),
	('order_idempotency.log_duplicates', 'integer', NULL, 'sighup', '0', '0', '1000000'),
	('order_idempotency.max_payload', 'integer', 'B', 'superuser', '1048576', '1024', '268435456'),
	('order_idempotency.max_retained', 'integer', 'kB', 'sighup', '0', '0', '2147483647'),
	('order_idempotency.max_subscriptions', 'integer', NULL, 'postmaster', '64', '1', '1024'),
	('order_idempotency.on_full', 'enum', NULL, 'sighup', 'refuse', NULL, NULL),
	('order_idempotency.outbox_retention', 'integer', 's', 'sighup', '86400', '1', '2147483647'),
	('order_idempotency.pay_within', 'integer', 's', 'user', '0', '0', '2147483647'),
	('order_idempotency.poll_interval', 'integer', 'ms', 'sighup', '1000', '10', '3600000'),
	('order_idempotency.publish', 'bool', NULL, 'sighup', 'on', NULL, NULL)$$, 'the settings, their units and bounds');
SELECT is_empty($$SELECT name FROM pg_settings WHERE name LIKE 'order_idempotency.%' AND short_desc = ''$$, 'each says what it does');

-- In and out of bounds.
SELECT lives_ok(format('SET LOCAL order_idempotency.%s', s), s)
FROM unnest(ARRAY['in_flight_wait = -1', 'in_flight_wait = 0', 'in_flight_wait = ''10 s''', 'pay_within = ''30 min''',
				  'pay_within = 0', 'max_payload = ''2MB''', 'max_payload = 1024', 'headers = ''''']) s;
SELECT throws_ok(format('SET LOCAL order_idempotency.%s', s), '22023', NULL, s)
FROM unnest(ARRAY['in_flight_wait = -2', 'in_flight_wait = ''soon''', 'pay_within = -1', 'max_payload = 1023',
				  'max_payload = ''1GB''', 'max_payload = 0', 'pay_within = ''3 apples''']) s;
SELECT throws_ok(format('SET LOCAL order_idempotency.headers = %L', h), '22023', NULL, 'headers = ' || h)
FROM unnest(ARRAY['{', '[]', '"x"', 'null', '{"a": 1}', '{"a": null}', '{"a": {"b": "c"}}', '{"a": "b"} x']) h;
SELECT throws_ok(format('SET LOCAL order_idempotency.%s', s), '55P02', NULL, 'not in a session: ' || s)
FROM unnest(ARRAY['key_retention = ''1 day''', 'poll_interval = 100', 'publish = off', 'max_subscriptions = 10']) s;
SELECT throws_ok('SET order_idempotency.nonsense = 1', '42602', NULL, 'a name that does not exist');

-- By whom.
SELECT is(pg_temp.ending_as('somebody', 'SET LOCAL order_idempotency.' || s), '00000', 'anybody: ' || s)
FROM unnest(ARRAY['headers = ''''', 'in_flight_wait = 1', 'pay_within = 1']) s;
SELECT is(pg_temp.ending_as('somebody', 'SET LOCAL order_idempotency.' || s), '42501', 'not anybody: ' || s)
FROM unnest(ARRAY['max_payload = ''2MB''']) s;

-- What they do is tested where it is done; here, that SET LOCAL ends with the transaction's part.
SELECT is(current_setting('order_idempotency.max_payload'), '1kB', 'set above');
RESET order_idempotency.max_payload;
SELECT is(current_setting('order_idempotency.max_payload'), '1MB', 'reset');
SELECT is(current_setting('order_idempotency.in_flight_wait'), '1ms', 'set above');
RESET order_idempotency.in_flight_wait;
SELECT is(current_setting('order_idempotency.in_flight_wait'), '5s', 'reset');

SELECT * FROM finish();
ROLLBACK;
