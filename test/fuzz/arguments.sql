-- Hostile arguments to every SQL function of the extension, as the catalog has them, random
-- from a seed.  What is called, and as whom, is decided here; 172_fuzz.pl runs it and looks at
-- what became of the server.
--
--	SELECT fuzz.prepare();				once, as a superuser
--	CALL fuzz.run(seed, calls);			as a superuser, in as many sessions as one likes
--	SELECT * FROM fuzz.outcome;			how often each function ended with what
--
-- A function is called from PL/pgSQL that is made for it, with arguments out of pools of values
-- of their types, in a subtransaction.  The pools begin with good values, few enough that calls meet the
-- same keys, and those at the beginning are taken most often.  A type that has no pool is an error: add one.

CREATE SCHEMA fuzz;
CREATE ROLE fuzz_app;
CREATE ROLE fuzz_operator LOGIN;
CREATE ROLE fuzz_other;		-- who is granted things
SELECT order_idempotency.grant_application('fuzz_app');
SELECT order_idempotency.grant_operator('fuzz_operator');
GRANT USAGE ON SCHEMA fuzz TO PUBLIC;

-- name: a function's; role: as whom it is called; share: how often, beside others
CREATE TABLE fuzz.target (nr int GENERATED ALWAYS AS IDENTITY, oid oid, name text, role text, share int, body text);
CREATE TABLE fuzz.outcome (session int, name text, role text, code text, n bigint, example text);

-- the values of each type, as SQL that makes an array of them; those of text by what an argument is named
CREATE TABLE fuzz.pool (type text, name text, made text);
INSERT INTO fuzz.pool VALUES
	('text', NULL, $$ARRAY['k1', 'k2', 'k3', 'k4', 'k5', 'k6', 'k7', 'k8', NULL, '', ' ', 'K1', 'k1 ', E'k\n1', E'\x01\x7f', repeat('x', 255), repeat('x', 256),
		repeat('é', 127), repeat('é', 128), U&'\FEFF', U&'\+01F600', U&'\202Ek1', '%s%n%d', '{key}{type}', '../../etc/passwd',
		$q$'; DROP TABLE orders; --$q$, E'\\', '"', 'null', 'NaN', '-1', '0', '018f3f2e-7b5a-7000-8000-000000000001',
		'018F3F2E-7B5A-7000-8000-000000000001', '018f3f2e-7b5a-7000-8000-00000000000g', '00000000-0000-7000-8000-000000000000', 'escrow', 'revenue',
		repeat('x', 100000)]$$),
	('text', 'scope', $$ARRAY['default', 'default', 's', NULL, '', 'S', repeat('s', 255), repeat('s', 256), E'\n']$$),
	('text', 'request_key', $$ARRAY[NULL, 'r1', 'r2', 'r3', '', repeat('r', 255), repeat('r', 256), E'\n']$$),
	('text', 'reason', $$ARRAY['why', NULL, '', repeat('w', 1000), repeat('w', 100000), E'\n']$$),
	('text', 'currency', $$ARRAY['EUR', 'EUR', 'EUR', 'USD', NULL, 'eur', 'EU', 'EURO', '', 'E R', 'ÄÖÜ', E'EU\n', repeat('E', 100000)]$$),
	('text', 'account', $$ARRAY['alice', 'alice', NULL, 'bob', 'escrow', 'revenue', 'Escrow', '', ' ', repeat('a', 255), repeat('a', 256), U&'\202E']$$),
	('text', 'to_state', $$ARRAY['paid', 'completed', 'cancelled', 'created', NULL, 'PAID', '', 'paid ', repeat('p', 64), repeat('p', 5000)]$$),
	('text', 'on_conflict', $$ARRAY['report', 'error', NULL, 'REPORT', '', repeat('r', 1000)]$$),
	('text', 'if_missing', $$ARRAY['error', 'tombstone', NULL, 'ignore', '']$$),
	('text', 'server', $$ARRAY['fuzz_files', 'fuzz_files', 'fuzz_files', NULL, 'nothing', '', repeat('s', 64), repeat('s', 5000)]$$),
	('text', 'topic', $$ARRAY[NULL, 'a.jsonl', 'b', '..', '.', '/etc/passwd', 'a/b', '{type}', 'x-{key}', '{key', '', repeat('t', 255), repeat('t', 256), 'é', E'a\nb']$$),
	('text', 'type', $$ARRAY['mail.sent', 'a', 'order.created', 'order.paid', NULL, '', '.', '..', '/', repeat('t', 255), repeat('t', 256), U&'\FFFD', E'\n']$$),
	('text', 'name', $$ARRAY['s1', 's2', 's3', NULL, 'S1', '1s', '', 's-_', repeat('s', 63), repeat('s', 64), 'é', 's1/..', repeat('n', 10000)]$$),
	('jsonb', NULL, $$ARRAY['{"traceparent": "00-1"}', '{"a": "1"}', '{}', NULL, '{"a": 1}', '{"a": 1.0}', 'null', 'true', '0', '-0', '1e1000', '1e-1000', '"x"', '[]',
		'{"a": 1, "b": [null, {"c": []}]}', '{"": ""}', '{"x": null}', '{"x": {"y": "1"}}', '["a"]', to_jsonb(E'\x01\u2028\uFFFF'::text),
		jsonb_build_object(repeat('k', 1000), repeat('v', 1000)), to_jsonb(array_fill(1, ARRAY[2000])), (repeat('[', 500) || repeat(']', 500))::jsonb,
		to_jsonb(repeat('v', 1100000))]$$),
	('jsonb', 'options', $$ARRAY[NULL, '{}', '{"batch_size": 1}', '{"from": "now", "max_attempts": 3}', '{"on_dead": "skip"}', '{"batch_size": "1"}', '{"batch_size": 1e9}', '{"batch_size": 1.5}',
		'{"from": "start"}', '{"from": 1}', '{"on_dead": null}', '{"backoff_min": -1}', '{"backoff_min": 100, "backoff_max": 1}', '{"unknown": 1}', '{"max_parked_keys": 0}',
		'{"batch_size": 99999999999999999999999}', '{"batch_size": "NaN"}', 'null', '[]', '"x"']$$),
	('int8', NULL, $$ARRAY[100, 100, 1, 2, 0, NULL, -1, 4294967296, 17592186044416, 9223372036854775807, -9223372036854775808]$$),
	('int4', NULL, $$ARRAY[1, 1, 2, 3, 0, NULL, -1, 2147483647, -2147483648]$$),
	('bool', NULL, $$ARRAY[false, true, NULL]$$),
	('uuid', NULL, $$ARRAY[NULL, NULL, '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', gen_random_uuid()]::uuid[]$$),
	('interval', NULL, $$ARRAY[NULL, '1 h', '1 day', '1 s', '1 ms', '0', '-1 s', '1 month -30 days', '-1 month 1000 h', '7 days', '8 days', '1 us',
		'178000000 years', '-178000000 years', '2147483647 days', '-2147483648 months', '9223372036854775807 us', '1 month']::interval[]$$),
	('timestamptz', NULL, $$ARRAY[now(), now() - interval '1 h', NULL, '2000-01-01', 'epoch', 'infinity', '-infinity', '4713-01-01 BC', '294276-12-31 23:59:59']::timestamptz[]$$),
	-- what is purged has events and movements left, and its key is new: that would look like a fault
	('timestamptz', 'before', $$ARRAY['2000-01-01', NULL, 'epoch', '-infinity', '4713-01-01 BC']::timestamptz[]$$),
	('oid', NULL, $$ARRAY[1417, 1418, NULL, 0, 1, 1262, 2328, 4294967295]::oid[]$$),
	('regrole', NULL, $$ARRAY['fuzz_other', NULL, 0, 4294967295, 1]::regrole[]$$),
	-- an array of arrays is no array of these: jsonb, of which arrays of text are made
	('_text', NULL, $$ARRAY[NULL, '["mail.sent"]', '["order.paid", "a"]', '[]', '["a", "a"]', '[null]', '[""]', '["a", null]', '["path=/tmp/x"]', '["path=relative"]', '["path"]', '["=x"]',
		'["url=http://a@b"]', '["url=http://127.0.0.1/"]', '["host=a", "port=0"]', '["host=a"]', '["host=::1"]', '["secret=x"]', '["password=x"]', '["bootstrap.servers=a:1"]',
		'["url=nats://a"]', '["rotate_size=1e309"]', '["rotate_size=1kB", "path=/tmp"]', '["fsync=perhaps"]', '["allow_addresses=1.2.3.4/99"]',
		'["allow_addresses=,,"]', '["timeout=99999999999999999999"]']::jsonb[]
		|| to_jsonb(array_fill('t'::text, ARRAY[500])) || to_jsonb(ARRAY[repeat('t', 300000)])$$);

CREATE FUNCTION fuzz.text_array(given jsonb) RETURNS text[] LANGUAGE sql STABLE AS
	$$SELECT CASE WHEN given IS NOT NULL THEN ARRAY(SELECT jsonb_array_elements_text(given)) END$$;

-- The loop that calls one function.
CREATE FUNCTION fuzz.body(target fuzz.target) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	p pg_proc := (SELECT p FROM pg_proc p WHERE p.oid = target.oid);
	declared text[] := '{}';
	given text[] := '{}';
	made text;
	arg_type text;
	arg_name text;
BEGIN
	FOR i IN 1 .. p.pronargs LOOP
		arg_type := (SELECT t.typname FROM pg_type t WHERE t.oid = p.proargtypes[i - 1]);
		arg_name := p.proargnames[i];
		made := (SELECT l.made FROM fuzz.pool l WHERE l.type = arg_type AND (l.name = arg_name OR l.name IS NULL) ORDER BY l.name NULLS LAST LIMIT 1);
		IF made IS NULL THEN
			RAISE EXCEPTION 'no values of type % for %', arg_type, target.oid::regprocedure;
		END IF;
		declared := declared || format('p%s %s[] := %s;', i, CASE arg_type WHEN '_text' THEN 'jsonb' ELSE arg_type END, made);
		given := given || format(CASE arg_type WHEN '_text' THEN 'fuzz.text_array(p%1$s[1 + floor(power(random(), 3) * array_length(p%1$s, 1))::int])'
								 ELSE 'p%1$s[1 + floor(power(random(), 3) * array_length(p%1$s, 1))::int]' END, i);
	END LOOP;
	RETURN format($body$
		CREATE OR REPLACE FUNCTION fuzz.call_%1$s(calls int, OUT codes text[], OUT counts bigint[], OUT examples text[]) LANGUAGE plpgsql AS $f$
		DECLARE
			%2$s
			code text;
			example text;
			at int;
		BEGIN
			FOR i IN 1 .. calls LOOP
				BEGIN
					%3$s
					code := '00000';
					example := '';
				EXCEPTION WHEN OTHERS THEN
					code := SQLSTATE;
					example := left(SQLERRM, 300);
				END;
				at := array_position(codes, code);
				IF at IS NULL THEN
					codes := codes || code;
					counts := counts || 1::bigint;
					examples := examples || example;
				ELSE
					counts[at] := counts[at] + 1;
				END IF;
			END LOOP;
		END
		$f$ $body$, target.nr, array_to_string(declared, E'\n'),
		CASE p.prokind WHEN 'p' THEN format('EXECUTE ''CALL %s($1%s)'' USING %s;', p.oid::regproc, repeat(', NULL', p.pronargs - 1), given[1])
		ELSE format('PERFORM * FROM %s(%s);', p.oid::regproc, array_to_string(given, ', ')) END);
END
$$;

-- All functions but triggers, each as who may call it, and as who may not.
CREATE FUNCTION fuzz.prepare() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	t fuzz.target;
BEGIN
	INSERT INTO fuzz.target (oid, name, role, share)
	SELECT p.oid, p.proname, r.role,
		   CASE WHEN NOT has_function_privilege(r.role, p.oid, 'EXECUTE') THEN 1
				WHEN r.role = 'fuzz_app' THEN 40
				WHEN p.proname ~ '^(rotate_|purge_|seek_|grant_|copy_)|_lag$' THEN 1 ELSE 4 END
	FROM pg_proc p CROSS JOIN (VALUES ('fuzz_app'), ('fuzz_operator'), (current_user)) r (role)
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND p.prorettype <> 'trigger'::regtype
	ORDER BY p.proname, p.oid, r.role;
	FOR t IN SELECT * FROM fuzz.target ORDER BY nr LOOP
		EXECUTE fuzz.body(t);
	END LOOP;
	RETURN (SELECT count(*) FROM fuzz.target);
END
$$;

-- So many calls, in transactions of fifty.  What copy_default_lifecycle did is undone, or the rest would be of its making.
CREATE PROCEDURE fuzz.run(seed double precision, calls bigint) LANGUAGE plpgsql AS $$
DECLARE
	me text := current_user;
	shares int := (SELECT sum(share) FROM fuzz.target);
	t fuzz.target;
	done bigint := 0;
	got record;
BEGIN
	IF shares IS NULL THEN
		RAISE EXCEPTION 'nothing is prepared';
	END IF;
	PERFORM setseed(seed);
	WHILE done < calls LOOP
		SELECT x.nr, x.oid, x.name, x.role INTO t.nr, t.oid, t.name, t.role
		FROM (SELECT f.*, sum(f.share) OVER (ORDER BY f.nr) AS upto FROM fuzz.target f) x, (SELECT random() * shares AS at) d
		WHERE x.upto > d.at ORDER BY x.nr LIMIT 1;
		PERFORM set_config('role', t.role, true);
		EXECUTE format('SELECT codes, counts, examples FROM fuzz.call_%s(50)', t.nr) INTO got;
		PERFORM set_config('role', 'none', true);
		INSERT INTO fuzz.outcome
		SELECT pg_backend_pid(), t.name, t.role, u.code, u.n, u.example
		FROM unnest(got.codes, got.counts, got.examples) u (code, n, example);
		DELETE FROM order_idempotency.lifecycle;
		COMMIT;
		done := done + 50;
	END LOOP;
END
$$;
