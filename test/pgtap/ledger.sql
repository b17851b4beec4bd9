-- Promise 2, all or nothing, for money: each change of an order with an
-- account moves what its lifecycle says, once, and the accounts add up.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(31);

SELECT is_empty('SELECT * FROM account_balance', 'no movements, no balances');

-- Each way through the built-in lifecycle.
SELECT create_order('held', 100, 'EUR', 'alice');
SELECT create_order('paid', 250, 'EUR', 'alice');
SELECT transition_order('paid', 'paid');
SELECT create_order('completed', 40, 'EUR', 'bob');
SELECT transition_order('completed', 'paid');
SELECT transition_order('completed', 'completed');
SELECT create_order('cancelled', 7, 'EUR', 'bob');
SELECT cancel_order('cancelled');
SELECT create_order('yen', 100, 'JPY', 'alice');
SELECT create_order('free', 0, 'EUR', 'alice');
SELECT create_order('none', 500, 'EUR');
SELECT transition_order('none', 'paid');

SELECT pg_temp.rows_are($$SELECT order_key, version, effect, debit_account, credit_account, amount, currency
					FROM ledger ORDER BY order_key, version$$,
	$$VALUES ('cancelled', 1, 'hold', 'bob', 'escrow', 7::bigint, 'EUR'),
			 ('cancelled', 2, 'release', 'escrow', 'bob', 7, 'EUR'),
			 ('completed', 1, 'hold', 'bob', 'escrow', 40, 'EUR'),
			 ('completed', 2, 'capture', 'escrow', 'revenue', 40, 'EUR'),
			 ('free', 1, 'hold', 'alice', 'escrow', 0, 'EUR'),
			 ('held', 1, 'hold', 'alice', 'escrow', 100, 'EUR'),
			 ('paid', 1, 'hold', 'alice', 'escrow', 250, 'EUR'),
			 ('paid', 2, 'capture', 'escrow', 'revenue', 250, 'EUR'),
			 ('yen', 1, 'hold', 'alice', 'escrow', 100, 'JPY')$$,
	'one row per movement, and none for orders without an account');
SELECT pg_temp.rows_are($$SELECT account, currency, balance FROM account_balance ORDER BY currency, account$$,
	$$VALUES ('alice', 'EUR', -350::numeric), ('bob', 'EUR', -40), ('escrow', 'EUR', 100), ('revenue', 'EUR', 290),
			 ('alice', 'JPY', -100), ('escrow', 'JPY', 100)$$,
	'account_balance: what each account holds, by currency');
SELECT is_empty($$SELECT currency FROM account_balance GROUP BY currency HAVING sum(balance) <> 0$$, 'in sum nothing');
SELECT is((SELECT l.posted_at FROM ledger l WHERE order_key = 'paid' AND version = 2),
		  (SELECT changed_at FROM get_order('paid')), 'posted when the order changed');

-- Orders without an account still have a money status, which the lifecycle is about.
SELECT is((SELECT money_status FROM get_order('none')), 'captured', 'money_status without an account');

-- Repeats, refusals and late cancellations move nothing.
CREATE TEMPORARY TABLE counts AS SELECT count(*) AS before FROM ledger;
SELECT create_order('held', 100, 'EUR', 'alice');
SELECT transition_order('paid', 'paid');
SELECT cancel_order('cancelled');
SELECT cancel_order('completed');
SELECT create_order('held', 101, 'EUR', 'alice', on_conflict => 'report');
SELECT transition_order('completed', 'cancelled', on_conflict => 'report');
SELECT cancel_order('tomb', if_missing => 'tombstone');
SELECT is((SELECT count(*) FROM ledger), before, 'repeats and refusals move nothing') FROM counts;

-- Large sums.
SELECT create_order('big' || i, 9223372036854775807, 'XXX', 'carol') FROM generate_series(1, 3) i;
SELECT is(balance, 3 * 9223372036854775807::numeric, 'balances are wider than one amount')
FROM account_balance WHERE account = 'escrow' AND currency = 'XXX';

-- A custom lifecycle with a refund.
SELECT copy_default_lifecycle();
INSERT INTO lifecycle VALUES ('paid', 'cancelled', 'order.refunded', 'refund');
SET CONSTRAINTS ALL IMMEDIATE;
SELECT is(outcome, 'cancelled', 'a paid order, cancelled with a refund') FROM cancel_order('paid', 'broken');
SELECT pg_temp.rows_are($$SELECT effect, debit_account, credit_account, amount FROM ledger WHERE order_key = 'paid' AND version = 3$$,
				  $$VALUES ('refund', 'revenue', 'alice', 250::bigint)$$, 'the money goes back from revenue');
SELECT is(balance, 40::numeric, 'revenue is what was earned') FROM account_balance
WHERE account = 'revenue' AND currency = 'EUR';
SELECT is((SELECT money_status FROM get_order('paid')), 'returned', 'returned');
SELECT is((SELECT type FROM outbox WHERE key = 'paid' AND version = 3), 'order.refunded', 'under its own event');
SELECT is((SELECT outcome FROM cancel_order('paid')), 'replayed', 'once');
SELECT is((SELECT outcome FROM cancel_order('completed')), 'ignored', 'what is completed stays');

-- Append-only, for its owner too.
SELECT throws_ok('UPDATE ledger SET amount = 1', 'OI003', NULL, 'UPDATE is refused');
SELECT throws_ok('DELETE FROM ledger', 'OI003', NULL, 'DELETE is refused');
SELECT throws_ok('TRUNCATE ledger', 'OI003', NULL, 'TRUNCATE is refused');
SELECT throws_ok('DELETE FROM ledger WHERE false', 'OI003', NULL, 'even of nothing');
SELECT throws_ok($$MERGE INTO ledger l USING (VALUES ('held')) v(k) ON l.order_key = v.k
				   WHEN MATCHED THEN UPDATE SET amount = 0$$, 'OI003', NULL, 'MERGE is refused');
CREATE UNIQUE INDEX ON ledger (order_key, version);	-- of the user's own
SELECT throws_ok($$INSERT INTO ledger SELECT * FROM ledger ON CONFLICT (order_key, version) DO UPDATE SET amount = 0$$,
				 'OI003', NULL, 'INSERT ... ON CONFLICT DO UPDATE is refused');
SELECT throws_ok($$SELECT create_order('x', 1, 'EUR', a)$$, '42703', NULL, 'a control: other errors are told apart');
SELECT isnt((pg_temp.ending('TRUNCATE ledger')).message, NULL, 'with a message');

-- Accounts are names in one book: those of the book itself cannot be used.
SELECT throws_ok(format($$SELECT create_order('x', 1, 'EUR', %L)$$, a), '22023', NULL, a || ' is reserved')
FROM unnest(ARRAY['escrow', 'revenue']) a;
SELECT is(outcome, 'created', 'names are told apart by their case') FROM create_order('x', 1, 'EUR', 'Escrow');
SELECT is_empty($$SELECT * FROM ledger WHERE debit_account = credit_account$$, 'no movement goes nowhere');
SELECT is_empty($$SELECT order_key FROM ledger WHERE effect = 'capture' GROUP BY 1 HAVING count(*) > 1$$,
				'no order was captured twice');
SELECT is_empty($$SELECT l.order_key FROM ledger l LEFT JOIN orders o ON o.key = l.order_key WHERE o.key IS NULL$$,
				'no movement is without an order');
SELECT is((SELECT count(*) FROM ledger WHERE order_key LIKE 'big%'), 3::bigint, 'each of the large ones is there');
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
