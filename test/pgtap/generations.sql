-- Promise 1, one winner, whichever of its tables a claim lies in: older
-- generations are looked up, new rows go to the current one, and what is
-- completed or claimed again moves there.  The outbox is one log over its
-- tables.  (Here the owner turns the generations by hand.)
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(46);

-- How many rows each of a store's tables has.
CREATE FUNCTION pg_temp.spread(store text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	counts text[];
BEGIN
	FOR i IN 0 .. 3 LOOP
		EXECUTE format('SELECT count(*) FROM order_idempotency.%I', store || '_' || i) INTO n;
		counts := counts || n::text;
	END LOOP;
	RETURN array_to_string(counts, ' ');
END
$$;

-- A fresh database has one generation, in slot 0.
SELECT claim_key('done', '1');
SELECT claim_key('answered', '1');
SELECT complete_key('answered', '"a"');
SELECT claim_key('working', '1', lease => '1 hour');
SELECT claim_key('extended', '1', lease => '1 hour');
SELECT claim_key('given back', '1', lease => '1 hour');
SELECT claim_key('late', '1', lease => '1 ms');
SELECT ok(pg_temp.wait_until($$EXISTS (SELECT FROM order_idempotency.abandoned_claims WHERE key = 'late')$$), 'a lease is over');
SELECT create_order('o1', 100, 'EUR', 'alice');
SELECT is(pg_temp.spread('claims'), '6 0 0 0', 'claims go to slot 0');
SELECT is(pg_temp.spread('outbox'), '1 0 0 0', 'events too');

-- The next one begins, in slot 1.
INSERT INTO generations VALUES ('claims', 0, 1, now(), now()), ('claims', 1, 2, now(), NULL),
	('outbox', 0, 1, now(), now()), ('outbox', 1, 2, now(), NULL);
SELECT is(outcome, 'replayed', 'a claim of the generation before is known') FROM claim_key('done', '1');
SELECT is(outcome, 'mismatch', 'and compared') FROM claim_key('done', '2');
SELECT is(response, '"a"', 'with its response') FROM claim_key('answered', '1');
SELECT is(outcome, 'in_progress', 'one with a lease is at work') FROM claim_key('working', '1', lease => '1 hour');
SELECT is(pg_temp.spread('claims'), '6 0 0 0', 'looking moves nothing');
SELECT is(outcome, 'claimed', 'a new one') FROM claim_key('new', '1');
SELECT is(pg_temp.spread('claims'), '6 1 0 0', 'goes to the current generation');
SELECT is(outcome, 'replayed', 'where it is found') FROM claim_key('new', '1');
SELECT is(complete_key('working', '"w"', attempt => 1), 'completed', 'completing an older one');
SELECT is(pg_temp.spread('claims'), '5 2 0 0', 'moves it');
SELECT is(response, '"w"', 'with its response') FROM claim_key('working', '1');
SELECT is(outcome, 'mismatch', 'and its request') FROM claim_key('working', '2');
SELECT is(extend_key('extended', '2 hours', 'default', 1), 'extended', 'extending moves it');
SELECT is(outcome || attempt, 'claimed2', 'so does claiming it again') FROM claim_key('late', '1', lease => '1 hour');
SELECT is(pg_temp.spread('claims'), '3 4 0 0', 'both are in the current generation');
SELECT is(complete_key('late', attempt => 1), 'stale', 'where the first attempt is stale');
SELECT is(release_key('given back', attempt => 1), 'released', 'one is given back where it lies');
SELECT is(outcome, 'claimed', 'and claimed anew') FROM claim_key('given back', '2');
SELECT is(pg_temp.spread('claims'), '2 5 0 0', 'in the current one');
SELECT is((SELECT count(*) FROM claims), 7::bigint, 'no key is there twice');
SELECT is((SELECT count(DISTINCT key_hash) FROM claims), 7::bigint, 'by their hashes');

-- One order, one log.
SELECT transition_order('o1', 'paid');
SELECT is(pg_temp.spread('outbox'), '1 1 0 0', 'events go to the current generation');
SELECT emit_event('mail.sent', 'o1');
SELECT pg_temp.rows_are($$SELECT type, version FROM outbox WHERE key = 'o1' ORDER BY position$$,
				  $$VALUES ('order.created', 1), ('order.paid', 2), ('mail.sent', NULL)$$, 'the log goes on');
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

-- On to the last slot and round to the first, which has been emptied: what was not touched is forgotten.
INSERT INTO generations VALUES ('claims', 2, 3, now(), NULL);
SELECT is(outcome, 'claimed', 'a third generation') FROM claim_key('third');
INSERT INTO generations VALUES ('claims', 3, 4, now(), NULL);
SELECT is(outcome, 'claimed', 'a fourth') FROM claim_key('fourth');
SELECT is(pg_temp.spread('claims'), '2 5 1 1', 'each in its slot');
SELECT is(string_agg(outcome, ' ' ORDER BY k), 'replayed replayed replayed replayed', 'all four are looked up')
FROM unnest(ARRAY['done', 'new', 'third', 'fourth']) k, claim_key(k);
DELETE FROM generations WHERE store = 'claims' AND slot = 0;
TRUNCATE claims_0;
SELECT is(outcome, 'claimed', 'what expired is forgotten') FROM claim_key('done', '2');
SELECT is(pg_temp.spread('claims'), '0 5 1 2', 'and claimed in the current one');
SELECT is(outcome, 'replayed', 'what was completed later is not') FROM claim_key('working', '1');
INSERT INTO generations VALUES ('claims', 0, 5, now(), NULL);
SELECT is(outcome, 'claimed', 'the fifth generation') FROM claim_key('fifth');
SELECT is(pg_temp.spread('claims'), '1 5 1 2', 'is in slot 0 again');
SELECT is(string_agg(outcome, ' ' ORDER BY k), 'replayed replayed replayed replayed', 'and the older ones are looked up')
FROM unnest(ARRAY['done', 'new', 'third', 'fourth']) k, claim_key(k);
SELECT is(complete_key('extended', '"e"', attempt => 1), 'completed', 'a claim that moved before');
SELECT is(pg_temp.spread('claims'), '2 4 1 2', 'moves again');

-- A turn that is rolled back did not happen.
SELECT is((pg_temp.ending($$DO 'BEGIN
	DELETE FROM order_idempotency.generations WHERE store = ''claims'' AND slot = 1;
	INSERT INTO order_idempotency.generations VALUES (''claims'', 1, 6, now(), NULL);
	PERFORM order_idempotency.claim_key(''sixth'');
	RAISE division_by_zero; END'$$)).code, '22012', 'a turn that is rolled back');
SELECT is(outcome, 'claimed', 'with a claim in it') FROM claim_key('sixth');
SELECT is(pg_temp.spread('claims'), '3 4 1 2', 'leaves the generation before current');
SELECT is(outcome, 'replayed', 'and the others live') FROM claim_key('new');

-- What the table cannot hold.
SELECT throws_ok($$INSERT INTO generations VALUES ('claims', 4, 9, now(), NULL)$$, '23514', NULL, 'there are four slots');
SELECT throws_ok($$INSERT INTO generations VALUES ('orders', 1, 9, now(), NULL)$$, '23514', NULL, 'in two stores');
SELECT throws_ok($$INSERT INTO generations VALUES ('outbox', 3, 2, now(), NULL)$$, '23505', NULL,
				 'no two of the same generation');

SELECT * FROM finish();
ROLLBACK;
