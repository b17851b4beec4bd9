--
-- Claims across transactions.  Promise 1, one winner: the first call with a
-- key does the work, later ones get its result.  Every statement outside of
-- BEGIN ... COMMIT is a transaction of its own.
--
SET search_path = order_idempotency, public;

-- Without a lease a claim lives and dies with its transaction.
BEGIN;
SELECT outcome, response, attempt, lease_until FROM claim_key('claims 1', '{"amount": 5}');
ROLLBACK;
SELECT outcome FROM claim_key('claims 1', '{"amount": 5}');		-- it was never claimed
SELECT outcome, response FROM claim_key('claims 1', '{"amount": 5}');
SELECT outcome, response FROM claim_key('claims 1', '{"amount": 5.00}');
SELECT outcome, response FROM claim_key('claims 1', '{"amount": 6}');

-- The usual way: claim, work, store the answer, commit.
BEGIN;
SELECT outcome FROM claim_key('claims 2', '{"amount": 5}');
SELECT complete_key('claims 2', '{"id": 17}');
COMMIT;
SELECT outcome, response FROM claim_key('claims 2', '{"amount": 5}');
SELECT (claim_key('claims 2', '{"amount": 5}')).response->>'id' AS id;

-- A savepoint takes back what was claimed after it, and only that.
BEGIN;
SELECT outcome FROM claim_key('claims 3');
SAVEPOINT s;
SELECT outcome FROM claim_key('claims 4');
SELECT complete_key('claims 3', '"lost"');
ROLLBACK TO SAVEPOINT s;
SELECT outcome FROM claim_key('claims 3');
SELECT outcome FROM claim_key('claims 4');
RELEASE SAVEPOINT s;
SAVEPOINT t;
SELECT outcome FROM claim_key('claims 5');
RELEASE SAVEPOINT t;
COMMIT;
SELECT k, outcome, response FROM (VALUES ('claims 3'), ('claims 4'), ('claims 5')) v(k), claim_key(k);

-- An error in between leaves the rest of the work as it is.
BEGIN;
SELECT outcome FROM claim_key('claims 6');
SAVEPOINT s;
\set VERBOSITY sqlstate
SELECT claim_key('');
ROLLBACK TO SAVEPOINT s;
SELECT claim_key(NULL);
ROLLBACK TO SAVEPOINT s;
SELECT claim_key(repeat('x', 256));
ROLLBACK TO SAVEPOINT s;
SELECT claim_key('claims 7', lease => '-1 s');
ROLLBACK TO SAVEPOINT s;
SELECT 1 / 0;
ROLLBACK TO SAVEPOINT s;
\set VERBOSITY default
SELECT complete_key('claims 6', '"done"');
COMMIT;
SELECT outcome, response FROM claim_key('claims 6');

-- With a lease the claim is there before the work is done.
SELECT outcome, attempt, lease_until > now() AS leased FROM claim_key('claims 8', '1', lease => '1 hour');
SELECT outcome, attempt, lease_until > now() AS leased FROM claim_key('claims 8', '1', lease => '1 hour');
SELECT outcome FROM claim_key('claims 8', '2', lease => '1 hour');
SELECT complete_key('claims 8', '"done"', attempt => 1);
SELECT outcome, response, attempt FROM claim_key('claims 8', '1', lease => '1 hour');

-- A lease that ends: the next one takes over, the first one is fenced off.
SELECT outcome, attempt FROM claim_key('claims 9', lease => '10 ms');
DO $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM order_idempotency.abandoned_claims WHERE key = 'claims 9') LOOP
		PERFORM pg_sleep(0.002);
	END LOOP;
END
$$;
SELECT scope, key, attempt FROM abandoned_claims WHERE key LIKE 'claims %';
SELECT outcome, attempt FROM claim_key('claims 9', lease => '1 hour');
SELECT scope, key, attempt FROM abandoned_claims WHERE key LIKE 'claims %';
SELECT complete_key('claims 9', '"first"', attempt => 1);
SELECT extend_key('claims 9', '1 hour', 'default', 1);
SELECT release_key('claims 9', attempt => 1);
SELECT complete_key('claims 9', '"second"', attempt => 2);
SELECT outcome, response, attempt FROM claim_key('claims 9');

-- A leased claim names its attempt, always.
SELECT outcome FROM claim_key('claims 10', lease => '1 hour');
SELECT complete_key('claims 10');
SELECT release_key('claims 10');
SELECT release_key('claims 10', attempt => 1);
SELECT release_key('claims 10', attempt => 1);

-- The inbox of a consumer is a scope.
SELECT outcome FROM claim_key('claims 11', scope => 'billing');
SELECT outcome FROM claim_key('claims 11', scope => 'shipping');
SELECT outcome FROM claim_key('claims 11', scope => 'billing');

-- A batch in one statement; every column comes from one and the same call.
SELECT (claim_key(k)).outcome FROM (VALUES ('claims 12'), ('claims 13'), ('claims 12')) v(k);
SELECT (c).outcome, (c).attempt, (c).lease_until IS NULL AS unleased
FROM (SELECT claim_key(k) AS c FROM (VALUES ('claims 14'), ('claims 14')) v(k)) s;
CREATE TEMPORARY TABLE expanded AS
	SELECT (claim_key(k, lease => '1 hour')).* FROM (VALUES ('claims 15'), ('claims 15')) v(k);
SELECT outcome, attempt, lease_until IS NULL AS unleased FROM expanded;
DROP TABLE expanded;

-- Ten thousand claims in one transaction, in a server with default settings.
BEGIN;
SELECT outcome, count(*) FROM generate_series(1, 10000) i, claim_key('claims many ' || i) GROUP BY 1;
SELECT outcome, count(*) FROM generate_series(1, 10000) i, claim_key('claims many ' || i) GROUP BY 1;
COMMIT;
SELECT outcome, count(*) FROM generate_series(1, 10000) i, claim_key('claims many ' || i) GROUP BY 1;
