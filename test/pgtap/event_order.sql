-- Promise 6, order per key: a user's trigger that changes an order again, while a
-- change of it is being made, cannot turn their events round.  Where the first
-- change is complete the second one follows it; where it is not, both are refused.
--
-- Bugs that this catches: the ledger's row or the deadline written before the event.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(6);

-- The versions of an order, by position.
CREATE FUNCTION pg_temp.versions(key text) RETURNS text LANGUAGE sql AS
	$$SELECT string_agg(o.version::text, ' ' ORDER BY o.position) FROM order_idempotency.outbox o WHERE o.key = versions.key$$;

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
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
