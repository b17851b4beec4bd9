-- Promise: a copy of a database does not publish; it says so, says why, and
-- resume_subscription is what makes it.
--
-- What a copy has that its original has not is put into the rows here: another
-- installation, another database, another environment.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(43);

CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/events');
SELECT create_subscription('s', 'files');
CREATE ROLE owner LOGIN;
CREATE ROLE other LOGIN;
SELECT grant_operator('owner');
SELECT grant_operator('other');
UPDATE subscriptions SET owner = 'owner';
CREATE VIEW here AS
	SELECT i.id AS installation, d.oid AS database
	FROM installation i, pg_database d WHERE d.datname = current_database();

-- Armed for here.
SELECT is((SELECT count(*) FROM installation), 1::bigint, 'one installation');
SELECT pg_temp.rows_are($$SELECT armed_for, armed_database, environment::text FROM subscriptions$$,
						$$SELECT installation, database, '' FROM here$$, 'a new subscription is armed for where it is made');
SELECT pg_temp.rows_are($$SELECT state, detail FROM subscription_status$$, $$VALUES ('stopped', NULL::text)$$, 'and not disarmed');
SELECT is((SELECT extconfig && ARRAY['installation'::regclass::oid, 'in_use'::regclass::oid] FROM pg_extension
		   WHERE extname = 'order_idempotency'), false, 'what tells an installation is not dumped');

-- Each way to be a copy: what it looks like, that resuming it ends it, and that this is all it does.
CREATE FUNCTION pg_temp.copied(change text, reason text, what text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	before text;
BEGIN
	EXECUTE 'UPDATE subscriptions SET ' || change;
	UPDATE subscription_cursors SET settled = 7;
	SELECT to_jsonb(s) - '{armed_for,armed_database,environment}'::text[] || to_jsonb(c) - 'settled' INTO before
	FROM subscriptions s JOIN subscription_cursors c ON c.subscription = s.id;
	RETURN NEXT is((SELECT state FROM subscription_status), 'disarmed', what || ': disarmed');
	RETURN NEXT is((SELECT detail FROM subscription_status),
				   reason || ' If its events are to be published from here, use resume_subscription().', what || ': says why');
	RETURN NEXT lives_ok('SELECT resume_subscription(''s'')', what || ': resumed');
	RETURN NEXT is((SELECT detail FROM subscription_status), NULL, what || ': armed');
	RETURN NEXT is((SELECT settled FROM subscription_cursors), 0::bigint, what || ': a receiver knows nothing of it yet');
	RETURN NEXT is((SELECT to_jsonb(s) - '{armed_for,armed_database,environment}'::text[] || to_jsonb(c) - 'settled'
					FROM subscriptions s JOIN subscription_cursors c ON c.subscription = s.id)::text, before,
				   what || ': nothing else has changed');
END
$$;
SELECT pg_temp.copied('armed_database = 1', 'This database is a copy of the one that it was armed in.', 'another database');
SELECT pg_temp.copied('environment = ''production''',
					  'It was armed in environment "production", and order_idempotency.environment is "".', 'another environment');
-- its cursor is in an incarnation of the log that has ended
SELECT setval('outbox_position', 1::bigint << 44);
SELECT pg_temp.copied('armed_for = ''00000000-0000-0000-0000-000000000000''', 'It came with a dump of another database.',
					  'another installation');
SELECT pg_temp.copied('armed_for = NULL, armed_database = NULL, environment = NULL', 'It came with a dump of another database.',
					  'one of 1.0');

-- Armed: resuming it again does nothing.
UPDATE subscription_cursors SET settled = 7;
SELECT lives_ok($$SELECT resume_subscription('s')$$, 'resumed again');
SELECT is((SELECT settled FROM subscription_cursors), 7::bigint, 'and its receiver has what it had');
SELECT is((SELECT detail FROM subscription_status), NULL, 'still armed');

-- Errors.
SELECT throws_ok($$SELECT resume_subscription('nobody')$$, '42704', NULL, 'no such subscription');
SELECT throws_ok($$SELECT resume_subscription(NULL)$$, '22004', NULL, 'NULL');
SELECT is(pg_temp.ending_as('other', $$SELECT order_idempotency.resume_subscription('s')$$), '42501', 'another''s');
SELECT is(pg_temp.ending_as('owner', $$SELECT order_idempotency.resume_subscription('s')$$), '00000', 'one''s own');
UPDATE subscriptions SET armed_for = NULL;
SELECT throws_ok($$SELECT seek_to_position('s', 0)$$, '55000', NULL, 'moved before it is resumed');
SELECT throws_ok($$SELECT seek_to_time('s', 'infinity')$$, '55000', NULL, 'likewise');
SELECT lives_ok($$SELECT resume_subscription('s'), seek_to_position('s', 1::bigint << 62)$$, 'resumed and moved at once');
SELECT is((SELECT behind_position FROM subscription_cursors), 1::bigint << 44, 'to the end of the log');
UPDATE subscriptions SET armed_for = NULL;
SELECT throws_ok($$SELECT resume_subscription('s')$$, '55000', NULL, 'restored into a database that was in use');

-- An incarnation that has ended, and the one after it: what is left is counted by each one's own numbers.
UPDATE subscription_cursors SET behind = '1000:1003:1001', behind_position = 5, behind_next_xid = '1005', batch = NULL, progress = 0,
	behind_all_above = false;
INSERT INTO outbox_0 (position, xid, event_id, key, type, created_at)
SELECT p, x::xid8, gen_random_uuid(), what, 't', now() FROM (VALUES
	(1, '999', 'seen'), (2, '1001', 'late'), (3, '1002', 'seen'), (4, '1004', 'late'), (6, '1006', 'rest'), (7, '5', 'seen'),
	((1::bigint << 44) + 1, '5', 'next'), ((1::bigint << 44) + 2, '1002', 'next'), ((1::bigint << 44) + 3, '1004', 'next')) v(p, x, what);
SELECT is((SELECT lag_events FROM subscription_status), 6::bigint, 'late, rest, and all of the next incarnation');
UPDATE subscription_cursors SET behind = '1000:1003:1001', behind_position = (1::bigint << 44) + 2, behind_next_xid = '1005';
SELECT is((SELECT lag_events FROM subscription_status), 1::bigint, 'from the next incarnation nothing of the first');
UPDATE subscription_cursors SET behind = '1000:1003:1001', behind_position = 5,
	batch = '9223372036854775807:9223372036854775807:', batch_position = (1::bigint << 44) - 1, batch_next_xid = '9223372036854775807',
	progress = 2;
SELECT is((SELECT lag_events FROM subscription_status), 5::bigint, 'within the end of the first');

SELECT * FROM finish();
ROLLBACK;
