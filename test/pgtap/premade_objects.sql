-- Promise 9: what somebody made before an administrator creates or updates the extension is
-- neither taken over nor run: a schema order_idempotency, objects in it, and functions,
-- operators and types that lie in the search_path.
--
-- Bugs that this catches, planted and seen to fail: a check of the schema that itself resolves an
-- operator in it; a schema that others may create objects in; CREATE OR REPLACE of what is not
-- the extension's.
BEGIN;
\ir lib/tools.psql
SET LOCAL client_min_messages = warning;
SELECT plan(34);

CREATE ROLE hostile;
CREATE SCHEMA evil AUTHORIZATION hostile;

-- Traps, as hostile, in a schema: whatever runs one ends with ZZ666.
CREATE PROCEDURE pg_temp.set_traps(place text) LANGUAGE plpgsql AS $$
DECLARE
	types text[];
	name text;
BEGIN
	SET LOCAL ROLE hostile;
	EXECUTE format('SET LOCAL search_path = %I, pg_catalog', place);
	CREATE FUNCTION trap() RETURNS boolean LANGUAGE plpgsql AS $t$BEGIN RAISE 'trapped' USING ERRCODE = 'ZZ666'; END$t$;
	FOREACH types SLICE 1 IN ARRAY ARRAY[['oid', 'oid'], ['oid', 'regnamespace'], ['regnamespace', 'oid'], ['name', 'name'], ['name', 'text'],
		['text', 'text'], ['"char"', '"char"'], ['int4', 'int4'], ['int8', 'int8'], ['int2', 'int4'], ['oid', 'regclass'],
		['oid', 'int4'], ['regtype', 'oid'], ['bool', 'bool'], ['aclitem', 'aclitem'], ['int8', 'int4']] LOOP
		EXECUTE format('CREATE FUNCTION trapped(%s, %s) RETURNS boolean LANGUAGE sql AS ''SELECT trap()''', types[1], types[2]);
		FOREACH name IN ARRAY ARRAY['=', '<>', '<', '>', '||', '~'] LOOP
			EXECUTE format('CREATE OPERATOR %s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = trapped)', name, types[1], types[2]);
		END LOOP;
	END LOOP;
	FOREACH name IN ARRAY ARRAY['now() RETURNS timestamptz', 'format(text, regtype) RETURNS text', 'format(text, name, name, text) RETURNS text',
		'nextval(text) RETURNS bigint', 'gen_random_uuid() RETURNS uuid', 'current_setting(text) RETURNS text', 'octet_length(text) RETURNS int',
		'col_description(oid, smallint) RETURNS text', 'pg_extension_config_dump(text, text) RETURNS void'] LOOP
		EXECUTE format('CREATE FUNCTION %s LANGUAGE plpgsql AS ''BEGIN PERFORM trap(); END''', name);
	END LOOP;
	CREATE DOMAIN jsonb AS text CHECK (trap());
	CREATE TYPE uuid AS (x int);
	RESET search_path;
	RESET ROLE;
END
$$;

DROP EXTENSION order_idempotency;
SELECT has_schema('order_idempotency', 'a schema stays when the extension is dropped');
DROP SCHEMA order_idempotency;

-- A schema of somebody else's.
CREATE SCHEMA order_idempotency AUTHORIZATION hostile;
SELECT is((e).code || ' ' || (e).message, '42501 schema "order_idempotency" belongs to another role', 'another role''s schema')
FROM pg_temp.ending('CREATE EXTENSION order_idempotency') e;
CALL pg_temp.set_traps('order_idempotency');
SELECT is((e).code, '42501', 'full of traps') FROM pg_temp.ending('CREATE EXTENSION order_idempotency') e;
SELECT is((e).code, '42501', 'its version 1.0 too') FROM pg_temp.ending('CREATE EXTENSION order_idempotency VERSION ''1.0''') e;
-- given to the administrator, with all that is in it
ALTER SCHEMA order_idempotency OWNER TO CURRENT_USER;
SELECT is((e).code || ' ' || (e).message, '55000 schema "order_idempotency" is not empty', 'one that was given away')
FROM pg_temp.ending('CREATE EXTENSION order_idempotency') e;
DROP SCHEMA order_idempotency CASCADE;

-- One of the administrator's, which others may create objects in.
CREATE SCHEMA order_idempotency;
GRANT CREATE, USAGE ON SCHEMA order_idempotency TO hostile;
SELECT is((e).code || ' ' || (e).message, '42501 other roles may create objects in schema "order_idempotency"', 'CREATE for another role')
FROM pg_temp.ending('CREATE EXTENSION order_idempotency') e;
CALL pg_temp.set_traps('order_idempotency');
SELECT is((e).code, '42501', 'who set traps') FROM pg_temp.ending('CREATE EXTENSION order_idempotency') e;
REVOKE ALL ON SCHEMA order_idempotency FROM hostile;
SELECT is((e).code || ' ' || (e).message, '55000 schema "order_idempotency" is not empty', 'and may set no more')
FROM pg_temp.ending('CREATE EXTENSION order_idempotency') e;
DROP SCHEMA order_idempotency CASCADE;
CREATE SCHEMA order_idempotency;
GRANT CREATE ON SCHEMA order_idempotency TO PUBLIC;
SELECT is((e).code, '42501', 'CREATE for everybody') FROM pg_temp.ending('CREATE EXTENSION order_idempotency') e;
REVOKE CREATE ON SCHEMA order_idempotency FROM PUBLIC;
-- nothing is left but one thing of one kind
CREATE TEMPORARY TABLE kinds (made text);
INSERT INTO kinds VALUES
	('CREATE TABLE order_idempotency.x (x int)'),
	('CREATE VIEW order_idempotency.orders AS SELECT 1'),
	('CREATE SEQUENCE order_idempotency.in_use'),
	('CREATE FUNCTION order_idempotency.claim_key() RETURNS int LANGUAGE sql AS ''SELECT 1'''),
	('CREATE TYPE order_idempotency.claim_result AS ENUM ()'),
	('CREATE DOMAIN order_idempotency.text AS pg_catalog.text'),
	('CREATE OPERATOR order_idempotency.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = oideq)');
SELECT is((e).code, '55000', made) FROM kinds CROSS JOIN LATERAL (SELECT pg_temp.ending(made || '; CREATE EXTENSION order_idempotency') AS e) x;
SELECT is((e).code, '0A000', 'no other schema will do') FROM pg_temp.ending('CREATE EXTENSION order_idempotency SCHEMA evil') e;

-- With traps first in the search_path of who creates it.
CALL pg_temp.set_traps('evil');
CREATE FUNCTION pg_temp.ending_among_traps(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_catalog.set_config('search_path', 'evil, pg_catalog, public', true);
	EXECUTE statement;
	PERFORM pg_catalog.set_config('search_path', 'public', true);
	RETURN '00000';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT is(pg_temp.ending_among_traps($$SELECT 1 WHERE 'a'::pg_catalog.text = 'b'::pg_catalog.text$$), 'ZZ666', 'the traps work');
SELECT is(pg_temp.ending_among_traps('CREATE EXTENSION order_idempotency'), '00000', 'traps first in the search_path');
SELECT is_empty($$
	SELECT pg_describe_object(d.classid, d.objid, d.objsubid), pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
	FROM pg_depend d
		CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) o
		CROSS JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) r
	WHERE o.schema = 'order_idempotency' AND r.schema = 'evil'
	$$, 'nothing of the extension refers to one');
SELECT is(typnamespace::regnamespace::text, 'pg_catalog', format('%s.%s is of the server''s type', attrelid::regclass, attname))
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE (attrelid, attname) IN (('order_idempotency.orders'::regclass, 'payload'), ('order_idempotency.claims_0'::regclass, 'key_hash'));
SELECT is((SELECT outcome FROM order_idempotency.create_order('o', 1, 'EUR', 'alice')), 'created', 'it works');

-- An update.
DROP EXTENSION order_idempotency;
SELECT is((pg_temp.ending('CREATE EXTENSION order_idempotency VERSION ''1.0''')).code, '00000', 'the version before');
GRANT CREATE, USAGE ON SCHEMA order_idempotency TO hostile;
CREATE TEMPORARY TABLE premade (made text);
INSERT INTO premade VALUES
	('CREATE FUNCTION order_idempotency.alter_subscription(name text, server text = NULL, event_types text[] = NULL, topic text = NULL, options jsonb = NULL) RETURNS void LANGUAGE sql AS '''''),
	('CREATE FUNCTION order_idempotency.library_version() RETURNS text LANGUAGE sql AS ''SELECT ''''mine'''' '''),
	('CREATE TABLE order_idempotency.installation (id uuid)'),
	('CREATE VIEW order_idempotency.claim_stats AS SELECT 1 AS x'),
	('CREATE SEQUENCE order_idempotency.in_use');
-- while hostile may create objects, and when he may no more
SELECT is((pg_temp.ending('ALTER EXTENSION order_idempotency UPDATE')).code, '42501', 'no update while others may create objects');
SELECT is(pg_temp.ending_as('hostile', made), '00000', made) FROM premade;
REVOKE CREATE ON SCHEMA order_idempotency FROM hostile;
SELECT is(substr((pg_temp.ending('ALTER EXTENSION order_idempotency UPDATE')).code, 1, 2), '42', 'what is there is not taken over');
SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p WHERE p.proowner = 'hostile'::regrole AND p.pronamespace = 'order_idempotency'::regnamespace
	  AND EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
	$$, 'nor a member of the extension');
DROP OWNED BY hostile CASCADE;
SELECT is((pg_temp.ending('ALTER EXTENSION order_idempotency UPDATE')).code, '00000', 'without them it is updated');
SELECT is((SELECT outcome FROM order_idempotency.create_order('u', 1, 'EUR', 'alice')), 'created', 'and works');

SELECT * FROM finish();
ROLLBACK;
