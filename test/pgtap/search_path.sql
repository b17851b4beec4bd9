-- Promise 9: nothing that an application role can write is ever resolved by
-- name.  A search_path that begins with a schema full of traps, before
-- pg_catalog even, and temporary tables named like ours change nothing.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SELECT plan(46);

CREATE ROLE app;
SELECT order_idempotency.grant_application('app');
CREATE ROLE plain;

-- Each trap raises, or would be seen in the answers.
CREATE SCHEMA evil AUTHORIZATION app;
SET LOCAL ROLE app;
CREATE FUNCTION evil.trap() RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'trapped' USING ERRCODE = 'ZZ666'; END$$;
DO $do$
DECLARE
	signature text;
BEGIN
	FOREACH signature IN ARRAY ARRAY[
		'now() RETURNS timestamptz', 'clock_timestamp() RETURNS timestamptz', 'transaction_timestamp() RETURNS timestamptz',
		'nextval(regclass) RETURNS bigint', 'count() RETURNS bigint', 'sum(bigint) RETURNS numeric',
		'octet_length(text) RETURNS int', 'length(text) RETURNS int', 'texteq(text, text) RETURNS boolean',
		'text_ne(text, text) RETURNS boolean', 'textregexeq(text, text) RETURNS boolean',
		'jsonb_eq(jsonb, jsonb) RETURNS boolean', 'uuid_eq(uuid, uuid) RETURNS boolean',
		'int4eq(int, int) RETURNS boolean', 'int8pl(bigint, bigint) RETURNS bigint',
		'format(text, text) RETURNS text', 'sha256(bytea) RETURNS bytea',
		'pg_current_xact_id() RETURNS xid8', 'unnest(text[]) RETURNS SETOF text',
		'array_append(text[], text) RETURNS text[]', 'jsonb_build_object(text, text) RETURNS jsonb',
		'pg_snapshot_xmin(pg_snapshot) RETURNS xid8', 'pg_visible_in_snapshot(xid8, pg_snapshot) RETURNS boolean',
		'pg_current_snapshot() RETURNS pg_snapshot', 'default_lifecycle() RETURNS SETOF text',
		'subscription_workers() RETURNS SETOF int', 'claim_key(text) RETURNS text', 'grant_monitor(regrole) RETURNS void'] LOOP
		EXECUTE format('CREATE FUNCTION evil.%s LANGUAGE plpgsql AS $$BEGIN PERFORM evil.trap(); END$$', signature);
	END LOOP;
	FOREACH signature IN ARRAY ARRAY['text, text', 'jsonb, jsonb', 'uuid, uuid', 'int, int', 'bigint, bigint',
									 'timestamptz, timestamptz', '"char", "char"', 'oid, oid'] LOOP
		EXECUTE format('CREATE FUNCTION evil.cmp(%s) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM evil.trap(); END$$', signature);
		EXECUTE format('CREATE OPERATOR evil.= (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.cmp)',
					   split_part(signature, ', ', 1), split_part(signature, ', ', 2));
		EXECUTE format('CREATE OPERATOR evil.<> (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.cmp)',
					   split_part(signature, ', ', 1), split_part(signature, ', ', 2));
		EXECUTE format('CREATE OPERATOR evil.> (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.cmp)',
					   split_part(signature, ', ', 1), split_part(signature, ', ', 2));
	END LOOP;
	EXECUTE 'CREATE OPERATOR evil.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.cmp)';
	-- tables of ours, by name and with their columns
	FOREACH signature IN ARRAY ARRAY['orders', 'ledger', 'lifecycle', 'claims_0', 'outbox_0', 'generations',
									 'payment_deadlines', 'claims', 'outbox'] LOOP
		EXECUTE format('CREATE TABLE evil.%I (key text, state text, store text, from_state text, to_state text, '
					   'event_type text, ledger_effect text, order_key text, due_at timestamptz)', signature);
		EXECUTE format('CREATE TEMPORARY TABLE %I (LIKE evil.%I)', signature, signature);
	END LOOP;
	CREATE SEQUENCE evil.outbox_position START 1000000;
	CREATE TYPE evil.order_step AS (x int);
	CREATE TYPE evil.order_result AS (x int);
	CREATE TYPE evil.claim_result AS (x int);
	CREATE DOMAIN evil.jsonb AS pg_catalog.text CHECK (VALUE = 'never');
END
$do$;
RESET ROLE;

-- Run a query with that search_path as the application, or as somebody else; then look at what it says from outside.
CREATE FUNCTION pg_temp.trapped(role name, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	value text;
BEGIN
	PERFORM pg_catalog.set_config('role', role, true);
	PERFORM pg_catalog.set_config('search_path', 'evil, pg_temp, pg_catalog, order_idempotency', true);
	EXECUTE query INTO value;
	PERFORM pg_catalog.set_config('search_path', '"$user", public', true);
	PERFORM pg_catalog.set_config('role', 'none', true);
	RETURN value;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

SELECT is(pg_temp.trapped('app', 'SELECT now()::pg_catalog.text'), 'ZZ666 trapped', 'the traps work: a function');
SELECT is(pg_temp.trapped('app', $$SELECT ('a'::pg_catalog.text = 'b'::pg_catalog.text)::pg_catalog.text$$), 'ZZ666 trapped',
		  'the traps work: an operator');

CREATE TEMPORARY TABLE t (nr int GENERATED ALWAYS AS IDENTITY, query text, answer text);
INSERT INTO t (query, answer) VALUES
	('SELECT outcome FROM order_idempotency.claim_key(''c1'', ''{"a": 1}''::pg_catalog.jsonb)', 'claimed'),
	('SELECT outcome FROM order_idempotency.claim_key(''c1'', ''{"a": 1.0}''::pg_catalog.jsonb)', 'replayed'),
	('SELECT outcome FROM order_idempotency.claim_key(''c1'', ''{"a": 2}''::pg_catalog.jsonb)', 'mismatch'),
	('SELECT order_idempotency.complete_key(''c1'', ''"done"''::pg_catalog.jsonb)', 'completed'),
	('SELECT outcome FROM order_idempotency.claim_key(''c2'', lease => ''1 hour'')', 'claimed'),
	('SELECT order_idempotency.extend_key(''c2'', ''2 hours'', ''default'', 1)', 'extended'),
	('SELECT order_idempotency.release_key(''c2'', attempt => 1)', 'released'),
	('SELECT outcome FROM order_idempotency.create_order(''o1'', 100, ''EUR'', ''alice'', ''{"a": 1}''::pg_catalog.jsonb, ''1 hour'')', 'created'),
	('SELECT outcome FROM order_idempotency.create_order(''o1'', 100, ''EUR'', ''alice'', ''{"a": 1.0}''::pg_catalog.jsonb)', 'replayed'),
	('SELECT outcome FROM order_idempotency.create_order(''o1'', 101, ''EUR'', ''alice'', on_conflict => ''report'')', 'mismatch'),
	('SELECT outcome FROM order_idempotency.transition_order(''o1'', ''paid'', ''pay-1'')', 'applied'),
	('SELECT outcome FROM order_idempotency.transition_order(''o1'', ''paid'', ''pay-1'')', 'replayed'),
	('SELECT outcome FROM order_idempotency.transition_order(''o1'', ''created'', ''x'', on_conflict => ''report'')', 'illegal'),
	('SELECT outcome FROM order_idempotency.cancel_order(''o1'')', 'ignored'),
	('SELECT outcome FROM order_idempotency.create_order(''o2'', 100, ''EUR'', ''alice'')', 'created'),
	('SELECT outcome FROM order_idempotency.cancel_order(''o2'', ''why'')', 'cancelled'),
	('SELECT outcome FROM order_idempotency.cancel_order(''o3'', if_missing => ''tombstone'')', 'tombstoned'),
	('SELECT state FROM order_idempotency.get_order(''o1'')', 'paid'),
	('SELECT allowed_transitions FROM order_idempotency.get_order(''o1'')', '{completed}'),
	('SELECT pg_catalog.array_agg(state) FROM order_idempotency.order_history(''o1'')', '{created,paid}'),
	('SELECT pg_catalog.length(order_idempotency.emit_event(''mail.sent'', ''o1'')::pg_catalog.text)', '36');
SELECT is(pg_temp.trapped('app', query), answer, query) FROM t ORDER BY nr;
SELECT is_empty('SELECT * FROM story_faults', 'everything is where it belongs');
SELECT is((SELECT count(*) FROM order_idempotency.outbox), 5::bigint, 'each event in the log');
SELECT is((SELECT max(position) < 1000000 FROM order_idempotency.outbox), true, 'by the log''s own sequence');
SELECT is_empty(format('SELECT * FROM evil.%I', r), 'nothing in evil.' || r)
FROM unnest(ARRAY['orders', 'ledger', 'lifecycle', 'claims_0', 'outbox_0', 'generations', 'payment_deadlines']) r;

-- What an administrator runs, with traps left in the way.
SELECT is(pg_temp.trapped('postgres', $$SELECT order_idempotency.grant_application('plain')::pg_catalog.text$$), '', 'grant_application');
SELECT is(pg_temp.trapped('postgres', $$SELECT order_idempotency.grant_monitor('plain')::pg_catalog.text$$), '', 'grant_monitor');
SELECT is(pg_temp.trapped('postgres', $$SELECT order_idempotency.grant_operator('plain')::pg_catalog.text$$), '', 'grant_operator');
SELECT is(has_table_privilege('plain', 'order_idempotency.orders', 'SELECT'), true, 'grant to the tables of the extension');
SELECT is(has_table_privilege('plain', 'evil.orders', 'SELECT'), false, 'not to those of the trap');
SELECT is(pg_temp.trapped('postgres', $$UPDATE order_idempotency.orders SET state = 'completed' WHERE key OPERATOR(pg_catalog.=) 'o1'
	RETURNING version$$), '3', 'an UPDATE past the guard');
SELECT is(pg_temp.trapped('postgres', $$UPDATE order_idempotency.orders SET state = 'created' WHERE key OPERATOR(pg_catalog.=) 'o1'
	RETURNING version$$) LIKE 'OI003 %', true, 'an illegal one');
SELECT is(pg_temp.trapped('postgres', $$SELECT order_idempotency.copy_default_lifecycle()::pg_catalog.text$$), NULL, 'copy_default_lifecycle');
SELECT lives_ok('SET CONSTRAINTS ALL IMMEDIATE', 'is what it should be');
SELECT is((SELECT count(*) FROM order_idempotency.lifecycle), 4::bigint, 'in the extension''s table');
SELECT is(pg_temp.trapped('plain', $$SELECT balance FROM order_idempotency.account_balance
	WHERE account OPERATOR(pg_catalog.=) 'revenue'$$), '100', 'a view');
SELECT is(pg_temp.trapped('plain', $$SELECT pg_catalog.count(*) FROM order_idempotency.subscription_status$$), '0', 'another');

SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
