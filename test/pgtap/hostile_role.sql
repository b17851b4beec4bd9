-- Promise 9: a role that may call the functions, and create what it likes in a schema of its
-- own and in pg_temp, gains nothing by that: not by any setting that it can change, not by what is
-- attached to its own objects, not by what it tries on the extension's.
--
-- Bugs that this catches: a fingerprint or a payload that depends on how the session prints
-- values; a change of an order without its event where the guard's triggers do not fire; a setting of
-- an administrator's that everybody can change; something of a role's that runs as somebody else.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SELECT plan(44);

CREATE ROLE app;
SELECT order_idempotency.grant_application('app');
CREATE SCHEMA evil AUTHORIZATION app;

-- -- settings ---------------------------------------------------------------------------------

-- What an application does, under keys that end in a number, and what it is told: as text, the same each time.
CREATE FUNCTION pg_temp.tell(n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	request jsonb := '{"a": [1, 2.50, null, true], "b": {"c": "2001-02-03"}, "d": 1e-7}';
	told text[];
	k text;
BEGIN
	told := told || (SELECT c.outcome || ' ' || c.attempt FROM order_idempotency.claim_key('claim', request) c);
	told := told || (SELECT c.outcome || ' ' || c.attempt FROM order_idempotency.claim_key('claim ' || n, request) c);
	told := told || order_idempotency.complete_key('claim ' || n, request);
	told := told || (SELECT c.outcome || ' ' || c.response::text FROM order_idempotency.claim_key('claim ' || n, request) c);
	told := told || (SELECT c.outcome FROM order_idempotency.claim_key('lease ' || n, lease => '90 minutes') c);
	told := told || order_idempotency.extend_key('lease ' || n, '1 day', 'default', 1);
	told := told || order_idempotency.release_key('lease ' || n, attempt => 1);
	FOREACH k IN ARRAY ARRAY['order', 'order ' || n] LOOP
		told := told || (SELECT c.outcome || ' ' || c.version FROM order_idempotency.create_order(k, 1234567890123,
			'EUR', 'alice', request, '1 day 02:03:04.5', '{"traceparent": "00-1"}') c);
	END LOOP;
	told := told || (SELECT c.outcome FROM order_idempotency.transition_order('order ' || n, 'paid', 'pay', request) c);
	told := told || (SELECT c.outcome FROM order_idempotency.transition_order('order ' || n, 'created', 'x', on_conflict => 'report') c);
	told := told || (SELECT c.outcome FROM order_idempotency.cancel_order('none ' || n, if_missing => 'tombstone') c);
	told := told || (SELECT (g.state, g.version, g.amount, g.money_status, g.payload, g.allowed_transitions)::text
					 FROM order_idempotency.get_order('order ' || n) g);
	told := told || (SELECT string_agg(h.version || h.state, ' ') FROM order_idempotency.order_history('order ' || n) h);
	told := told || length(order_idempotency.emit_event('mail.sent', 'order ' || n, request)::text)::text;
	RETURN array_to_string(told, E'\n');
END
$$;

-- What is stored under such keys.
CREATE FUNCTION pg_temp.stored(n int) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(E'\n',
		(SELECT count(DISTINCT request_hash) FROM order_idempotency.claims WHERE request_hash IS NOT NULL),
		(SELECT string_agg((state, version, amount, currency, account, money_status, payload, cardinality(history))::text, ' ')
		 FROM order_idempotency.orders WHERE key = 'order ' || n),
		(SELECT string_agg(d.due_at - o.created_at || '', ' ') FROM order_idempotency.payment_deadlines d
			JOIN order_idempotency.orders o ON o.key = d.order_key WHERE o.key = 'order ' || n),
		(SELECT string_agg((version, effect, debit_account, credit_account, amount, currency)::text, ' ' ORDER BY version)
		 FROM order_idempotency.ledger WHERE order_key = 'order ' || n),
		(SELECT string_agg((version, type, payload - 'key', headers)::text, ' ' ORDER BY position)
		 FROM order_idempotency.outbox WHERE key = 'order ' || n))
$$;

-- The same, with a setting that the application made, and all of it undone.
CREATE FUNCTION pg_temp.under(name text, value text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	was text := current_setting(name);
	told text;
BEGIN
	PERFORM set_config('role', 'app', true);
	PERFORM set_config(name, value, true);
	told := pg_temp.tell(n);
	PERFORM set_config(name, was, true);
	PERFORM set_config('role', 'none', true);
	RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = concat_ws(E'\n', told, pg_temp.stored(n));
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	RETURN SQLERRM;
WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END
$$;

SELECT pg_temp.tell(0) IS NULL AS unread \gset
-- the first of all keys is told of a repeat from here on, whatever the setting
CREATE TEMPORARY TABLE told AS SELECT pg_temp.under('application_name', 'reference', 1) AS reference;
SELECT ok(reference LIKE E'replayed 1\nclaimed 1\ncompleted\n%paid%36%', 'what an application is told') FROM told;

-- Every setting that anybody can make, to every end.  Left out: those of the transaction; those that are of the
-- session's own messages or that end it; and what only fills the log.
CREATE TEMPORARY TABLE tried AS
SELECT row_number() OVER () AS n, s.name, v.value
FROM pg_settings s
	CROSS JOIN LATERAL (
		SELECT unnest(s.enumvals) WHERE s.vartype = 'enum'
		UNION SELECT unnest(ARRAY['on', 'off']) WHERE s.vartype = 'bool'
		UNION SELECT unnest(ARRAY[s.min_val, s.max_val]) WHERE s.vartype IN ('integer', 'real')
		UNION SELECT w.value FROM (VALUES ('DateStyle', 'SQL, DMY'), ('DateStyle', 'German'), ('TimeZone', 'Asia/Kathmandu'),
			('TimeZone', 'posix/UTC'), ('search_path', 'evil, pg_temp, pg_catalog'), ('search_path', ''), ('timezone_abbreviations', 'India'),
			('client_encoding', 'LATIN1'), ('client_encoding', 'SQL_ASCII'), ('lc_messages', 'C'), ('lc_numeric', 'C'), ('lc_monetary', 'C'),
			('default_text_search_config', 'pg_catalog.german'), ('application_name', E'\x7f'),
			('order_idempotency.headers', '{"traceparent": "mine"}')) w (name, value)
		WHERE s.vartype = 'string' AND w.name = s.name) v (value)
WHERE s.context = 'user' AND s.name !~ '^(transaction_|client_min_messages|exit_on_error|debug_print|temp_buffers|trace_|session_auth|role$)';
SELECT cmp_ok(count(*), '>', 250::bigint, 'there are many settings') FROM tried;
SELECT is_empty($$
	SELECT t.name, t.value, pg_temp.under(t.name, t.value, 1) FROM tried t, told
	WHERE pg_temp.under(t.name, t.value, 1) <> CASE
		-- the events that were given no headers of their own have those
		WHEN t.name = 'order_idempotency.headers' AND t.value <> ''
		THEN replace(told.reference, '",)', '","{""traceparent"": ""mine""}")') ELSE told.reference END
	$$, 'no setting changes an answer, nor what is stored');
SELECT is_empty('SELECT * FROM story_faults', 'and each tells one story');

-- The server's and the administrator's settings are not the application's.
SELECT is_empty($$
	SELECT s.name FROM pg_settings s
	WHERE s.name LIKE 'order\_idempotency.%' AND s.context <> 'user'
	  AND pg_temp.ending_as('app', format('SET LOCAL %s = %L', s.name, s.setting)) NOT IN ('42501', '55P02')
	$$, 'no setting of an administrator''s is for the application');
SELECT is((SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE name LIKE 'order\_idempotency.%' AND context = 'user'),
	'order_idempotency.headers order_idempotency.in_flight_wait order_idempotency.pay_within', 'these are');
SELECT is(pg_temp.ending_as('app', 'SET LOCAL order_idempotency.nonsense = 1'), '42602', 'there are no others');
SELECT is(pg_temp.ending_as('app', 'SET LOCAL session_replication_role = replica'), '42501',
	'the guard''s triggers cannot be switched off');
GRANT SET ON PARAMETER session_replication_role TO app;
SELECT is(pg_temp.ending_as('app', $$SET LOCAL session_replication_role = replica;
	SELECT order_idempotency.transition_order('order 0', 'completed')$$), '09000', 'and who can is refused');
SET LOCAL session_replication_role = origin;
SELECT is((SELECT state || version FROM order_idempotency.orders WHERE key = 'order 0'), 'paid2', 'with nothing changed');
SELECT is_empty('SELECT * FROM story_faults', 'nor told');
REVOKE SET ON PARAMETER session_replication_role FROM app;
SELECT is(pg_temp.ending_as('app', $$SET LOCAL transaction_read_only = on; SELECT order_idempotency.claim_key('x')$$), '25006',
	'a read-only transaction writes nothing');

-- -- its own objects --------------------------------------------------------------------------

-- A trap says as whom it runs, reads what it must not, and calls the functions.
SET LOCAL ROLE app;
CREATE TABLE evil.ran (who text, session_is text, got text);
CREATE FUNCTION evil.trap_now(given text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	got text;
BEGIN
	BEGIN
		SELECT 'read ' || count(*) INTO got FROM order_idempotency.orders;
	EXCEPTION WHEN insufficient_privilege THEN
		got := 'refused';
	END;
	PERFORM order_idempotency.claim_key('trap ' || given);
	INSERT INTO evil.ran VALUES (current_user, given, got);
	RETURN given;
END
$$;
CREATE FUNCTION evil.trap(given text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN evil.trap_now(given); END$$;
CREATE FUNCTION evil.trap_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM evil.trap('trigger'); RETURN NEW; END$$;
CREATE FUNCTION evil.trap_check(given text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM evil.trap(given); RETURN true; END$$;
CREATE DOMAIN evil.short AS text CHECK (evil.trap_check('domain'));
CREATE TABLE evil.t (key text DEFAULT evil.trap('default'), d evil.short, i text DEFAULT 'index', CHECK (evil.trap_check('check')));
CREATE INDEX t_trap ON evil.t (evil.trap(i));
CREATE TRIGGER trap BEFORE INSERT ON evil.t FOR EACH ROW EXECUTE FUNCTION evil.trap_row();
CREATE TABLE evil.ruled (key text);
CREATE RULE r AS ON INSERT TO evil.ruled DO INSTEAD SELECT evil.trap('rule');
CREATE TABLE evil.secured (key text);
INSERT INTO evil.secured VALUES ('k');
ALTER TABLE evil.secured ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON evil.secured USING (evil.trap_check('policy'));
CREATE TYPE evil.pair AS (a text, b text);
CREATE FUNCTION evil.pair_to_text(evil.pair) RETURNS text LANGUAGE sql AS $$SELECT evil.trap('cast')$$;
CREATE CAST (evil.pair AS text) WITH FUNCTION evil.pair_to_text(evil.pair) AS IMPLICIT;
CREATE FUNCTION evil.pair_to_jsonb(evil.pair) RETURNS jsonb LANGUAGE sql AS $$SELECT to_jsonb(evil.trap('cast'))$$;
CREATE CAST (evil.pair AS jsonb) WITH FUNCTION evil.pair_to_jsonb(evil.pair) AS IMPLICIT;
CREATE VIEW evil.v WITH (security_barrier) AS SELECT evil.trap('view') AS key;
RESET ROLE;
TRUNCATE evil.ran;

SELECT is(pg_temp.ending_as('app', s), '00000', s) FROM unnest(ARRAY[
	$$INSERT INTO evil.t (d) VALUES ('x')$$,
	$$INSERT INTO evil.ruled VALUES ('x')$$,
	$$SELECT order_idempotency.claim_key(key) FROM evil.secured$$,
	$$SELECT order_idempotency.claim_key(key) FROM evil.v$$,
	$$SELECT order_idempotency.create_order('domain'::evil.short, 1, 'EUR')$$,
	$$SELECT order_idempotency.complete_key(ROW('a', 'b')::evil.pair, ROW('a', 'b')::evil.pair)$$]) s;
-- what an administrator does to every table, and what reads them
REINDEX TABLE evil.t;
ANALYZE evil.t;
SELECT set_eq($$SELECT session_is FROM evil.ran$$, ARRAY['default', 'domain', 'check', 'index', 'trigger', 'rule', 'policy', 'cast', 'view'],
	'every trap went off');
SELECT is_empty($$SELECT * FROM evil.ran WHERE who <> 'app' OR got <> 'refused'$$, 'as the application, and none could read a table');
SELECT is_empty('SELECT * FROM story_faults', 'what they did through the functions is in order');

-- Tables of ours by name, with all that a table can have attached, found before ours.
SET LOCAL ROLE app;
DO $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['orders', 'ledger', 'lifecycle', 'claims_0', 'outbox_0', 'generations', 'payment_deadlines', 'installation',
								'subscriptions', 'subscription_cursors', 'failed_events', 'deadline_failures'] LOOP
		EXECUTE format('CREATE TEMPORARY TABLE %I (key text DEFAULT evil.trap(''shadow''), state text CHECK (evil.trap_check(''shadow'')))', name);
		EXECUTE format('CREATE TRIGGER t BEFORE INSERT OR UPDATE ON pg_temp.%I FOR EACH ROW EXECUTE FUNCTION evil.trap_row()', name);
		EXECUTE format('CREATE RULE r AS ON INSERT TO pg_temp.%I DO ALSO SELECT evil.trap(''shadow'')', name);
		EXECUTE format('ALTER TABLE pg_temp.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
		EXECUTE format('CREATE POLICY p ON pg_temp.%I USING (evil.trap_check(''shadow''))', name);
	END LOOP;
	CREATE TEMPORARY SEQUENCE outbox_position START 1000000;
	CREATE TEMPORARY SEQUENCE in_use START 1000000;
END
$$;
RESET ROLE;
TRUNCATE evil.ran;
SELECT is(pg_temp.under('search_path', 'pg_temp, evil, pg_catalog', 1), reference, 'temporary tables in place of ours') FROM told;
SELECT is_empty('SELECT * FROM evil.ran', 'nobody looks at them');

-- -- the extension's objects ------------------------------------------------------------------

ANALYZE order_idempotency.orders;
SELECT is(pg_temp.value_as('app', $$SELECT count(*) FROM pg_stats WHERE schemaname = 'order_idempotency'$$), '0', 'no statistics of columns');
SELECT is(pg_temp.ending_as('app', s), '42501', s) FROM unnest(ARRAY[
	'SELECT last_value FROM order_idempotency.outbox_position',
	'CREATE TABLE evil.x (LIKE order_idempotency.orders)',
	'CREATE TABLE evil.x () INHERITS (order_idempotency.orders)',
	'CREATE TABLE evil.x (key text COLLATE "C" REFERENCES order_idempotency.orders)',
	'CREATE TABLE evil.x OF order_idempotency.order_result',
	'CREATE FUNCTION evil.x(order_idempotency.orders) RETURNS int LANGUAGE sql AS ''SELECT 1''',
	'CREATE RULE r AS ON UPDATE TO order_idempotency.orders DO INSTEAD NOTHING',
	'CREATE POLICY p ON order_idempotency.orders USING (true)',
	'CREATE STATISTICS evil.s ON key, state FROM order_idempotency.orders',
	'CREATE INDEX ON order_idempotency.orders (evil.trap(key))',
	'CREATE VIEW evil.x AS SELECT key FROM order_idempotency.orders; SELECT * FROM evil.x',
	'ALTER FUNCTION order_idempotency.claim_key SET search_path = evil',
	'ALTER TABLE order_idempotency.orders DISABLE TRIGGER ALL',
	'ALTER EXTENSION order_idempotency ADD TABLE evil.t',
	'ALTER EXTENSION order_idempotency UPDATE',
	'DROP EXTENSION order_idempotency',
	'CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION evil.trap_row()',
	'CREATE SERVER s FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path ''/tmp'')',
	'CREATE CAST (text AS jsonb) WITH INOUT AS IMPLICIT']) s;
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
