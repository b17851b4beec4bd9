-- purge_orders (promises 1, 3, 4): what is final and delivered goes, whole, and
-- nothing else does; the key is new afterwards, and inherits nothing.  Every
-- statement commits by itself, so that each order has a transaction of its own.
--
-- Bugs that this catches: an order that can still change, that is too young, whose
-- money is held or whose events somebody waits for; a tombstone that stays; a
-- deadline that the next order of the key inherits; a guard that is open to others;
-- a table of others that the executor's state opened and nobody closes;
-- foreign keys and triggers passed over.
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(59);

-- Arguments.
SELECT throws_ok($$SELECT purge_orders(NULL, 1)$$, '22004', NULL, 'before is null');
SELECT throws_ok($$SELECT purge_orders(now(), NULL)$$, '22004', NULL, 'max is null');
SELECT throws_ok($$SELECT purge_orders(now(), 0)$$, '22023', NULL, 'max is zero');
SELECT throws_ok($$SELECT purge_orders(now(), -1)$$, '22023', NULL, 'max is negative');
SELECT is(purge_orders('infinity', 1000), 0::bigint, 'nothing there: nothing goes');

-- Of all kinds.
SELECT create_order('open', 100, 'EUR', 'alice');
SELECT create_order('paid', 100, 'EUR', 'alice'), transition_order('paid', 'paid');
SELECT create_order('done', 100, 'EUR', 'alice'), transition_order('done', 'paid'), transition_order('done', 'completed');
SELECT create_order('stopped', 100, 'EUR', 'alice'), cancel_order('stopped');
SELECT cancel_order('tomb', if_missing => 'tombstone');
INSERT INTO orders (key, state, amount, currency) VALUES ('imported', 'completed', 1, 'EUR'), ('unknown', 'shipped', 1, 'EUR');
INSERT INTO orders (key, state, amount, currency, money_status) VALUES ('holding', 'completed', 1, 'EUR', 'held');
CREATE TEMPORARY TABLE moved AS SELECT * FROM ledger;
SELECT is(purge_orders((SELECT min(changed_at) FROM orders), 1000), 0::bigint, 'before everything: nothing goes');
SELECT throws_ok($$DELETE FROM orders WHERE key = 'done'$$, 'OI003', NULL, 'a direct DELETE is refused');
SELECT throws_ok('TRUNCATE orders', 'OI003', NULL, 'and TRUNCATE');
SELECT is(purge_orders((SELECT changed_at FROM orders WHERE key = 'stopped'), 1000), 1::bigint, 'one that changed before the other');
SELECT is_empty($$SELECT key FROM orders WHERE key = 'done'$$, 'is gone');
SELECT isnt_empty($$SELECT key FROM orders WHERE key = 'stopped'$$, 'the one that changed at that time is not');
SELECT is(purge_orders('infinity', 1000), 3::bigint, 'all that are final go: cancelled, a tombstone, an import');
SELECT pg_temp.rows_are('SELECT key::text FROM orders ORDER BY key', $$VALUES ('holding'), ('open'), ('paid'), ('unknown')$$,
	'what can still change stays, what the lifecycle does not know, and what holds money');
SELECT is_empty($$SELECT * FROM get_order('done')$$, 'get_order knows it no more');
SELECT is_empty($$SELECT * FROM order_history('done')$$, 'nor its history');
SELECT is_empty($$(TABLE ledger EXCEPT ALL TABLE moved) UNION ALL (TABLE moved EXCEPT ALL TABLE ledger)$$, 'the ledger stays as it was');
SELECT is((SELECT count(*) FROM outbox WHERE key = 'done'), 3::bigint, 'and the log');
SELECT throws_ok($$DELETE FROM orders WHERE key = 'open'$$, 'OI003', NULL, 'a direct DELETE is still refused');
SELECT throws_ok($$SELECT transition_order('done', 'completed')$$, 'OI004', NULL, 'a repeated change of it: missing');

-- The keys are new.
SELECT is(outcome || version, 'created1', 'the key is new') FROM create_order('done', 7, 'USD', 'bob');
SELECT is((SELECT count(*) FROM ledger WHERE order_key = 'done' AND version = 1), 2::bigint, 'the ledger has both');
SELECT is(outcome, 'created', 'that of a tombstone, too') FROM create_order('tomb', 1, 'EUR');
SELECT is(outcome, 'cancelled', 'and it is an order like any other') FROM cancel_order('tomb');
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'which goes again');

-- max.
SELECT create_order('m' || i, 1, 'EUR'), cancel_order('m' || i) FROM generate_series(1, 25) i;
SELECT is(purge_orders('infinity', 10), 10::bigint, 'no more than max');
SELECT is(purge_orders('infinity', 10), 10::bigint, 'and again');
SELECT is(purge_orders('infinity', 10), 5::bigint, 'the rest');
SELECT is(purge_orders('infinity', 10), 0::bigint, 'none left');
SELECT is((SELECT count(*) FROM orders WHERE key ~ '^m'), 0::bigint, 'they are gone');

-- Deadlines go along, and what failed about them.
SELECT create_order('d1', 1, 'EUR', pay_within => '1 day'), create_order('d2', 1, 'EUR', pay_within => '1 day');
SELECT transition_order('d1', 'paid'), transition_order('d1', 'completed');
INSERT INTO deadline_failures VALUES ('d1', 3, now(), 'XX000', 'x'), ('d2', 4, now(), 'XX000', 'y');
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'an order with a deadline that is to come');
SELECT pg_temp.rows_are('SELECT order_key::text FROM payment_deadlines', $$VALUES ('d2')$$, 'its deadline is gone, no other');
SELECT pg_temp.rows_are('SELECT order_key::text FROM deadline_failures', $$VALUES ('d2')$$, 'and its failures');
SELECT is(outcome, 'created', 'the next order of that key') FROM create_order('d1', 2, 'EUR');
SELECT is((SELECT count(*) FROM payment_deadlines WHERE order_key = 'd1'), 0::bigint, 'has no deadline');

-- Another lifecycle: what is final is what it says now.
BEGIN;
INSERT INTO lifecycle VALUES (NULL, 'created', 'order.created', 'hold'), ('created', 'paid', 'order.paid', 'capture'),
	('created', 'cancelled', 'order.cancelled', 'release'), ('paid', 'cancelled', 'order.refunded', 'refund'),
	('cancelled', 'archived', 'order.archived', NULL);
COMMIT;
SELECT create_order('c1', 1, 'EUR', 'alice'), cancel_order('c1');
SELECT create_order('c2', 1, 'EUR', 'alice'), cancel_order('c2'), transition_order('c2', 'archived');
SELECT cancel_order('c3', if_missing => 'tombstone');
SELECT is(purge_orders('infinity', 1000), 2::bigint, 'what has a way out stays, a tombstone has none');
SELECT pg_temp.rows_are($$SELECT key::text FROM orders WHERE key ~ '^c'$$, $$VALUES ('c1')$$, 'the one that can be archived');
DELETE FROM lifecycle;
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'under the built-in one it goes');

-- Foreign keys and triggers of users.
CREATE TABLE public.parcel (id int, order_key text COLLATE "C" REFERENCES orders);
CREATE TABLE public.note (id int, order_key text COLLATE "C" REFERENCES orders ON DELETE CASCADE);
SELECT create_order('f1', 1, 'EUR'), create_order('f2', 1, 'EUR'), cancel_order('f1');
SELECT cancel_order('f2');
INSERT INTO parcel VALUES (1, 'f1');
INSERT INTO note VALUES (1, 'f1'), (2, 'f2'), (3, 'open');
SELECT throws_ok($$SELECT purge_orders('infinity', 1000)$$, '23503', NULL, 'a row of mine refers to an order: 23503');
SELECT is((SELECT count(*) FROM orders WHERE key ~ '^f'), 2::bigint, 'all are there still');
DELETE FROM parcel;
SELECT is(purge_orders('infinity', 1000), 2::bigint, 'without that row they go');
SELECT pg_temp.rows_are('SELECT id FROM note', 'VALUES (3)', 'and what refers to them with CASCADE');

-- A cascade that goes on: it fires triggers of tables that are not ours.  They are closed when
-- the call returns, or nothing could alter them before the statement ends.
ALTER TABLE note ADD PRIMARY KEY (id);
CREATE TABLE public.line (note int REFERENCES note ON DELETE CASCADE);
SELECT create_order('f3', 1, 'EUR'), cancel_order('f3');
INSERT INTO note VALUES (4, 'f3');
INSERT INTO line VALUES (4), (3);
SELECT lives_ok($do$ DO $$BEGIN PERFORM purge_orders('infinity', 1000); ALTER TABLE note ADD more int; END$$ $do$,
	'a table behind a foreign key is not left open');
SELECT pg_temp.rows_are('SELECT note FROM line', 'VALUES (3)', 'and CASCADE goes on from there');

CREATE TABLE public.archive (key text, by text, level text);
CREATE FUNCTION public.archive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.archive VALUES (CASE TG_LEVEL WHEN 'ROW' THEN old.key END, current_user, TG_WHEN || ' ' || TG_LEVEL);
	RETURN old;
END
$$;
CREATE TRIGGER a1 BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION archive();
CREATE TRIGGER a2 AFTER DELETE ON orders FOR EACH ROW EXECUTE FUNCTION archive();
CREATE TRIGGER a3 BEFORE DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION archive();
CREATE TRIGGER a4 AFTER DELETE ON orders FOR EACH STATEMENT EXECUTE FUNCTION archive();
CREATE FUNCTION public.counted() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN INSERT INTO public.archive SELECT o.key, 'transition', 'table' FROM removed o; RETURN NULL; END$$;
CREATE TRIGGER a5 AFTER DELETE ON orders REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION counted();
SELECT create_order('t1', 1, 'EUR'), cancel_order('t1');
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'triggers of all kinds');
SELECT pg_temp.rows_are('SELECT level, key FROM archive ORDER BY level',
	$$VALUES ('AFTER ROW', 't1'), ('AFTER STATEMENT', NULL), ('BEFORE ROW', 't1'), ('BEFORE STATEMENT', NULL), ('table', 't1')$$,
	'fire as for a DELETE');
DROP TRIGGER a1 ON orders;
DROP TRIGGER a2 ON orders;
DROP TRIGGER a3 ON orders;
DROP TRIGGER a4 ON orders;
DROP TRIGGER a5 ON orders;
CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER s BEFORE DELETE ON orders FOR EACH ROW EXECUTE FUNCTION swallow();
SELECT create_order('t2', 1, 'EUR'), cancel_order('t2');
SELECT throws_ok($$SELECT purge_orders('infinity', 1000)$$, '09000', NULL, 'a trigger that drops a removal: 09000');
DROP TRIGGER s ON orders;

-- A trigger cannot remove another order beside it.
CREATE FUNCTION public.greedy() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN DELETE FROM order_idempotency.orders WHERE key = 'open'; RETURN old; END$$;
CREATE TRIGGER g BEFORE DELETE ON orders FOR EACH ROW WHEN (old.key = 't2') EXECUTE FUNCTION greedy();
SELECT throws_ok($$SELECT purge_orders('infinity', 1000)$$, 'OI003', NULL, 'a trigger that removes another order: OI003');
DROP TRIGGER g ON orders;
SELECT throws_ok($$DELETE FROM orders WHERE key = 't2'$$, 'OI003', NULL, 'nothing is left of what was announced');
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'it goes');

-- Events that a subscription has not behind it.  These two have no worker: where
-- they are is what the tables say.
SELECT create_order('u1', 1, 'EUR'), cancel_order('u1');
INSERT INTO subscriptions (id, name, server, owner) VALUES (1, 'ahead', 'none', current_user::regrole), (2, 'behind', 'none', current_user::regrole);
INSERT INTO subscription_cursors SELECT s, pg_current_snapshot(), (SELECT last_value FROM outbox_position),
	pg_snapshot_xmax(pg_current_snapshot()), NULL, NULL, NULL, 0, 0, NULL FROM generate_series(1, 2) s;
SELECT create_order('u2', 1, 'EUR'), cancel_order('u2');
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'what both have behind them goes');
SELECT isnt_empty($$SELECT FROM orders WHERE key = 'u2'$$, 'what is not delivered stays');
UPDATE subscription_cursors SET behind = pg_current_snapshot(), behind_position = (SELECT last_value FROM outbox_position) WHERE subscription = 1;
SELECT is(purge_orders('infinity', 1000), 0::bigint, 'also if one of them has it');
CREATE TEMPORARY TABLE position AS SELECT * FROM subscription_cursors WHERE subscription = 1;
UPDATE subscription_cursors c SET behind = p.behind FROM position p WHERE c.subscription = 2;
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'when both have it, it goes');
SELECT create_order('u3', 1, 'EUR'), cancel_order('u3');
UPDATE subscription_cursors SET behind = pg_current_snapshot(), behind_position = behind_position - (1::bigint << 44);
SELECT is(purge_orders('infinity', 1000), 0::bigint, 'a cursor in another incarnation of the log has nothing of this one');
DELETE FROM subscription_cursors;
SELECT is(purge_orders('infinity', 1000), 0::bigint, 'nor has a subscription without a cursor');
DELETE FROM subscriptions;
SELECT is(purge_orders('infinity', 1000), 1::bigint, 'without a subscription nobody waits');

-- Who may.
CREATE ROLE purge_oper;
SELECT grant_operator('purge_oper');
CREATE ROLE purge_app;
SELECT grant_application('purge_app');
SELECT create_order('w1', 1, 'EUR', pay_within => '1 day'), cancel_order('w1');
SELECT is(pg_temp.ending_as('purge_app', $$SELECT order_idempotency.purge_orders(now(), 1)$$), '42501', 'not an application');
SELECT is(pg_temp.value_as('purge_oper', $$SELECT order_idempotency.purge_orders('infinity', 10)$$), '1', 'an operator');
SELECT is((SELECT count(*) FROM payment_deadlines WHERE order_key = 'w1'), 0::bigint, 'with all that belongs to it');
DROP TABLE parcel, line, note;
DROP OWNED BY purge_oper, purge_app;
DROP ROLE purge_oper, purge_app;
SELECT * FROM finish();
