-- Promise 9, least privilege: a monitor reads four views, an operator reads
-- the tables too and manages subscriptions; neither can write anything.
BEGIN;
\ir lib/tools.psql
SELECT plan(46);

CREATE ROLE mon;
CREATE ROLE oper LOGIN;
SELECT order_idempotency.create_order('o', 100, 'EUR', 'alice');
SELECT order_idempotency.claim_key('k', lease => '1 hour');

-- Every privilege that a role was granted on anything in the schema.
CREATE FUNCTION pg_temp.granted(role regrole) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT a.privilege_type || ' ' || x.name
	FROM (SELECT 'schema' AS name, n.nspacl AS acl FROM pg_namespace n WHERE n.nspname = 'order_idempotency'
		  UNION ALL
		  SELECT c.relname, c.relacl FROM pg_class c WHERE c.relnamespace = 'order_idempotency'::regnamespace
		  UNION ALL
		  SELECT p.proname, p.proacl FROM pg_proc p WHERE p.pronamespace = 'order_idempotency'::regnamespace
		  UNION ALL
		  SELECT t.typname, t.typacl FROM pg_type t WHERE t.typnamespace = 'order_idempotency'::regnamespace
		  UNION ALL
		  SELECT t.attname, t.attacl FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
		  WHERE c.relnamespace = 'order_idempotency'::regnamespace
		  UNION ALL
		  SELECT w.fdwname, w.fdwacl FROM pg_foreign_data_wrapper w WHERE w.fdwname LIKE 'order\_idempotency%') x,
		 aclexplode(x.acl) a
	WHERE a.grantee = role
	ORDER BY a.privilege_type COLLATE "C", x.name COLLATE "C"
$$;

SELECT throws_ok($$SELECT order_idempotency.grant_monitor(NULL)$$, '22004', NULL, 'grant_monitor needs a role');
SELECT throws_ok($$SELECT order_idempotency.grant_operator(NULL)$$, '22004', NULL, 'grant_operator needs a role');
SELECT lives_ok($$SELECT order_idempotency.grant_monitor('mon')$$, 'grant_monitor');
SELECT lives_ok($$SELECT order_idempotency.grant_operator('oper')$$, 'grant_operator');
SELECT pg_temp.rows_are($$SELECT pg_temp.granted('mon')$$, $$VALUES
	('EXECUTE claim_counts'), ('EXECUTE default_lifecycle'), ('EXECUTE delivery_counts'), ('EXECUTE key_retention'),
	('EXECUTE log_holders'), ('EXECUTE order_counts'), ('EXECUTE outbox_retention'), ('EXECUTE retried_keys'), ('EXECUTE retry_counts'), ('EXECUTE subscription_activity'),
	('EXECUTE subscription_lag'), ('EXECUTE subscription_workers'),
	('SELECT abandoned_claims'), ('SELECT account_balance'), ('SELECT claim_stats'),
	('SELECT current_lifecycle'), ('SELECT dead_letters'), ('SELECT deadline_failures'), ('SELECT hot_keys'), ('SELECT key_store'),
	('SELECT order_stats'), ('SELECT outbox_store'), ('SELECT parked_events'), ('SELECT retry_ratio'), ('SELECT subscription_stats'), ('SELECT subscription_status'), ('USAGE schema')$$, 'a monitor gets this and nothing more');
SELECT pg_temp.rows_are($$SELECT pg_temp.granted('oper')$$, $$VALUES
	('EXECUTE alter_subscription'), ('EXECUTE claim_counts'), ('EXECUTE create_subscription'), ('EXECUTE default_lifecycle'), ('EXECUTE delivery_counts'),
	('EXECUTE discard'), ('EXECUTE drop_subscription'), ('EXECUTE get_order'), ('EXECUTE key_retention'),
	('EXECUTE log_holders'), ('EXECUTE order_counts'), ('EXECUTE order_history'), ('EXECUTE outbox_retention'), ('EXECUTE pause_subscription'), ('EXECUTE purge_orders'),
	('EXECUTE redrive'), ('EXECUTE reset_stats'), ('EXECUTE resume_subscription'), ('EXECUTE retried_keys'), ('EXECUTE retry_counts'),
	('EXECUTE rotate_keys'), ('EXECUTE rotate_outbox'), ('EXECUTE seek_to_position'), ('EXECUTE seek_to_time'), ('EXECUTE subscription_activity'),
	('EXECUTE subscription_lag'), ('EXECUTE subscription_workers'),
	('SELECT abandoned_claims'), ('SELECT account_balance'), ('SELECT claim_stats'),
	('SELECT claims'), ('SELECT current_lifecycle'), ('SELECT dead_letters'),
	('SELECT deadline_failures'), ('SELECT failed_events'), ('SELECT generations'), ('SELECT hot_keys'), ('SELECT installation'), ('SELECT key_store'),
	('SELECT ledger'), ('SELECT lifecycle'), ('SELECT order_stats'), ('SELECT orders'), ('SELECT outbox'), ('SELECT outbox_store'),
	('SELECT parked_events'), ('SELECT payment_deadlines'), ('SELECT retry_ratio'), ('SELECT subscription_cursors'), ('SELECT subscription_stats'), ('SELECT subscription_status'),
	('SELECT subscriptions'), ('USAGE schema')$$, 'an operator gets this and nothing more');

-- What they may read they really can: a view asks its caller for the functions in it.
SELECT is(pg_temp.ending_as('mon', format('SELECT * FROM order_idempotency.%s', v)), '00000', 'a monitor reads ' || v)
FROM unnest(ARRAY['abandoned_claims', 'account_balance', 'claim_stats', 'current_lifecycle', 'deadline_failures', 'hot_keys', 'key_store',
				  'order_stats', 'outbox_store', 'retry_ratio', 'subscription_stats', 'subscription_status']) v;
SELECT is(pg_temp.ending_as('oper', format('SELECT * FROM order_idempotency.%s', v)), '00000', 'an operator reads ' || v)
FROM unnest(ARRAY['abandoned_claims', 'account_balance', 'claim_stats', 'current_lifecycle', 'deadline_failures', 'hot_keys', 'key_store',
				  'order_stats', 'outbox_store', 'retry_ratio', 'subscription_stats', 'subscription_status', 'orders',
				  'ledger', 'outbox', 'claims']) v;
SELECT is(pg_temp.value_as('oper', $$SELECT state FROM order_idempotency.get_order('o')$$), 'created',
		  'an operator looks an order up');
SELECT is(pg_temp.value_as('oper', $$SELECT count(*) FROM order_idempotency.order_history('o')$$), '1',
		  'and its history');
SELECT is(pg_temp.value_as('mon', $$SELECT balance FROM order_idempotency.account_balance WHERE account = 'alice'$$),
		  '-100', 'a monitor sees a balance');
SELECT is(pg_temp.ending_as('mon', 'SELECT FROM order_idempotency.orders'), '42501', 'but no order');

-- Nothing can be written.
SELECT is_empty($$
	SELECT r.role, c.oid::regclass FROM pg_class c, (VALUES ('mon'), ('oper')) r(role)
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind IN ('r', 'v')
	  AND (has_table_privilege(r.role, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
		   OR has_any_column_privilege(r.role, c.oid, 'INSERT, UPDATE, REFERENCES'))
	$$, 'neither writes a table');
SELECT is(pg_temp.ending_as('oper', $$SELECT order_idempotency.create_order('x', 1, 'EUR')$$), '42501',
		  'an operator makes no orders');
SELECT is(pg_temp.ending_as('oper', $$SELECT order_idempotency.grant_application('oper')$$), '42501',
		  'and does not widen its rights');

-- A subscription needs the right to use its server as well.
CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/events');
SELECT is(pg_temp.ending_as('oper', $$SELECT order_idempotency.create_subscription('s', 'files')$$), '42501',
		  'no subscription on a server that is not granted');
GRANT USAGE ON FOREIGN SERVER files TO oper;
SELECT is(pg_temp.ending_as('oper', $$SELECT order_idempotency.create_subscription('s', 'files')$$), '00000',
		  'an operator subscribes');
SELECT is((SELECT owner FROM order_idempotency.subscriptions WHERE name = 's'), 'oper'::regrole,
		  'and owns the subscription');
SELECT is(pg_temp.ending_as('oper', $$SELECT order_idempotency.drop_subscription('s')$$), '00000',
		  'an operator drops its subscription');
SELECT is(pg_temp.ending_as('mon', $$SELECT order_idempotency.create_subscription('s', 'files')$$), '42501',
		  'a monitor does not');

SELECT * FROM finish();
ROLLBACK;
