-- Promise 6, order per key: a user's trigger that changes an order again, while a
-- change of it is being made, cannot turn their events round.  Where the first
-- change is complete the second one follows it; where it is not, both are refused.
--
-- Bugs that this catches: the ledger's row or the deadline written before the event;
-- a direct UPDATE within which the order goes on, and whose own event comes last.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(20);

-- The versions of an order, by position.
CREATE FUNCTION pg_temp.versions(key text) RETURNS text LANGUAGE sql AS
	$$SELECT string_agg(o.version::text, ' ' ORDER BY o.position) FROM order_idempotency.outbox o WHERE o.key = versions.key$$;

-- The first column of what a statement returns.
CREATE FUNCTION pg_temp.returned(statement text) RETURNS SETOF text LANGUAGE plpgsql AS
	$$BEGIN RETURN QUERY EXECUTE statement; END$$;

-- Triggers on what is written beside the order.
CREATE SCHEMA mine;
CREATE FUNCTION mine.go_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM order_idempotency.transition_order(NEW.order_key, TG_ARGV[0]);
	RETURN NEW;
END
$$;
CREATE TRIGGER a AFTER INSERT ON ledger FOR EACH ROW WHEN (NEW.effect = 'capture') EXECUTE FUNCTION mine.go_on('completed');
SELECT create_order('change', 100, 'EUR', 'alice'), transition_order('change', 'paid');
SELECT is(pg_temp.versions('change'), '1 2 3', 'a change, a trigger AFTER INSERT on ledger');
DROP TRIGGER a ON ledger;
CREATE TRIGGER a BEFORE INSERT ON ledger FOR EACH ROW WHEN (NEW.effect = 'hold') EXECUTE FUNCTION mine.go_on('paid');
SELECT create_order('creation', 100, 'EUR', 'alice');
SELECT is(pg_temp.versions('creation'), '1 2', 'a creation, a trigger BEFORE INSERT on ledger');
DROP TRIGGER a ON ledger;
CREATE TRIGGER a AFTER INSERT ON payment_deadlines FOR EACH ROW EXECUTE FUNCTION mine.go_on('paid');
SELECT create_order('deadline', 100, 'EUR', 'alice', pay_within => '1 day');
SELECT is(pg_temp.versions('deadline'), '1 2', 'a creation, a trigger on payment_deadlines');
DROP TRIGGER a ON payment_deadlines;
CREATE FUNCTION mine.event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM order_idempotency.transition_order(NEW.key, 'paid');
	RETURN NEW;
END
$$;
CREATE TRIGGER a BEFORE INSERT ON outbox_0 FOR EACH ROW WHEN (NEW.version = 1) EXECUTE FUNCTION mine.event();
SELECT create_order('event', 100, 'EUR', 'alice');
SELECT is(pg_temp.versions('event'), '1 2', 'a creation, a trigger BEFORE INSERT on the log');
DROP TRIGGER a ON outbox_0;
SELECT is((SELECT string_agg(effect, ' ' ORDER BY version) FROM ledger WHERE order_key = 'change'), 'hold capture', 'the ledger has all movements');

-- A direct UPDATE has its effects when it ends.  What it calls comes before that.
CREATE FUNCTION mine.change(key text, state text) RETURNS text LANGUAGE plpgsql AS
	$$BEGIN RETURN (SELECT t.outcome FROM order_idempotency.transition_order(change.key, change.state) t); END$$;
CREATE FUNCTION mine.try_change(key text, state text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM mine.change(key, state);
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	RETURN 'undone';
END
$$;
SELECT create_order(key, 100, 'EUR', 'alice') FROM unnest(ARRAY['a', 'b', 'c', 'd']) key;
CREATE TEMPORARY TABLE counts AS SELECT pg_temp.row_counts() AS before;
SELECT throws_ok($$UPDATE orders SET state = 'paid' WHERE key = 'a' RETURNING mine.change(key, 'completed')$$, '27000', NULL,
	'RETURNING a function that changes the row');
SELECT throws_ok($$WITH paid AS (UPDATE orders SET state = 'paid' WHERE key = 'a' RETURNING key)
	SELECT mine.change(key, 'completed') FROM paid$$, '27000', NULL, 'one in the query around it');
SELECT throws_ok($$UPDATE orders SET state = 'paid' WHERE key IN ('a', 'b') RETURNING mine.change('a', 'completed')$$, '27000', NULL,
	'with another row');
SELECT throws_ok($$UPDATE orders SET state = 'paid' WHERE key = 'a' RETURNING mine.change(key, 'completed'), mine.try_change(key, 'completed')$$,
	'27000', NULL, 'and once more');
SELECT is(pg_temp.row_counts(), before, 'nothing is left of any of it') FROM counts;

-- Nor may a trigger for one row change another one that this UPDATE has changed.
CREATE FUNCTION mine.other() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM order_idempotency.orders o WHERE o.key = TG_ARGV[0] AND o.state = 'paid') THEN
		PERFORM order_idempotency.transition_order(TG_ARGV[0], 'completed');
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER a AFTER UPDATE ON orders FOR EACH ROW WHEN (NEW.key = 'a') EXECUTE FUNCTION mine.other('b');
SELECT throws_ok($$UPDATE orders SET state = 'paid' WHERE key IN ('a', 'b')$$, '27000', NULL, 'a trigger AFTER UPDATE changes a later row');
DROP TRIGGER a ON orders;
CREATE TRIGGER a BEFORE UPDATE ON orders FOR EACH ROW WHEN (NEW.key = 'b') EXECUTE FUNCTION mine.other('a');
SELECT throws_ok($$UPDATE orders SET state = 'paid' WHERE key IN ('a', 'b')$$, '27000', NULL, 'a trigger BEFORE UPDATE changes an earlier row');
DROP TRIGGER a ON orders;
SELECT is(pg_temp.row_counts(), before, 'nothing is left of these') FROM counts;

-- What comes behind its event is right, and so is what was undone.
SELECT is(array_agg(undone), ARRAY['undone'], 'RETURNING a function that fails')
FROM pg_temp.returned($$UPDATE orders SET state = 'paid' WHERE key = 'a' RETURNING mine.try_change(key, 'completed')$$) undone;
SELECT is(pg_temp.versions('a'), '1 2', 'leaves the UPDATE''s own event');
CREATE TRIGGER a AFTER UPDATE ON orders FOR EACH ROW WHEN (NEW.key = 'c') EXECUTE FUNCTION mine.other('b');
SELECT lives_ok($$UPDATE orders SET state = 'paid' WHERE key IN ('b', 'c')$$, 'a trigger AFTER UPDATE changes an earlier row');
SELECT is(pg_temp.versions('b'), '1 2 3', 'whose event was there');
DROP TRIGGER a ON orders;
CREATE TRIGGER a AFTER UPDATE ON orders FOR EACH ROW WHEN (NEW.state = 'paid') EXECUTE FUNCTION mine.other('d');
SELECT lives_ok($$UPDATE orders SET state = 'paid' WHERE key = 'd'$$, 'a trigger AFTER UPDATE changes its own row');
SELECT is(pg_temp.versions('d'), '1 2 3', 'whose event was there, too');
DROP TRIGGER a ON orders;

SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
