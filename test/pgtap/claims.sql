-- Promise 1, one winner, for claims without a lease: the first call does the
-- work, every later one gets its result; what counts as the same request is
-- what jsonb calls equal.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(84);

-- The first call, and the ones after it.
SELECT is(outcome, 'claimed', 'first: claimed') FROM claim_key('a', '{"n": 1}');
SELECT is(outcome, 'replayed', 'again: replayed') FROM claim_key('a', '{"n": 1}');
SELECT is(response, NULL, 'not completed: no response') FROM claim_key('a', '{"n": 1}');
SELECT is(complete_key('a', '{"r": [1, 2]}'), 'completed', 'completed');
SELECT is(response, '{"r": [1, 2]}', 'the response is what was stored') FROM claim_key('a', '{"n": 1}');
SELECT is(complete_key('a', '{"r": 3}'), 'replayed', 'completed again: replayed');
SELECT is(response, '{"r": [1, 2]}', 'and the first response stands') FROM claim_key('a', '{"n": 1}');
SELECT is(outcome, 'mismatch', 'another request: mismatch') FROM claim_key('a', '{"n": 2}');
SELECT is(response, NULL, 'which is not told the response') FROM claim_key('a', '{"n": 2}');
SELECT is(outcome, 'replayed', 'and changes nothing') FROM claim_key('a', '{"n": 1}');

-- The columns.
SELECT is(attempt, 1, 'claimed: attempt 1') FROM claim_key('b');
SELECT is(attempt, 1, 'replayed: the attempt that stands') FROM claim_key('b');
SELECT ok(claimed_at BETWEEN now() AND clock_timestamp(), 'claimed_at is the time of the claim') FROM claim_key('b2');
SELECT is(lease_until, NULL, 'without a lease none ends') FROM claim_key('b3');
CREATE TEMPORARY TABLE first_time AS SELECT claimed_at FROM claim_key('b4');
SELECT is(claimed_at, (SELECT f.claimed_at FROM first_time f), 'replayed: the time of the first claim')
FROM claim_key('b4');

-- Unknown claims.
SELECT is(complete_key('nobody'), 'unknown', 'complete_key of what nobody claimed: unknown');
SELECT is(complete_key('nobody', attempt => 1), 'unknown', 'with an attempt too');
SELECT is(extend_key('nobody', '1 s', 'default', 1), 'unknown', 'extend_key: unknown');
SELECT is(release_key('nobody'), 'unknown', 'release_key: unknown');
SELECT is(outcome, 'claimed', 'and none of them makes a claim') FROM claim_key('nobody');

-- Scopes are separate.
SELECT is(outcome, 'claimed', 'one scope') FROM claim_key('s', scope => 'one');
SELECT is(outcome, 'claimed', 'another scope') FROM claim_key('s', scope => 'two');
SELECT is(outcome, 'claimed', 'the default scope') FROM claim_key('s');
SELECT is(outcome, 'replayed', 'which is called default') FROM claim_key('s', scope => 'default');
SELECT is(complete_key('s', '1', 'two'), 'completed', 'completed in one of them');
SELECT is(response, NULL, 'is not completed in the other') FROM claim_key('s', scope => 'one');
-- a boundary between scope and key that a careless hash would lose
SELECT is(outcome, 'claimed', 'scope ab, key c') FROM claim_key('c', scope => 'ab');
SELECT is(outcome, 'claimed', 'scope a, key bc') FROM claim_key('bc', scope => 'a');
SELECT is(outcome, 'claimed', 'keys differ in case') FROM claim_key('BC', scope => 'a');
SELECT is(outcome, 'claimed', 'and in blanks at the end') FROM claim_key('bc ', scope => 'a');

-- Release.
SELECT is(outcome, 'claimed', 'claimed') FROM claim_key('r', '1');
SELECT is(release_key('r'), 'released', 'released');
SELECT is(release_key('r'), 'unknown', 'only once');
SELECT is(outcome, 'claimed', 'then it is free, for another request too') FROM claim_key('r', '2');
SELECT is(complete_key('r', '"done"'), 'completed', 'completed');
SELECT is(release_key('r'), 'stale', 'a completed claim is never released');
SELECT is(response, '"done"', 'and stands') FROM claim_key('r', '2');

-- What is the same request.  Each pair under a key of its own.
CREATE TEMPORARY TABLE pair (nr int, one jsonb, other jsonb);
INSERT INTO pair VALUES
	(1, '{"a": 1, "b": 2}', '{"b": 2.0, "a": 1.00}'),
	(2, '1', '1.0'),
	(3, '100', '1e2'),
	(4, '0', '-0.0'),
	(5, '{"a": {"c": [1, {"x": 10}], "b": null}}', '{"a": {"b": null, "c": [1.0, {"x": 1e1}]}}'),
	(6, '{"a": 1, "a": 2}', '{"a": 2}'),
	(7, '"\u0041"', '"A"'),
	(8, '{}', ' { } '),
	(9, '12345678901234567890.12345678900', '12345678901234567890.123456789');
SELECT is((SELECT outcome FROM claim_key('same ' || nr, one)), 'claimed', 'pair ' || nr || ': claimed') FROM pair;
SELECT is((SELECT outcome FROM claim_key('same ' || nr, other)), 'replayed', format('%s is %s', one, other)) FROM pair;
SELECT is_empty('SELECT nr FROM pair WHERE one <> other', 'jsonb says so too');

TRUNCATE pair;
INSERT INTO pair VALUES
	(1, '1', '"1"'),
	(2, 'true', '"true"'),
	(3, 'null', '"null"'),
	(4, '[]', '{}'),
	(5, '[1, 2]', '[2, 1]'),
	(6, '[[1], 2]', '[[1, 2]]'),
	(7, '{"a": 1}', '{"a": 1, "b": null}'),
	(8, '{"a": {"b": 1}}', '{"a": "b", "b": 1}'),
	(9, '["ab", "c"]', '["a", "bc"]'),
	(10, '1', '[1]'),
	(11, '""', 'null'),
	(12, '0.1', '0.10000000000000000001'),
	(13, 'false', '0'),
	(14, '{"": 1}', '{}'),
	(15, '"\u00e9"', '"e\u0301"');
SELECT is((SELECT string_agg(DISTINCT c.outcome, ' ') FROM pair, claim_key('differs ' || nr, one) c), 'claimed',
		  'fifteen more are claimed');
SELECT is((SELECT outcome FROM claim_key('differs ' || nr, other)), 'mismatch', format('%s is not %s', one, other)) FROM pair;

-- NULL on either side is not compared.
SELECT is(outcome, 'claimed', 'claimed without a request') FROM claim_key('n1');
SELECT is(outcome, 'replayed', 'any request repeats it') FROM claim_key('n1', '{"a": 1}');
SELECT is(outcome, 'replayed', 'and any other') FROM claim_key('n1', '{"a": 2}');
SELECT is(outcome, 'claimed', 'claimed with a request') FROM claim_key('n2', '{"a": 1}');
SELECT is(outcome, 'replayed', 'no request repeats it') FROM claim_key('n2');
SELECT is(outcome, 'mismatch', 'and it is still compared') FROM claim_key('n2', '{"a": 2}');
SELECT is(outcome, 'claimed', 'the JSON null is a request') FROM claim_key('n3', 'null');
SELECT is(outcome, 'mismatch', 'like any other') FROM claim_key('n3', '1');

-- The request itself is not kept.
SELECT is(outcome, 'claimed', 'claimed with something private') FROM claim_key('p', '{"card": "4111111111111111"}');
SELECT is_empty($$SELECT * FROM claims c WHERE c::text LIKE '%4111%'$$, 'which is stored nowhere');

-- A savepoint takes its claims with it.
SELECT is((pg_temp.ending($$DO 'BEGIN PERFORM order_idempotency.claim_key(''u''); RAISE division_by_zero; END'$$)).code,
		  '22012', 'claimed in a part that was rolled back');
SELECT is(outcome, 'claimed', 'that is, never claimed') FROM claim_key('u');

SELECT * FROM finish();
ROLLBACK;
