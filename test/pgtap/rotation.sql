-- The key store's interface (promises 1, 8 and 9): what rotate_keys does and
-- refuses, what view key_store shows, that view claims shows what is kept and
-- nothing else.  Not in a transaction block: rotate_keys commits.
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(42);

-- Before the first claim nothing is noted: a restore may be under way.
CALL rotate_keys('0');
SELECT is_empty('SELECT * FROM generations', 'nothing is noted before the database is in use');
SELECT pg_temp.rows_are('SELECT generation, slot, keys, started_at, ended_at, kept_until FROM key_store',
	'VALUES (1, 0, 0, NULL, NULL, NULL)', 'key_store: one generation, whose beginning nobody knows');
SELECT is(key_retention(), '7 days', 'claims are kept for a week');

-- What it takes.
SELECT throws_ok($$CALL rotate_keys('-1 s')$$, '22023', 'retention must not be negative', 'retention is not negative');
SELECT throws_ok($$CALL rotate_keys()$$, '25001', 'rotate_keys() cannot run inside a transaction block',
	'it is not for functions');
SELECT throws_ok($$SELECT rotate_keys()$$, '42809', NULL, 'nor is it one');

-- A generation begins when the one before is old enough.
SELECT is(outcome, 'claimed', 'a claim') FROM claim_key('a');
SELECT is(outcome, 'claimed', 'one with a lease, which is over soon') FROM claim_key('late', lease => '1 ms');
CALL rotate_keys();
SELECT pg_temp.rows_are('SELECT generation, slot, started_at <= now(), ended_at, kept_until FROM key_store',
	'VALUES (1, 0, true, NULL, NULL)', 'the first generation is noted when it is first looked at');
CALL rotate_keys();
SELECT is((SELECT max(generation) FROM generations WHERE store = 'claims'), 1::bigint, 'it is too young to be followed');
CALL rotate_keys('1 hour');
SELECT is((SELECT max(generation) FROM generations WHERE store = 'claims'), 1::bigint, 'also by an hour');
UPDATE generations SET started_at = now() - interval '7 days' WHERE store = 'claims';
CALL rotate_keys();
SELECT pg_temp.rows_are($$SELECT generation, slot, started_at > now() - interval '1 hour', ended_at IS NOT NULL, kept_until - ended_at FROM key_store ORDER BY generation$$,
	$$VALUES (1, 0, false, true, interval '7 days'), (2, 1, true, false, NULL)$$, 'after a week it is');
SELECT is(outcome, 'replayed', 'what it has is known') FROM claim_key('a');
SELECT is(outcome, 'claimed', 'new claims') FROM claim_key('b');
SELECT is((SELECT count(*) FROM claims_1), 1::bigint, 'are in the next one');

-- The estimate and the bytes are those of the statistics and of the files.
SELECT pg_stat_force_next_flush();
SELECT is((SELECT sum(keys) FROM key_store), 3::numeric, 'there are three keys');
SELECT is((SELECT bytes FROM key_store WHERE slot = 1), pg_total_relation_size('claims_1'), 'in files of this size');

-- It expires when it was kept for long enough; two rotations later by then.
CALL rotate_keys();
SELECT is((SELECT min(generation) FROM generations WHERE store = 'claims'), 1::bigint, 'it is kept');
UPDATE generations SET ended_at = now() - interval '6 days 23 hours' WHERE store = 'claims' AND generation = 1;
CALL rotate_keys();
SELECT is((SELECT min(generation) FROM generations WHERE store = 'claims'), 1::bigint, 'up to the last hour');
UPDATE generations SET ended_at = now() - interval '7 days' WHERE store = 'claims' AND generation = 1;
CALL rotate_keys();
SELECT pg_temp.rows_are('SELECT generation, slot FROM key_store', 'VALUES (2, 1)', 'then it expires');
SELECT is(pg_relation_size('claims_0'), 0::bigint, 'and its table is empty');
SELECT is(outcome, 'claimed', 'its keys are as new') FROM claim_key('a');
SELECT is_empty('SELECT * FROM abandoned_claims', 'what was abandoned is forgotten');
SELECT is(outcome || ' ' || attempt, 'claimed 1', 'its attempts too') FROM claim_key('late');

-- By hand: less than the setting.
CALL rotate_keys('0');
CALL rotate_keys('0');
SELECT pg_temp.rows_are('SELECT generation, slot FROM key_store ORDER BY generation', 'VALUES (3, 0), (4, 1)',
	'rotate_keys(0) forgets all but the last two');
SELECT is(outcome, 'claimed', 'whatever they have') FROM claim_key('b');

-- A lease that runs is never forgotten.
SELECT is(outcome, 'claimed', 'an hour is leased') FROM claim_key('working', lease => '1 hour');
CALL rotate_keys('0');
CALL rotate_keys('0');
CALL rotate_keys('0');
SELECT is((SELECT min(generation) FROM generations WHERE store = 'claims'), 4::bigint, 'its generation is kept');
SELECT is(outcome, 'in_progress', 'and the lease with it') FROM claim_key('working', lease => '1 hour');
SELECT is(release_key('working', attempt => 1), 'released', 'it is given back');
CALL rotate_keys('0');
SELECT is((SELECT min(generation) FROM generations WHERE store = 'claims'), 7::bigint, 'its generation goes');
SELECT is(outcome || ' ' || attempt, 'claimed 2', 'the attempts are counted on') FROM claim_key('working', lease => '1 s');

-- A slot that is not on the list has rows, as a restore could leave them: they do not
-- count, and they are gone before anything begins there.
SELECT 'claims_' || min(slot) AS free FROM generate_series(0, 3) slot
WHERE slot NOT IN (SELECT g.slot FROM generations g WHERE g.store = 'claims') \gset
INSERT INTO :free (key_hash, claimed_at, lease_until, attempt, scope, key)
SELECT gen_random_uuid(), now(), now() - interval '1 s', 1, 'default', 'stray ' || i FROM generate_series(1, 10) i;
SELECT is_empty($$SELECT * FROM claims WHERE key LIKE 'stray%'$$, 'rows of a slot that is not in use are no claims');
SELECT is_empty($$SELECT * FROM abandoned_claims WHERE key LIKE 'stray%'$$, 'nor abandoned ones');
SELECT is((SELECT count(*) FROM key_store WHERE generation IS NULL AND bytes > 0), 1::bigint, 'key_store shows their space');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT is(outcome, 'claimed', 'SERIALIZABLE looks there and claims') FROM claim_key('serial');
COMMIT;
CALL rotate_keys();
SELECT is_empty('SELECT * FROM key_store WHERE generation IS NULL', 'they are removed');

-- Who may, and how the session is set, is all the same to it.
CREATE ROLE rotation_operator;
SELECT grant_operator('rotation_operator');
CREATE ROLE rotation_nobody;
GRANT USAGE ON SCHEMA order_idempotency TO rotation_nobody;
SET ROLE rotation_nobody;
SELECT is((pg_temp.ending('CALL order_idempotency.rotate_keys()')).code, '42501', 'it takes EXECUTE');
SET ROLE rotation_operator;
SET default_transaction_isolation = 'serializable';
SET synchronous_commit = on;
CALL rotate_keys('0');
SELECT is((SELECT max(generation) FROM generations WHERE store = 'claims'), 9::bigint, 'an operator rotates, at any isolation level');
SELECT is(current_user || ' ' || current_setting('synchronous_commit'), 'rotation_operator on', 'and remains who he is');
SET default_transaction_read_only = on;
\set ON_ERROR_STOP off
CALL rotate_keys('0');
\set sqlstate :SQLSTATE
\set ON_ERROR_STOP on
SET default_transaction_read_only = off;
RESET default_transaction_isolation;
RESET ROLE;
SELECT is(:'sqlstate'::text, '25006', 'a session that is read-only does not rotate');
SELECT is((SELECT max(generation) FROM generations WHERE store = 'claims'), 9::bigint, 'nothing has begun');
DROP OWNED BY rotation_operator, rotation_nobody;
DROP ROLE rotation_operator, rotation_nobody;

SELECT * FROM finish();
