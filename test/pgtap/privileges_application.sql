-- Promise 9, least privilege: what an application needs is
-- grant_application(role), that is EXECUTE on ten functions and nothing else.
-- With it every one of them works, for each of its outcomes, and no table,
-- view or sequence can be read or written.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SELECT plan(45);

CREATE ROLE "App, ""quoted""";
CREATE ROLE app;
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.claim_key('k')$$), '42501',
		  'before the grant nothing can be called');
SELECT lives_ok($$SELECT order_idempotency.grant_application('app')$$, 'grant_application');
SELECT lives_ok($$SELECT order_idempotency.grant_application('app')$$, 'can be repeated');
SELECT lives_ok($$SELECT order_idempotency.grant_application('"App, ""quoted"""')$$, 'takes any name of a role');
SELECT is(has_function_privilege('App, "quoted"', 'order_idempotency.order_history(text)', 'EXECUTE'), true,
		  'and grants to that role');
SELECT throws_ok($$SELECT order_idempotency.grant_application(NULL)$$, '22004', NULL, 'no role is an error');

-- What it gives.
SELECT pg_temp.rows_are($$
	SELECT p.proname::text FROM pg_proc p
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND has_function_privilege('app', p.oid, 'EXECUTE')
	ORDER BY p.proname
	$$, $$VALUES ('cancel_order'), ('claim_key'), ('complete_key'), ('create_order'), ('emit_event'), ('extend_key'),
	('get_order'), ('order_history'), ('release_key'), ('transition_order')$$, 'ten functions');
SELECT is(has_schema_privilege('app', 'order_idempotency', 'USAGE'), true, 'a way into the schema');
SELECT is(has_schema_privilege('app', 'order_idempotency', 'CREATE'), false, 'but nothing to create there');
SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind IN ('r', 'v')
	  AND (has_table_privilege('app', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
		   OR has_any_column_privilege('app', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
	$$, 'no table or view');
SELECT is_empty($$
	SELECT s.seqrelid::regclass FROM pg_sequence s
	WHERE s.seqrelid IN (SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'order_idempotency'::regnamespace)
	  AND has_sequence_privilege('app', s.seqrelid, 'SELECT, UPDATE, USAGE')
	$$, 'no sequence');
SELECT is_empty($$
	SELECT n FROM pg_foreign_data_wrapper f, LATERAL (SELECT f.fdwname AS n) x
	WHERE f.fdwname LIKE 'order\_idempotency%' AND has_foreign_data_wrapper_privilege('app', f.oid, 'USAGE')
	$$, 'no foreign data wrapper');

-- The statements themselves, not only the catalogs.
SELECT is_empty($$
	SELECT c.oid::regclass, s.statement
	FROM pg_class c,
		 LATERAL (VALUES (format('SELECT FROM %s', c.oid::regclass)),
						 (format('DELETE FROM %s', c.oid::regclass)),
						 (format('INSERT INTO %s DEFAULT VALUES', c.oid::regclass)),
						 (format('LOCK TABLE %s IN ACCESS SHARE MODE', c.oid::regclass))) s(statement)
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind IN ('r', 'v')
	  -- a view that cannot be written says so to everybody
	  AND NOT (c.relkind = 'v' AND s.statement ~ '^(INSERT|DELETE)' AND pg_temp.ending_as('app', s.statement) = '55000')
	  AND pg_temp.ending_as('app', s.statement) <> '42501'
	$$, 'SELECT, DELETE, INSERT and LOCK are refused on every one of them');
SELECT is(pg_temp.ending_as('app', $$UPDATE order_idempotency.orders SET state = 'paid'$$), '42501', 'so is UPDATE');
SELECT is(pg_temp.ending_as('app', $$TRUNCATE order_idempotency.orders$$), '42501', 'so is TRUNCATE');
SELECT is(pg_temp.ending_as('app', $$SELECT nextval('order_idempotency.outbox_position')$$), '42501',
		  'so is nextval');
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.grant_operator('app')$$), '42501',
		  'it cannot grant itself more');
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.create_subscription('s', 's')$$), '42501',
		  'nor subscribe');
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.copy_default_lifecycle()$$), '42501',
		  'nor touch the lifecycle');
SELECT is(pg_temp.ending_as('app', $$CREATE TRIGGER t BEFORE UPDATE ON order_idempotency.orders
		FOR EACH ROW EXECUTE FUNCTION order_idempotency.guard_change()$$), '42501', 'nor attach a trigger');

-- Every function, each outcome.
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.claim_key('k', '{"a": 1}')$$), 'claimed',
		  'claim_key: claimed');
SELECT is(pg_temp.value_as('app', $$SELECT order_idempotency.complete_key('k', '{"r": 1}')$$), 'completed',
		  'complete_key');
SELECT is(pg_temp.value_as('app', $$SELECT response FROM order_idempotency.claim_key('k', '{"a": 1}')$$), '{"r": 1}',
		  'claim_key: replayed');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.claim_key('k', '{"a": 2}')$$), 'mismatch',
		  'claim_key: mismatch');
SELECT is(pg_temp.value_as('app', $$SELECT attempt FROM order_idempotency.claim_key('l', lease => '1 hour')$$), '1',
		  'claim_key with a lease');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.claim_key('l')$$), 'in_progress',
		  'claim_key: in_progress');
SELECT is(pg_temp.value_as('app', $$SELECT order_idempotency.extend_key('l', '2 hours', 'default', 1)$$), 'extended',
		  'extend_key');
SELECT is(pg_temp.value_as('app', $$SELECT order_idempotency.release_key('l', attempt => 1)$$), 'released',
		  'release_key');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.create_order('o', 100, 'EUR', 'alice',
			pay_within => '1 hour')$$), 'created', 'create_order');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.create_order('o', 100, 'EUR', 'alice')$$),
		  'replayed', 'create_order: replayed');
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.create_order('o', 200, 'EUR', 'alice')$$), 'OI001',
		  'create_order: mismatch');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.transition_order('o', 'paid', 'pay-1')$$),
		  'applied', 'transition_order');
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.transition_order('o', 'created', 'x')$$), 'OI003',
		  'transition_order: illegal');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.cancel_order('o')$$), 'ignored',
		  'cancel_order: ignored');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.create_order('p', 1, 'EUR', 'bob')$$),
		  'created', 'another order');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.cancel_order('p', 'changed my mind')$$),
		  'cancelled', 'cancel_order');
SELECT is(pg_temp.value_as('app', $$SELECT outcome FROM order_idempotency.cancel_order('q',
			if_missing => 'tombstone')$$), 'tombstoned', 'cancel_order: tombstoned');
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.create_order('q', 1, 'EUR')$$), 'OI005',
		  'create_order: refused');
SELECT is(pg_temp.ending_as('app', $$SELECT order_idempotency.cancel_order('r')$$), 'OI004', 'cancel_order: missing');
SELECT is(pg_temp.value_as('app', $$SELECT state FROM order_idempotency.get_order('o')$$), 'paid', 'get_order');
SELECT is(pg_temp.value_as('app', $$SELECT count(*) FROM order_idempotency.order_history('o')$$), '2',
		  'order_history');
SELECT isnt(pg_temp.value_as('app', $$SELECT order_idempotency.emit_event('mail.sent', 'o', '{"n": 1}')$$), NULL,
		  'emit_event');
SELECT is(pg_temp.row_counts(), 'claims 2, orders 3, ledger 4, outbox 5, deadlines 1',
		  'all of it was written (a claim, and the attempt of one given back)');
SELECT is_empty('SELECT * FROM story_faults', 'and tells one story');

-- The functions write for whoever calls them, not for whoever owns the tables.
SELECT is((SELECT bool_or(prosecdef) FROM pg_proc WHERE pronamespace = 'order_idempotency'::regnamespace
		   AND has_function_privilege('app', oid, 'EXECUTE')), false,
		  'without taking another role''s rights');

SELECT * FROM finish();
ROLLBACK;
