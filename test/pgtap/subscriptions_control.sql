-- Promise: what operators say of a subscription is checked when it is said, is its
-- owner's business alone, and changes nothing else.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(63);

CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/events');
CREATE SERVER others FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/others');
CREATE ROLE oper LOGIN;
CREATE ROLE stranger LOGIN;
SELECT grant_operator('oper');
SELECT grant_operator('stranger');
GRANT USAGE ON FOREIGN SERVER files TO oper;
SELECT is(pg_temp.ending_as('oper', $$SELECT order_idempotency.create_subscription('s', 'files', ARRAY['a', 'b'])$$), '00000', 'a subscription');

-- Options that say what to do with failures.
SELECT lives_ok(format('SELECT create_subscription(%L, ''files'', options => %L)', 'o-' || i, o), 'options: ' || o)
FROM unnest(ARRAY['{"max_attempts": 1}', '{"on_dead": "skip"}', '{"on_dead": "hold"}', '{"max_parked_keys": 0}',
				  '{"backoff_min": 10, "backoff_max": 10}', '{"backoff_max": 5}']) WITH ORDINALITY t(o, i);
SELECT throws_ok(format('SELECT create_subscription(''x'', ''files'', options => %L)', o), '22023', NULL, 'options: ' || o)
FROM unnest(ARRAY['{"max_attempts": 0}', '{"max_attempts": 1.5}', '{"max_attempts": "many"}', '{"on_dead": "drop"}', '{"on_dead": 1}',
				  '{"max_parked_keys": -1}', '{"max_parked_keys": 100001}', '{"backoff_min": 0}', '{"backoff_max": 86400001}',
				  '{"backoff_min": 11, "backoff_max": 10}']) o;

-- Paused, altered, moved: what the rows say, and what they keep.
SELECT lives_ok($$SELECT pause_subscription('s')$$, 'pause');
SELECT lives_ok($$SELECT pause_subscription('s')$$, 'twice');
SELECT pg_temp.rows_are($$SELECT state, detail LIKE '%resume_subscription%' FROM subscription_status WHERE name = 's'$$,
						$$VALUES ('paused', true)$$, 'the status says so');
SELECT lives_ok($$SELECT resume_subscription('s')$$, 'resume');
SELECT is((SELECT state FROM subscription_status WHERE name = 's'), 'stopped', 'and so it does then');
CREATE TEMP TABLE place AS SELECT * FROM subscription_cursors;
SELECT lives_ok($$SELECT alter_subscription('s')$$, 'alter: nothing');
SELECT pg_temp.rows_are($$SELECT server::text, event_types::text, topic::text, options FROM subscriptions WHERE name = 's'$$,
						$$VALUES ('files', '{a,b}', 's.jsonl', NULL::jsonb)$$, 'what is null stays');
SELECT throws_ok($$SELECT alter_subscription('s', server => 'others')$$, '42501', NULL, 'a server that its owner may not use');
GRANT USAGE ON FOREIGN SERVER others TO oper;
SELECT lives_ok($$SELECT alter_subscription('s', 'others', ARRAY['c'], 'there', '{"batch_size": 7, "max_attempts": 3}')$$, 'alter: all of it');
SELECT lives_ok($$SELECT alter_subscription('s', event_types => '{}', options => '{"batch_size": null, "on_dead": "skip"}')$$,
				'alter: back to all types and a default');
SELECT pg_temp.rows_are($$SELECT server::text, event_types::text, topic::text, options FROM subscriptions WHERE name = 's'$$,
						$$VALUES ('others', NULL::text, 'there', '{"on_dead": "skip", "max_attempts": 3}'::jsonb)$$, 'and that is what it is');
SELECT set_eq('SELECT c::text FROM subscription_cursors c', 'SELECT p::text FROM place p', 'the places in the log are the same');
SELECT throws_ok($$SELECT alter_subscription('s', 'nowhere')$$, '42704', NULL, 'alter: no such server');
SELECT throws_ok($$SELECT alter_subscription('s', topic => '../up')$$, '22023', NULL, 'alter: a bad topic');
SELECT throws_ok($$SELECT alter_subscription('s', event_types => ARRAY[''])$$, '22023', NULL, 'alter: an empty type');
SELECT throws_ok(format('SELECT alter_subscription(''s'', options => %L)', o), '22023', NULL, 'alter: ' || o)
FROM unnest(ARRAY['{"from": "start"}', '{"from": null}', '[]', '{"nonsense": 1}', '{"batch_size": 0}']) o;
SELECT emit_event('t', 'k') FROM generate_series(1, 4);
SELECT is(seek_to_position('s', (SELECT min(o.position) + 1 FROM outbox o)), (SELECT min(o.position) + 1 FROM outbox o), 'seek');
-- these events are of the transaction that seeks, so they are not behind it
SELECT is((SELECT lag_events FROM subscription_status WHERE name = 's'), 4::bigint, 'what is not committed is not skipped');
SELECT is(seek_to_time('s', 'infinity'), (SELECT max(o.position) FROM outbox o), 'to the end');
SELECT is(seek_to_time('s', '-infinity'), (SELECT min(o.position) - 1 FROM outbox o), 'and to the beginning');
SELECT is((SELECT lag_events FROM subscription_status WHERE name = 's'), 4::bigint, 'all of it is left');
SELECT throws_ok($$SELECT seek_to_position('s', NULL)$$, '22004', NULL, 'seek: NULL');
SELECT throws_ok($$SELECT seek_to_position('s', -1)$$, '22023', NULL, 'seek: negative');
SELECT throws_ok($$SELECT seek_to_time('s', NULL)$$, '22004', NULL, 'seek: no time');

-- What failed.
INSERT INTO failed_events
SELECT s.id, 100 + i, gen_random_uuid(), 'k-' || i / 2, NULL, 't', NULL, NULL, now(), (ARRAY['dead', 'waiting', 'parked', 'waiting'])[i],
	   1, NULL, 'because', now()
FROM subscriptions s, generate_series(1, 4) i WHERE s.name = 's';
SELECT pg_temp.rows_are($$SELECT parked, dead, lag_events FROM subscription_status WHERE name = 's'$$, $$VALUES (3::bigint, 1::bigint, 7::bigint)$$,
						'the status counts them');
SELECT is((SELECT count(*) FROM parked_events), 3::bigint, 'parked_events');
SELECT is((SELECT count(*) FROM dead_letters), 1::bigint, 'dead_letters');
SELECT throws_ok(format('SELECT %s(''s'')', f), '22023', NULL, f || ': which is not said') FROM unnest(ARRAY['redrive', 'discard']) f;
SELECT throws_ok($$SELECT discard('s', key => 'k-1', everything => true)$$, '22023', NULL, 'or said twice');
SELECT throws_ok($$SELECT discard('s', event_id => NULL, everything => false)$$, '22023', NULL, 'a null is not everything');
SELECT is(redrive('s', key => 'none'), 0::bigint, 'redrive: a key that has none');
SELECT is(redrive('s', everything => true), 2::bigint, 'redrive: what failed, not what waits');
SELECT is((SELECT count(*) FROM failed_events WHERE state = 'parked' AND attempts = 0 AND next_at <= clock_timestamp()), 2::bigint,
		  'is due, with all attempts before it');
SELECT is(discard('s', key => 'k-1'), 1::bigint, 'discard: a key''s failed event, not what waits');
SELECT is(discard('s', event_id => (SELECT event_id FROM failed_events WHERE state = 'waiting' LIMIT 1)), 1::bigint,
		  'discard: an event that is named');

-- Its owner's business alone.
SELECT is(pg_temp.ending_as('stranger', format('SELECT order_idempotency.%s', f)), '42501', f || ': not a stranger''s')
FROM unnest(ARRAY['pause_subscription(''s'')', 'alter_subscription(''s'')', 'seek_to_position(''s'', 0)', 'redrive(''s'', key => ''k'')',
				  'discard(''s'', key => ''k'')']) f;
SELECT is(pg_temp.ending_as('oper', $$SELECT order_idempotency.discard('s', everything => true)$$), '00000', 'but its owner''s');

SELECT * FROM finish();
ROLLBACK;
