-- Promise 1 for callers who pass NULL for what they were not given, as wrappers and
-- drivers do: where an argument has a default, NULL means the default, and the call is
-- the same as the one without the argument.
--
-- Bugs that this catches, each of which was planted: refusing it; another scope for it;
-- "report" or "tombstone" for it.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(17);

SELECT is(outcome, 'claimed', 'claim_key: a null scope') FROM claim_key('k', scope => NULL);
SELECT is(outcome, 'replayed', 'is the default one') FROM claim_key('k');
SELECT is(outcome, 'replayed', 'by its name, too') FROM claim_key('k', scope => 'default');
SELECT is(outcome, 'claimed', 'all null') FROM claim_key('l', NULL, NULL, NULL);
SELECT is((SELECT count(*) FROM claims), 2::bigint, 'those are two claims');
SELECT is(outcome, 'claimed', 'one with a lease') FROM claim_key('m', scope => NULL, lease => '1 hour');
SELECT is((SELECT scope FROM claims WHERE key = 'm'), 'default', 'is stored with the scope''s name');
SELECT is(extend_key('m', '2 hours', NULL, 1), 'extended', 'extend_key');
SELECT is(release_key('m', NULL, 1), 'released', 'release_key');
SELECT is(outcome || attempt, 'claimed2', 'and again') FROM claim_key('m', lease => '1 hour');
SELECT is(complete_key('m', NULL, NULL, 2), 'completed', 'complete_key');

SELECT is(outcome, 'created', 'create_order: all null') FROM create_order('o', 1, 'EUR', NULL, NULL, NULL, NULL, NULL);
SELECT throws_ok($$SELECT create_order('o', 2, 'EUR', on_conflict => NULL)$$, 'OI001', NULL, 'a conflict is an error');
SELECT throws_ok($$SELECT transition_order('o', 'completed', NULL, NULL, NULL, NULL)$$, 'OI003', NULL,
				 'transition_order: so is an illegal change');
SELECT throws_ok($$SELECT cancel_order('none', NULL, NULL, NULL, NULL, NULL)$$, 'OI004', NULL,
				 'cancel_order: so is an unknown order');
SELECT is_empty($$SELECT FROM orders WHERE key = 'none'$$, 'which leaves no tombstone');
SELECT is(outcome, 'cancelled', 'a known one is cancelled') FROM cancel_order('o', NULL, NULL, NULL, NULL, NULL);

SELECT * FROM finish();
ROLLBACK;
