-- Promise 1, one winner, for claims with a lease: between claim and completion
-- others wait their turn; after the lease the next one gets attempt + 1, and
-- the first can no longer finish what it began (fencing).  Every statement
-- here commits by itself, as it does around a call to a payment provider.
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(75);

-- One attempt.
SELECT is(outcome, 'claimed', 'claimed') FROM claim_key('a', '{"n": 1}', lease => '1 hour');
SELECT is(outcome, 'in_progress', 'others: in_progress') FROM claim_key('a', '{"n": 1}', lease => '1 hour');
SELECT is(outcome, 'in_progress', 'with or without a lease') FROM claim_key('a', '{"n": 1}');
SELECT is(outcome, 'mismatch', 'another request: mismatch') FROM claim_key('a', '{"n": 2}', lease => '1 hour');
SELECT is(attempt, 1, 'in_progress: the attempt at work') FROM claim_key('a', '{"n": 1}');
SELECT is(response, NULL, 'in_progress: no response') FROM claim_key('a', '{"n": 1}');
SELECT ok(lease_until BETWEEN now() + '59 minutes' AND now() + '1 hour', 'in_progress: when to come back')
FROM claim_key('a', '{"n": 1}');
SELECT throws_ok($$SELECT complete_key('a', '"x"')$$, '22004', NULL, 'complete_key without the attempt');
SELECT throws_ok($$SELECT release_key('a')$$, '22004', NULL, 'release_key without the attempt');
SELECT is(complete_key('a', '"x"', attempt => 2), 'stale', 'an attempt that is not at work: stale');
SELECT is(extend_key('a', '1 hour', 'default', 2), 'stale', 'extend_key: stale');
SELECT is(release_key('a', attempt => 2), 'stale', 'release_key: stale');
SELECT is(outcome, 'in_progress', 'none of which changed anything') FROM claim_key('a');
SELECT is(complete_key('a', '"done"', attempt => 1), 'completed', 'completed by its attempt');
SELECT is(outcome, 'replayed', 'then: replayed') FROM claim_key('a', '{"n": 1}', lease => '1 hour');
SELECT is(response, '"done"', 'with the response') FROM claim_key('a', '{"n": 1}');
SELECT is(outcome, 'mismatch', 'and still compared') FROM claim_key('a', '{"n": 2}');
SELECT is(complete_key('a', '"late"', attempt => 1), 'replayed', 'completed again: replayed');
SELECT is(response, '"done"', 'the first response stands') FROM claim_key('a');
SELECT is(release_key('a', attempt => 1), 'stale', 'a completed claim is never released');
SELECT is(extend_key('a', '1 hour', 'default', 1), 'stale', 'nor extended');
SELECT is(outcome, 'replayed', 'it stays completed') FROM claim_key('a');

-- A lease that ends.
SELECT is(outcome, 'claimed', 'a short lease') FROM claim_key('b', '{"n": 1}', lease => '20 ms');
SELECT ok(pg_temp.wait_until($$clock_timestamp() > (SELECT lease_until FROM order_idempotency.claims WHERE key = 'b')$$),
		  'it ends');
SELECT pg_temp.rows_are($$SELECT scope::text, key::text, attempt FROM abandoned_claims$$, $$VALUES ('default', 'b', 1)$$,
				  'abandoned_claims shows it, and it alone');
SELECT is(outcome, 'mismatch', 'another request is a mismatch even then') FROM claim_key('b', '{"n": 2}', lease => '1 hour');
CREATE TEMPORARY TABLE second AS SELECT * FROM claim_key('b', '{"n": 1}', lease => '1 hour');
SELECT is(outcome, 'claimed', 'the next one gets it') FROM second;
SELECT is(attempt, 2, 'as attempt 2') FROM second;
SELECT ok(lease_until BETWEEN now() + '59 minutes' AND now() + '1 hour', 'with a lease of its own') FROM second;
SELECT is_empty('SELECT * FROM abandoned_claims', 'it is no longer abandoned');
SELECT is(complete_key('b', '"first"', attempt => 1), 'stale', 'the first attempt cannot complete it');
SELECT is(extend_key('b', '1 hour', 'default', 1), 'stale', 'nor extend it');
SELECT is(release_key('b', attempt => 1), 'stale', 'nor release it');
SELECT is(outcome, 'in_progress', 'the second is at work') FROM claim_key('b', '{"n": 1}');
SELECT is(complete_key('b', '"second"', attempt => 2), 'completed', 'and completes it');
SELECT is(complete_key('b', '"first"', attempt => 1), 'stale', 'after which the first is still stale');
SELECT is(response, '"second"', 'the response is the second''s') FROM claim_key('b', '{"n": 1}');
SELECT is(attempt, 2, 'and so is the attempt') FROM claim_key('b', '{"n": 1}');

-- Late, but before anyone else: the work was done by one, so it counts.
SELECT is(outcome, 'claimed', 'a short lease') FROM claim_key('c', lease => '1 ms');
SELECT ok(pg_temp.wait_until($$clock_timestamp() > (SELECT lease_until FROM order_idempotency.claims WHERE key = 'c')$$),
		  'ends before the work is done');
SELECT is(complete_key('c', '"c"', attempt => 1), 'completed', 'nobody took it over: completed');
SELECT is(response, '"c"', 'and replayed') FROM claim_key('c');

-- Extending.
SELECT is(outcome, 'claimed', 'a claim') FROM claim_key('d', lease => '10 minutes');
SELECT is(extend_key('d', '2 hours', 'default', 1), 'extended', 'extended');
SELECT ok(lease_until BETWEEN now() + '119 minutes' AND now() + '2 hours', 'from now on') FROM claim_key('d');
SELECT is(attempt, 1, 'by the same attempt') FROM claim_key('d');
SELECT is(complete_key('d', attempt => 1), 'completed', 'and completed, without a response');
SELECT is(outcome, 'replayed', 'which is replayed') FROM claim_key('d');
SELECT is(response, NULL, 'as NULL') FROM claim_key('d');

-- Releasing.
SELECT is(outcome, 'claimed', 'a claim') FROM claim_key('e', '1', lease => '1 hour');
SELECT is(release_key('e', attempt => 1), 'released', 'given back');
SELECT is(outcome, 'claimed', 'is free for the next') FROM claim_key('e', '1', lease => '1 hour');
SELECT is(release_key('e', scope => 'other', attempt => 1), 'unknown', 'a claim of another scope: unknown');

-- A claim that is taken over without a lease is done by that transaction's commit.
SELECT is(outcome, 'claimed', 'a short lease') FROM claim_key('f', lease => '1 ms');
SELECT ok(pg_temp.wait_until($$clock_timestamp() > (SELECT lease_until FROM order_idempotency.claims WHERE key = 'f')$$),
		  'that ends');
SELECT is(outcome, 'claimed', 'taken over without a lease') FROM claim_key('f');
SELECT is(outcome, 'replayed', 'is done') FROM claim_key('f');
SELECT is(complete_key('f', '"x"', attempt => 1), 'stale', 'and the first attempt is stale');

-- An unleased claim that has committed is done.
SELECT is(outcome, 'claimed', 'claimed without a lease') FROM claim_key('g', '1');
SELECT is(outcome, 'replayed', 'committed: done') FROM claim_key('g', '1');
SELECT is(outcome, 'replayed', 'also for one who asks for a lease') FROM claim_key('g', '1', lease => '1 hour');
SELECT is(release_key('g'), 'stale', 'and not to be given back');
SELECT is(complete_key('g', '"late"'), 'replayed', 'nor to be given a response');
SELECT is(response, NULL, 'it has none') FROM claim_key('g', '1');
SELECT is(outcome, 'replayed', 'it stays done') FROM claim_key('g', '1');

-- A rolled back claim was never made.
BEGIN;
SELECT claim_key('h');
SELECT claim_key('h2', lease => '1 hour');
ROLLBACK;
SELECT is(outcome, 'claimed', 'rolled back: never claimed') FROM claim_key('h');
SELECT is(outcome, 'claimed', 'with a lease too') FROM claim_key('h2', lease => '1 hour');
SELECT is(attempt, 1, 'its attempt is the first') FROM claim_key('h2');

-- Completion that is rolled back did not happen.
BEGIN;
SELECT complete_key('h2', '"x"', attempt => 1);
ROLLBACK;
SELECT is(outcome, 'in_progress', 'a completion that was rolled back: in_progress') FROM claim_key('h2');

-- Within one transaction a leased claim is in progress, as for everybody else.
BEGIN;
SELECT is(outcome, 'claimed', 'claimed') FROM claim_key('i', lease => '1 hour');
SELECT is(outcome, 'in_progress', 'and at work, also for the same transaction') FROM claim_key('i', lease => '1 hour');
SELECT is(complete_key('i', '"i"', attempt => 1), 'completed', 'completed there');
SELECT is(response, '"i"', 'replayed there') FROM claim_key('i');
COMMIT;
SELECT is(response, '"i"', 'and everywhere') FROM claim_key('i');
SELECT is_empty('SELECT * FROM abandoned_claims', 'no work was abandoned');

SELECT * FROM finish();
