-- Promise: a subscription is a named durable reader on a server that its
-- maker may use; what cannot work is refused when it is said, not in the log.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(57);

-- Servers: options are validated when written.
SELECT lives_ok($$CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/events')$$,
				'a server with a path');
SELECT throws_ok($$CREATE SERVER x FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (paht '/tmp')$$, 'HV00D', NULL,
				 'an option that does not exist');
SELECT throws_ok($$CREATE SERVER x FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '')$$, 'HV024', NULL, 'no path');
SELECT throws_ok($$CREATE SERVER x FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path 'events')$$, 'HV024', NULL,
				 'a relative path');
SELECT throws_ok($$CREATE SERVER x FOREIGN DATA WRAPPER order_idempotency_file$$, 'HV002', NULL, 'no option at all');
SELECT throws_ok($$ALTER SERVER files OPTIONS (DROP path)$$, 'HV002', NULL, 'nor later');
SELECT throws_ok($$ALTER SERVER files OPTIONS (SET path 'events')$$, 'HV024', NULL, 'nor later');
SELECT throws_ok($$CREATE USER MAPPING FOR postgres SERVER files OPTIONS (password 'x')$$, 'HV00D', NULL,
				 'a file has no secrets');
SELECT throws_ok($$ALTER FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (ADD path '/tmp')$$, 'HV00D', NULL,
				 'and its wrapper no options');

-- Who may write files may make such a server.
CREATE ROLE writer LOGIN IN ROLE pg_write_server_files;
CREATE ROLE reader LOGIN;
GRANT USAGE ON FOREIGN DATA WRAPPER order_idempotency_file TO writer, reader;
SELECT grant_operator('writer');
SELECT grant_operator('reader');
DO $$BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO writer, reader', current_database()); END$$;
SELECT is(pg_temp.ending_as('reader', $$CREATE SERVER hers FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/events')$$),
		  '42501', 'without pg_write_server_files no path');
SELECT is(pg_temp.ending_as('writer', $$CREATE SERVER his FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/events')$$),
		  '00000', 'with it one');
SELECT is(pg_temp.ending_as('writer', $$SELECT order_idempotency.create_subscription('his', 'his')$$), '00000', 'and a subscription');
SELECT is(pg_temp.ending_as('reader', $$SELECT order_idempotency.create_subscription('hers', 'his')$$), '42501',
		  'not on another''s server');
SELECT is(pg_temp.ending_as('reader', $$SELECT order_idempotency.drop_subscription('his')$$), '42501', 'nor another''s dropped');

-- Created.
SELECT lives_ok($$SELECT create_subscription('all', 'files')$$, 'a subscription to everything');
SELECT lives_ok($$SELECT create_subscription('some', 'files', ARRAY['order.paid', 'mail.sent'], 'paid')$$,
				'to some events, under a topic');
SELECT pg_temp.rows_are($$SELECT name::text, server::text, owner, event_types::text, topic::text FROM subscriptions ORDER BY id$$, $$VALUES
	('his', 'his', 'writer'::regrole, NULL, 'his.jsonl'), ('all', 'files', 'postgres', NULL, 'all.jsonl'),
	('some', 'files', 'postgres', '{order.paid,mail.sent}', 'paid')$$, 'what they are');
SELECT is((SELECT count(*) FROM subscription_cursors), 3::bigint, 'each has its place in the log');
SELECT pg_temp.rows_are($$SELECT name::text, state, delivered, lag_events FROM subscription_status ORDER BY name$$, $$VALUES
	('all', 'stopped', 0::bigint, 0::bigint), ('his', 'stopped', 0, 0), ('some', 'stopped', 0, 0)$$,
	'subscription_status shows them, at the log''s end');

-- Refused.
SELECT throws_ok($$SELECT create_subscription('all', 'files')$$, '42710', NULL, 'a name that is taken');
SELECT throws_ok($$SELECT create_subscription('x', 'nowhere')$$, '42704', NULL, 'a server that is not there');
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER others FOREIGN DATA WRAPPER other;
SELECT throws_ok($$SELECT create_subscription('x', 'others')$$, '42809', NULL, 'a server that is no sink');
SELECT throws_ok($$SELECT create_subscription(NULL, 'files')$$, '22004', NULL, 'name: NULL');
SELECT throws_ok($$SELECT create_subscription('', 'files')$$, '22023', NULL, 'name: empty');
SELECT throws_ok($$SELECT create_subscription(repeat('n', 64), 'files')$$, '22001', NULL, 'name: 64 bytes');
SELECT lives_ok($$SELECT create_subscription(repeat('n', 63), 'files')$$, 'name: 63 bytes');
SELECT throws_ok($$SELECT create_subscription('x', NULL)$$, '22004', NULL, 'server: NULL');
SELECT throws_ok($$SELECT create_subscription('x', 'files', '{}')$$, '22023', NULL, 'event_types: none');
SELECT throws_ok($$SELECT create_subscription('x', 'files', ARRAY['a', NULL])$$, '22004', NULL, 'event_types: a NULL');
SELECT throws_ok($$SELECT create_subscription('x', 'files', ARRAY[''])$$, '22023', NULL, 'event_types: an empty one');
SELECT throws_ok($$SELECT create_subscription('x', 'files', ARRAY[ARRAY['a'], ARRAY['b']])$$, '2202E', NULL,
				 'event_types: more than one dimension');
SELECT throws_ok($$SELECT create_subscription('x', 'files', topic => t)$$, '42703', NULL, 'a control: other errors are told apart');
SELECT throws_ok(format('SELECT create_subscription(''x'', ''files'', topic => %L)', t), '22023', NULL, 'topic: ' || t)
FROM unnest(ARRAY['', '../escape', '/etc/passwd', 'a/../../b']) t;
SELECT throws_ok($$SELECT create_subscription('x', 'files', options => '[]')$$, '22023', NULL, 'options: no object');
SELECT throws_ok($$SELECT create_subscription('x', 'files', options => '{"nonsense": 1}')$$, '22023', NULL, 'options: an unknown one');
SELECT throws_ok(format('SELECT create_subscription(''x'', ''files'', options => %L)', o), '22023', NULL, 'options: ' || o)
FROM unnest(ARRAY['{"batch_size": 0}', '{"batch_size": -1}', '{"batch_size": "many"}', '{"batch_size": 1.5}', '{"batch_size": 1e9}',
				  '{"from": "nowhere"}', '{"from": 1}', '{"from": null}']) o;
SELECT is((SELECT count(*) FROM subscriptions), 4::bigint, 'none of them was made');
SELECT emit_event('mail.sent', 'k') FROM generate_series(1, 3);
SELECT lives_ok($$SELECT create_subscription('old', 'files', ARRAY['mail.sent'], options => '{"from": "start", "batch_size": 10}')$$,
				'from the start of the log');
SELECT is((SELECT lag_events FROM subscription_status WHERE name = 'old'), 3::bigint, 'has all of it before it');
SELECT is((SELECT lag_events FROM subscription_status WHERE name = 'all'), 3::bigint, 'an older one what came since');
SELECT is((SELECT lag_events FROM subscription_status WHERE name = 'some'), 3::bigint, 'of the types that it wants');
SELECT lives_ok($$SELECT create_subscription('new', 'files', options => '{"from": "now"}')$$, 'from now on');
SELECT drop_subscription(n) FROM unnest(ARRAY['old', 'new']) n;

-- Dropped.
SELECT lives_ok($$SELECT drop_subscription('all')$$, 'drop_subscription');
SELECT throws_ok($$SELECT drop_subscription('all')$$, '42704', NULL, 'once');
SELECT throws_ok($$SELECT drop_subscription(NULL)$$, '22004', NULL, 'NULL');
SELECT is((SELECT count(*) FROM subscription_cursors), 3::bigint, 'its place in the log is forgotten');
SELECT lives_ok($$SELECT create_subscription('all', 'files')$$, 'the name is free again');

SELECT * FROM finish();
ROLLBACK;
