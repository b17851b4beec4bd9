-- Promise: READ ONLY transactions and parallel workers get the server's usual
-- errors from everything that writes, and answers from what reads.
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(36);

SELECT create_order('k1', 100, 'EUR', 'alice');
SELECT claim_key('c1', '1');
SELECT complete_key('c1', '"done"');
SELECT claim_key('c2', lease => '1 hour');
CREATE TEMPORARY TABLE writing (call text);
INSERT INTO writing VALUES
	('claim_key(''c3'')'), ('claim_key(''c3'', lease => ''1 hour'')'),
	-- also what would only repeat
	('claim_key(''c1'', ''1'')'), ('complete_key(''c1'')'),
	('complete_key(''c2'', attempt => 1)'), ('extend_key(''c2'', ''1 hour'', ''default'', 1)'),
	('release_key(''c2'', attempt => 1)'),
	('create_order(''k2'', 1, ''EUR'')'), ('create_order(''k1'', 100, ''EUR'', ''alice'')'),
	('create_order(''k2'', 1, ''EUR'', on_conflict => ''report'')'),
	('transition_order(''k1'', ''paid'')'), ('cancel_order(''k1'')'),
	('cancel_order(''k2'', if_missing => ''tombstone'')'), ('emit_event(''mail.sent'', ''k1'')'),
	('copy_default_lifecycle()');
CREATE TEMPORARY TABLE counts AS SELECT pg_temp.row_counts() AS before;

BEGIN READ ONLY;
SELECT throws_ok('SELECT ' || call, '25006', NULL, 'READ ONLY: ' || call) FROM writing;
SELECT is((SELECT state FROM get_order('k1')), 'created', 'READ ONLY: get_order');
SELECT is((SELECT count(*) FROM order_history('k1')), 1::bigint, 'READ ONLY: order_history');
SELECT is((SELECT count(*) FROM current_lifecycle), 4::bigint, 'READ ONLY: the views');
COMMIT;

-- A bad argument is a bad argument there too, not something to retry elsewhere.
BEGIN READ ONLY;
SELECT ok((pg_temp.ending($$SELECT create_order('k2', -1, 'EUR')$$)).code IN ('25006', '22023'), 'READ ONLY: a bad argument');
COMMIT;

-- A parallel worker: only somebody who calls a wrapper safe can get there.
CREATE SCHEMA mine;
CREATE FUNCTION mine.claim(key text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
	RETURN outcome FROM order_idempotency.claim_key(key);
END
$$;
CREATE FUNCTION mine.order(key text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
	RETURN outcome FROM order_idempotency.create_order(key, 1, 'EUR');
END
$$;
CREATE FUNCTION mine.event(key text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
	RETURN order_idempotency.emit_event('mail.sent', key);
END
$$;
SELECT name AS parallel_mode FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET :parallel_mode = on;
SELECT throws_ok(format('SELECT mine.%I(''p1'')', f), '25000', NULL, 'in a parallel worker: ' || f)
FROM unnest(ARRAY['claim', 'order', 'event']) f;
RESET :parallel_mode;
SELECT is(pg_temp.row_counts(), before, 'nothing was written') FROM counts;

-- The functions themselves are never given to one.
SET :parallel_mode = on;
SELECT is((SELECT outcome FROM claim_key('p2')), 'claimed', 'called directly they stay in the leader: claim_key');
SELECT is((SELECT outcome FROM create_order('p2', 1, 'EUR')), 'created', 'create_order');
SELECT is((SELECT outcome FROM transition_order('p2', 'paid')), 'applied', 'transition_order');
SELECT is((SELECT state FROM get_order('p2')), 'paid', 'get_order');
RESET :parallel_mode;

-- After a part that was READ ONLY the same transaction may write, once that part is rolled back.
BEGIN;
SAVEPOINT s;
SET TRANSACTION READ ONLY;
SELECT pg_temp.ending($$SELECT order_idempotency.create_order('k3', 1, 'EUR')$$);
ROLLBACK TO SAVEPOINT s;
SELECT is((SELECT outcome FROM create_order('k3', 1, 'EUR')), 'created', 'a savepoint ends READ ONLY');
COMMIT;
SELECT is((SELECT count(*) FROM orders WHERE key = 'k3'), 1::bigint, 'and the order stays');

-- Every isolation level works alone.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is((SELECT outcome FROM create_order('i1', 1, 'EUR', 'alice')), 'created', 'REPEATABLE READ: created');
SELECT is((SELECT outcome FROM create_order('i1', 1, 'EUR', 'alice')), 'replayed', 'REPEATABLE READ: replayed');
SELECT is((SELECT outcome FROM transition_order('i1', 'paid')), 'applied', 'REPEATABLE READ: applied');
SELECT is((SELECT outcome FROM claim_key('i1')), 'claimed', 'REPEATABLE READ: claimed');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT is((SELECT outcome FROM create_order('i2', 1, 'EUR', 'alice')), 'created', 'SERIALIZABLE: created');
SELECT is((SELECT outcome FROM claim_key('i2')), 'claimed', 'SERIALIZABLE: claimed');
SELECT is((SELECT outcome FROM claim_key('i2')), 'replayed', 'SERIALIZABLE: replayed');
COMMIT;

SELECT * FROM finish();
DROP SCHEMA mine CASCADE;
