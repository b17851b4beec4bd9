-- Statistics of calls, and of keys that are retried: what a monitor sees, and
-- that times and bounds are kept.  What happens to them in the course of the
-- server's life is in test/t/120_stats.pl.
--
-- Bugs that this catches: minutes that do not pass; a hot key that many others
-- push out; a number that is too low or says too much of its exactness.
BEGIN;
\ir lib/tools.psql
SELECT plan(31);

CREATE FUNCTION pg_temp.ratios(at interval) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s %s/%s', source, minutes, retries, firsts), ', ' ORDER BY source, minutes)
	FROM order_idempotency.retry_counts(statement_timestamp() + at) WHERE firsts + retries > 0
$$;

SELECT is((SELECT count(*) FROM order_idempotency.retry_ratio), 6::bigint, 'a row for each span of claims and of orders');
SELECT is_empty('SELECT FROM order_idempotency.retry_ratio WHERE firsts <> 0 OR retries <> 0 OR ratio IS NOT NULL',
				'nothing at first');
SELECT is_empty('SELECT FROM order_idempotency.hot_keys', 'no key is hot');

SELECT lives_ok($$
	SELECT order_idempotency.claim_key(k) FROM unnest(ARRAY['a', 'b', 'b', 'c', 'c', 'c']) k;
	SELECT order_idempotency.claim_key('c', scope => 'inbox');
	SELECT order_idempotency.claim_key('c', scope => 'inbox');
	SELECT order_idempotency.create_order(k, 1, 'EUR') FROM unnest(ARRAY['o', 'o', 'o', 'p', 'b', 'b']) k;
	SELECT order_idempotency.cancel_order('o');
	SELECT order_idempotency.cancel_order('o');
	SELECT order_idempotency.cancel_order('t', if_missing => 'tombstone');
	SELECT order_idempotency.create_order('p', 2, 'EUR', on_conflict => 'report');
	SELECT order_idempotency.transition_order('p', 'completed', on_conflict => 'report');
	$$, 'calls of all kinds');
SELECT pg_temp.rows_are('SELECT source, minutes, firsts, retries, round(ratio::numeric, 2) FROM order_idempotency.retry_ratio',
	$$VALUES ('claims', 1, 4, 4, 1.00), ('claims', 5, 4, 4, 1.00), ('claims', 60, 4, 4, 1.00),
			 ('orders', 1, 5, 4, 0.80), ('orders', 5, 5, 4, 0.80), ('orders', 60, 5, 4, 0.80)$$,
	'retries and firsts; a mismatch and what is illegal are neither');
SELECT is(pg_temp.ratios('2 min'), 'claims 5 4/4, claims 60 4/4, orders 5 4/5, orders 60 4/5', 'after two minutes the last is over');
SELECT is(pg_temp.ratios('6 min'), 'claims 60 4/4, orders 60 4/5', 'after six the last five');
SELECT is(pg_temp.ratios('59 min'), 'claims 60 4/4, orders 60 4/5', 'an hour less a minute is within the hour');
SELECT is(pg_temp.ratios('61 min'), NULL, 'after an hour all is');
SELECT is(pg_temp.ratios('-1 min'), NULL, 'and a minute ago there was nothing');
SELECT lives_ok(format('SELECT FROM order_idempotency.retry_counts(%1$L), order_idempotency.retried_keys(%1$L)', t), 'at ' || t)
FROM unnest(ARRAY['-infinity', 'infinity', '1000-01-01']) t;

SELECT pg_temp.rows_are('SELECT source, scope, key, retries, overcount FROM order_idempotency.hot_keys
						 ORDER BY retries DESC, source, scope, key', $$
	VALUES ('orders', NULL, 'o', 3, 0), ('claims', 'default', 'c', 2, 0), ('claims', 'default', 'b', 1, 0),
		   ('claims', 'inbox', 'c', 1, 0), ('orders', NULL, 'b', 1, 0)$$, 'retried keys, by what they are keys of');
SELECT is((SELECT array_agg(key) FROM (SELECT key FROM order_idempotency.hot_keys LIMIT 2) k), ARRAY['o', 'c'],
		  'the most retried first');
SELECT is_empty($$SELECT FROM order_idempotency.hot_keys WHERE last_retry_at NOT BETWEEN now() AND clock_timestamp()$$,
				'and when they last were');
SELECT is((SELECT count(*) FROM order_idempotency.hot_keys h, order_idempotency.retried_keys(h.last_retry_at + '1 hour') WHERE h.key = 'o'), 5::bigint, 'the hour before is shown, too');
SELECT is((SELECT count(*) FROM order_idempotency.hot_keys h, order_idempotency.retried_keys(h.last_retry_at + '2 hours') WHERE h.key = 'o'), 0::bigint, 'but not the one before that');

-- One key in twenty calls, among a thousand that come twice: whatever order they come in.
SELECT order_idempotency.reset_stats();
SELECT is_empty('SELECT FROM order_idempotency.hot_keys', 'a reset forgets keys');
SELECT is(pg_temp.ratios('0'), NULL, 'and rates');
SELECT lives_ok($$
	SELECT order_idempotency.claim_key(CASE WHEN i % 20 = 7 THEN 'hot' ELSE 'cold ' || i / 2 END) FROM generate_series(1, 2000) i
	$$, 'many keys');
SELECT is((SELECT count(*) FROM order_idempotency.hot_keys), 64::bigint, 'as many are kept as can be');
SELECT is((SELECT key FROM order_idempotency.hot_keys LIMIT 1), 'hot', 'the hot one is the first');
SELECT ok((SELECT retries >= 99 AND retries - overcount <= 99 FROM order_idempotency.hot_keys WHERE key = 'hot'),
		  'its number is within what it is said to be exact to');
SELECT is_empty($$SELECT FROM order_idempotency.hot_keys WHERE key <> 'hot' AND retries - overcount > 1$$,
				'so is that of every other');

-- Long names.
SELECT lives_ok($$
	SELECT order_idempotency.claim_key(repeat('ä', 127), scope => repeat('€', 85)) FROM generate_series(1, 500) i
	$$, 'the longest key in the longest scope');
SELECT is((SELECT count(*) FROM order_idempotency.hot_keys WHERE key = repeat('ä', 127) AND scope = repeat('€', 21)), 1::bigint,
		  'the key is whole, the scope ends with a whole character');

-- For whom.
CREATE ROLE watcher;
SELECT order_idempotency.grant_monitor('watcher');
SELECT is(pg_temp.value_as('watcher', $$SELECT count(*) FROM order_idempotency.hot_keys, order_idempotency.retry_ratio$$), (64 * 6)::text,
		  'a monitor sees keys and rates');
SELECT is(pg_temp.ending_as('watcher', $$SELECT order_idempotency.reset_stats()$$), '42501', 'and cannot reset them');
SELECT throws_ok(format('SET order_idempotency.%s', s), '55P02', NULL, 'no session sets ' || s)
FROM unnest(ARRAY['hot_keys = off', 'log_duplicates = 1']) s;
SELECT * FROM finish();
ROLLBACK;
