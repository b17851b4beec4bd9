--
-- The guard.  Promise 3, no path around the lifecycle: any statement of the
-- owner's own that changes an order is a transition or is refused.
--
SET search_path = order_idempotency, public;
SELECT outcome FROM generate_series(1, 4) i, create_order('guard ' || i, 100, 'EUR', 'guard alice');

-- legal
UPDATE orders SET state = 'paid' WHERE key IN ('guard 1', 'guard 2');
MERGE INTO orders o USING (VALUES ('guard 1', 'completed')) v(k, s) ON o.key = v.k
	WHEN MATCHED THEN UPDATE SET state = v.s;
INSERT INTO orders (key, state, amount, currency) VALUES ('guard 3', 'cancelled', 100, 'EUR')
	ON CONFLICT (key) DO UPDATE SET state = excluded.state;
SELECT key, state, version, money_status FROM orders WHERE key LIKE 'guard %' ORDER BY key;
SELECT key, version, type FROM outbox WHERE key LIKE 'guard %' ORDER BY key, position;

-- not legal
UPDATE orders SET state = 'completed' WHERE key = 'guard 4';
UPDATE orders SET state = 'cancelled' WHERE key = 'guard 1';
UPDATE orders SET amount = 1 WHERE key = 'guard 4';
UPDATE orders SET state = 'paid', account = 'guard mallory' WHERE key = 'guard 4';
UPDATE orders SET version = 9 WHERE key = 'guard 4';
UPDATE orders SET history = '{}' WHERE key = 'guard 4';
DELETE FROM orders WHERE key = 'guard 4';
TRUNCATE orders;
MERGE INTO orders o USING (VALUES ('guard 4')) v(k) ON o.key = v.k WHEN MATCHED THEN DELETE;
INSERT INTO orders (key, state, amount, currency) VALUES ('guard 4', 'created', 1, 'EUR')
	ON CONFLICT (key) DO UPDATE SET amount = excluded.amount;
UPDATE ledger SET amount = 1;
DELETE FROM ledger;
TRUNCATE ledger;
DELETE FROM outbox_0;
TRUNCATE outbox_0;

-- A user's trigger that runs after the guard's.
CREATE FUNCTION public.guard_skip() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.state := 'completed';
	RETURN NEW;
END
$$;
CREATE TRIGGER zzz BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION public.guard_skip();
UPDATE orders SET state = 'paid' WHERE key = 'guard 4';
SELECT transition_order('guard 4', 'paid');
DROP TRIGGER zzz ON orders;
CREATE OR REPLACE FUNCTION public.guard_skip() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RETURN NULL;
END
$$;
CREATE TRIGGER zzz BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION public.guard_skip();
UPDATE orders SET state = 'paid' WHERE key = 'guard 4';
SELECT transition_order('guard 4', 'paid');
SELECT create_order('guard 5', 100, 'EUR', 'guard alice');
DROP TRIGGER zzz ON orders;
DROP FUNCTION public.guard_skip();
SELECT key, state, version, money_status FROM orders WHERE key LIKE 'guard %' ORDER BY key;

\getenv abs_srcdir PG_ABS_SRCDIR
\set story :abs_srcdir '/test/pgtap/lib/story.psql'
\set ECHO none
\i :story
\set ECHO all
SELECT * FROM story_faults WHERE key LIKE 'guard %';
