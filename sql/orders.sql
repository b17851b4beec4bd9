--
-- Orders across transactions: what a service and its operators see in psql.
-- Promises 1 to 3: one winner, all or nothing, no path around the lifecycle.
--
SET search_path = order_idempotency, public;

-- An order's life.
SELECT outcome, state, version FROM create_order('orders 1', 1250, 'EUR', 'orders alice', '{"items": [1, 2]}');
SELECT outcome, state, version FROM create_order('orders 1', 1250, 'EUR', 'orders alice', '{"items": [1, 2]}');
SELECT outcome, state, version FROM transition_order('orders 1', 'paid', 'orders pay-1');
SELECT outcome, state, version FROM transition_order('orders 1', 'paid', 'orders pay-1');
SELECT outcome, state, version FROM transition_order('orders 1', 'paid');
SELECT outcome, state, version FROM create_order('orders 1', 1250, 'EUR', 'orders alice', '{"items": [1, 2]}');
SELECT outcome, state, version FROM cancel_order('orders 1', 'too late');
SELECT outcome, state, version FROM transition_order('orders 1', 'completed');
SELECT order_key, state, version, amount, currency, account, money_status, payload, tombstone, allowed_transitions
FROM get_order('orders 1');
SELECT version, state, request_key, reason FROM order_history('orders 1');
SELECT version, effect, debit_account, credit_account, amount, currency FROM ledger
WHERE order_key = 'orders 1' ORDER BY version;
SELECT key, version, type, payload FROM outbox WHERE key = 'orders 1' ORDER BY position;

-- What is refused says why, and never what is stored.
SELECT create_order('orders 1', 1300, 'EUR', 'orders alice', '{"items": [1]}');
SELECT transition_order('orders 1', 'cancelled');
SELECT transition_order('orders 1', 'paid', 'orders pay-2');
SELECT transition_order('orders 1', 'completed', 'orders pay-1');
SELECT transition_order('orders 0', 'paid');
SELECT cancel_order('orders 0');
SELECT outcome, state FROM create_order('orders 2', 5, 'EUR');
SELECT transition_order('orders 2', 'completed');

-- The same as rows, for a caller that has to commit.
\x on
SELECT order_key, outcome, state, version, event_id, detail
FROM create_order('orders 1', 1300, 'EUR', 'orders alice', '{"items": [1]}', on_conflict => 'report');
SELECT order_key, outcome, state, version, event_id, detail
FROM transition_order('orders 2', 'completed', on_conflict => 'report');
SELECT order_key, outcome, state, version, event_id, detail
FROM transition_order('orders 0', 'paid', on_conflict => 'report');
SELECT order_key, outcome, state, version, event_id, detail
FROM cancel_order('orders 1', request_key => 'orders pay-1', on_conflict => 'report');
\x off

-- A webhook: its inbox claim commits with whatever became of the order.
BEGIN;
SELECT outcome FROM claim_key('evt_1', scope => 'orders webhooks');
SELECT outcome FROM transition_order('orders 2', 'completed', on_conflict => 'report');
SELECT complete_key('evt_1', '"illegal"', 'orders webhooks');
COMMIT;
SELECT outcome, response FROM claim_key('evt_1', scope => 'orders webhooks');

-- Cancelled, for a reason.
SELECT outcome, state, version FROM cancel_order('orders 2', 'out of stock', 'orders stop-1');
SELECT outcome, state, version FROM cancel_order('orders 2', 'out of stock', 'orders stop-1');
SELECT version, state, request_key, reason FROM order_history('orders 2');

-- A cancellation that overtakes the creation.
SELECT outcome, state, version, event_id FROM cancel_order('orders 3', 'changed my mind', if_missing => 'tombstone');
SELECT outcome, state, version, event_id FROM cancel_order('orders 3', 'changed my mind', if_missing => 'tombstone');
SELECT create_order('orders 3', 5, 'EUR', 'orders alice');
SELECT outcome, state, version, event_id, detail
FROM create_order('orders 3', 5, 'EUR', 'orders alice', on_conflict => 'report');
SELECT order_key, state, version, amount, tombstone, allowed_transitions FROM get_order('orders 3');
SELECT count(*) FROM outbox WHERE key = 'orders 3';

-- All or nothing.
BEGIN;
SELECT outcome FROM create_order('orders 4', 5, 'EUR', 'orders alice', pay_within => '1 hour');
SELECT outcome FROM transition_order('orders 4', 'paid');
SELECT emit_event('mail.sent', 'orders 4') IS NOT NULL AS emitted;
ROLLBACK;
SELECT (SELECT count(*) FROM orders WHERE key = 'orders 4') AS orders,
	   (SELECT count(*) FROM ledger WHERE order_key = 'orders 4') AS ledger,
	   (SELECT count(*) FROM outbox WHERE key = 'orders 4') AS outbox,
	   (SELECT count(*) FROM payment_deadlines WHERE order_key = 'orders 4') AS deadlines;
BEGIN;
SELECT outcome FROM create_order('orders 4', 5, 'EUR', 'orders alice');
SAVEPOINT s;
SELECT outcome FROM transition_order('orders 4', 'paid');
ROLLBACK TO SAVEPOINT s;
SELECT outcome FROM cancel_order('orders 4');
COMMIT;
SELECT version, state FROM order_history('orders 4');
SELECT version, effect FROM ledger WHERE order_key = 'orders 4' ORDER BY version;
SELECT version, type FROM outbox WHERE key = 'orders 4' ORDER BY position;

-- An error in between leaves the rest of the work as it is.
BEGIN;
SELECT outcome FROM create_order('orders 5', 5, 'EUR', 'orders alice');
SAVEPOINT s;
\set VERBOSITY sqlstate
SELECT transition_order('orders 5', 'completed');
ROLLBACK TO SAVEPOINT s;
SELECT create_order('orders 5', 6, 'EUR', 'orders alice');
ROLLBACK TO SAVEPOINT s;
SELECT create_order('orders 6', -6, 'EUR');
ROLLBACK TO SAVEPOINT s;
SELECT create_order('orders 6', 6, 'euro');
ROLLBACK TO SAVEPOINT s;
SELECT cancel_order('orders 6');
ROLLBACK TO SAVEPOINT s;
\set VERBOSITY default
SELECT outcome FROM transition_order('orders 5', 'paid');
COMMIT;
SELECT version, state FROM order_history('orders 5');

-- Whatever the application does to be fast, what it was told is durable: the
-- transaction that called us commits as if synchronous_commit were on, and
-- the setting itself stays.
SET synchronous_commit = off;
BEGIN;
SELECT outcome FROM create_order('orders 7', 5, 'EUR');
SET LOCAL synchronous_commit = off;
SELECT pg_current_wal_insert_lsn() AS before_commit
\gset
COMMIT;
SELECT pg_current_wal_flush_lsn() > :'before_commit' AS flushed;
SHOW synchronous_commit;
RESET synchronous_commit;

-- Accounts.
SELECT account, currency, balance FROM account_balance
WHERE account LIKE 'orders %' ORDER BY account, currency;

-- State, history, ledger and outbox agree.
\getenv abs_srcdir PG_ABS_SRCDIR
\set story :abs_srcdir '/test/pgtap/lib/story.psql'
\set ECHO none
\i :story
\set ECHO all
SELECT * FROM story_faults WHERE key LIKE 'orders %';
