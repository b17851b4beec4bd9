-- The hashes that claims are stored under (promises 1 and 8): over the exact bytes of
-- scope and key; in the order of time for the text of a UUIDv7 and for nothing else,
-- so that claims made together lie together in the index.  What they are is said to the
-- byte: it must stay, or claims of before are not found.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(67);

-- the first 16 bytes of the SHA-256 of scope and key, each preceded by its length
CREATE FUNCTION pg_temp.sha(key text, scope text = 'default') RETURNS text LANGUAGE sql AS $$
	SELECT substr(encode(sha256(int4send(octet_length(scope)) || convert_to(scope, 'UTF8')
								|| int4send(octet_length(key)) || convert_to(key, 'UTF8')), 'hex'), 1, 32)
	$$;
CREATE FUNCTION pg_temp.plain(key text, scope text = 'default') RETURNS uuid LANGUAGE sql AS $$
	SELECT pg_temp.sha(key, scope)::uuid
	$$;
-- the upper 32 bits of the time, and 96 bits of that
CREATE FUNCTION pg_temp.ordered(key text, scope text = 'default') RETURNS uuid LANGUAGE sql AS $$
	SELECT (substr(lower(key), 1, 8) || substr(pg_temp.sha(key, scope), 1, 24))::uuid
	$$;
-- claims a key, and says under which hash it was stored
CREATE FUNCTION pg_temp.stored(key text, scope text = 'default') RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
	before uuid[] := ARRAY(SELECT key_hash FROM order_idempotency.claims);
BEGIN
	PERFORM order_idempotency.claim_key(key, scope => scope);
	RETURN key_hash FROM order_idempotency.claims WHERE key_hash <> ALL (before);
END
$$;

SELECT is(is_called, false, 'in a new database nothing is settled') FROM time_ordered_from;
SELECT is(pg_temp.stored('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26'), pg_temp.ordered('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26'),
		  'a UUIDv7 is stored by its time');
SELECT is(last_value || ' ' || is_called, '1 true', 'the first claim has settled it for all generations') FROM time_ordered_from;
SELECT is(substr(key_hash::text, 1, 8), '0192f0c1', 'which its hash begins with') FROM claims_0;
SELECT is(outcome, 'replayed', 'and is found') FROM claim_key('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26');
SELECT is(pg_temp.stored('0192F0C1-77D1-7C3A-8A3E-C91D54B07F26'), pg_temp.ordered('0192F0C1-77D1-7C3A-8A3E-C91D54B07F26'),
		  'in capitals it is by the same time');
SELECT is((SELECT count(*) FROM claims), 2::bigint, 'and another key, as it always was');
SELECT is(pg_temp.stored('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26', 'inbox'),
		  pg_temp.ordered('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26', 'inbox'), 'the scope is hashed, too');
SELECT is(pg_temp.stored('0192f0c1-77d1-7c3a-8a3e-c91d54b07f27'), pg_temp.ordered('0192f0c1-77d1-7c3a-8a3e-c91d54b07f27'),
		  'so is the last digit');
SELECT is(pg_temp.stored('ffffffff-ffff-7fff-bfff-ffffffffffff'), pg_temp.ordered('ffffffff-ffff-7fff-bfff-ffffffffffff'),
		  'the latest of all');
SELECT is(pg_temp.stored('00000000-0000-7000-8000-000000000000'), pg_temp.ordered('00000000-0000-7000-8000-000000000000'),
		  'the earliest of all');
SELECT is(pg_temp.stored('0192f0c1-77d1-7c3a-' || v || 'a3e-c91d54b07f26'), pg_temp.ordered('0192f0c1-77d1-7c3a-' || v || 'a3e-c91d54b07f26'),
		  'variant ' || v) FROM unnest(ARRAY['9', 'a', 'B']) v;

-- Everything else, however near it comes.
SELECT is(pg_temp.stored(key), pg_temp.plain(key), what || ' is not')
FROM (VALUES
	('0192f0c1-77d1-4c3a-8a3e-c91d54b07f26', 'version 4'),
	('0192f0c1-77d1-8c3a-8a3e-c91d54b07f26', 'version 8'),
	('0192f0c1-77d1-7c3a-7a3e-c91d54b07f26', 'another variant, below'),
	('0192f0c1-77d1-7c3a-ca3e-c91d54b07f26', 'another variant, above'),
	('0192f0c177d17c3a8a3ec91d54b07f26', 'one without hyphens'),
	('0192f0c1-77d1-7c3a-8a3e-c91d54b07f2', 'one that is too short'),
	('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26 ', 'one that is too long'),
	('{0192f0c1-77d1-7c3a-8a3e-c91d54b07f26}', 'one in braces'),
	('0192f0c1-77d1-7c3a-8a3e-c91d54b07fg6', 'a letter that is no digit at the end'),
	('g192f0c1-77d1-7c3a-8a3e-c91d54b07f26', 'one at the beginning'),
	('0192f0c1-77d1-7@3a-8a3e-c91d54b07f26', 'a character before the letters'),
	('0192f0c1-77d1-7c3a-8a3e_c91d54b07f26', 'an underscore for a hyphen'),
	('0192f0c1-77d1-7c3a-8a3e-c91d54b07fé', 'a key of 36 bytes'),
	('order-1', 'any other key')) v (key, what);
SELECT is(pg_temp.stored(key), pg_temp.plain(key), 'a letter that is no digit: ' || key)
FROM generate_series(1, 36) i, overlay('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26' PLACING 'G' FROM i) key;

-- Settled is settled: a table that has been emptied makes no difference.
SELECT is(pg_temp.stored('order-2'), pg_temp.plain('order-2', 'default'), 'the next claim');
SELECT is(last_value, 1::bigint, 'settles nothing anew') FROM time_ordered_from;
SELECT is((SELECT count(*) FROM claims), (SELECT count(DISTINCT key_hash) FROM claims), 'all of them are different');

SELECT * FROM finish();
ROLLBACK;
