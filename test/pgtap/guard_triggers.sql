-- Promise 3, no path around the lifecycle, and none by triggers: what a user's
-- trigger does to a change of ours is either wholly right or refused, and a
-- function never reports what did not happen.  Otherwise triggers, constraints
-- and indexes that users put on orders work as on any table.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(83);

CREATE SCHEMA mine;
CREATE FUNCTION mine.to_completed() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.state := 'completed'; RETURN NEW; END$$;
CREATE FUNCTION mine.to_cancelled() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.state := 'cancelled'; RETURN NEW; END$$;
CREATE FUNCTION mine.to_old() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN OLD; END$$;
CREATE FUNCTION mine.amount() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.amount := 1; RETURN NEW; END$$;
CREATE FUNCTION mine.account() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.account := 'thief'; RETURN NEW; END$$;
CREATE FUNCTION mine.payload() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.payload := '{"mine": 1}'; RETURN NEW; END$$;
CREATE FUNCTION mine.version() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.version := 1; RETURN NEW; END$$;
CREATE FUNCTION mine.history() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.history := '{}'; RETURN NEW; END$$;
CREATE FUNCTION mine.past() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.history[1].request_key := 'forged'; RETURN NEW; END$$;
CREATE FUNCTION mine.short() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.history := NEW.history[2:2]; RETURN NEW; END$$;
CREATE FUNCTION mine.long() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.history := NEW.history[1] || NEW.history; RETURN NEW; END$$;
CREATE FUNCTION mine.step() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.history[2].state := 'completed'; RETURN NEW; END$$;
CREATE FUNCTION mine.no_event() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.history[2].event_id := NULL; RETURN NEW; END$$;
CREATE FUNCTION mine.time() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.changed_at := 'epoch'; RETURN NEW; END$$;
CREATE FUNCTION mine.money() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.money_status := 'none'; RETURN NEW; END$$;
CREATE FUNCTION mine.key() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.key := 'stolen'; RETURN NEW; END$$;
CREATE FUNCTION mine.tombstone() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.tombstone := true; RETURN NEW; END$$;
CREATE FUNCTION mine.created_at() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.created_at := 'epoch'; RETURN NEW; END$$;
CREATE FUNCTION mine.nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE FUNCTION mine.as_it_is() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
CREATE FUNCTION mine.refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION USING ERRCODE = 'ZZ001'; END$$;

-- Run a statement with a trigger of a user on orders; what the statement did is undone.
CREATE FUNCTION pg_temp.with_trigger(name text, event text, function text, statement text, OUT code text, OUT faults bigint)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TRIGGER %I %s ON order_idempotency.orders FOR EACH ROW EXECUTE FUNCTION mine.%I()', name, event, function);
	code := (pg_temp.ending(statement)).code;
	faults := (SELECT count(*) FROM story_faults);
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	NULL;
END
$$;

SELECT create_order('k', 100, 'EUR', 'alice', '{"n": 1}');
CREATE TEMPORARY TABLE counts AS SELECT pg_temp.row_counts() AS before;

-- A trigger after the guard in name, and one before it, that changes what must not be changed.
SELECT is(code || ' ' || faults, 'OI003 0', format('UPDATE, trigger %s: %s', t, f))
FROM unnest(ARRAY['zzz', 'aaa']) t,
	 unnest(ARRAY['amount', 'account', 'payload', 'key', 'tombstone', 'created_at']) f,
	 pg_temp.with_trigger(t, 'BEFORE UPDATE', f, $$UPDATE orders SET state = 'paid' WHERE key = 'k'$$);
SELECT is(code || ' ' || faults, 'OI003 0', format('UPDATE, trigger zzz: %s', f))
FROM unnest(ARRAY['to_completed', 'version', 'history', 'past', 'short', 'long', 'step', 'no_event', 'time', 'money']) f,
	 pg_temp.with_trigger('zzz', 'BEFORE UPDATE', f, $$UPDATE orders SET state = 'paid' WHERE key = 'k'$$);
SELECT is(code || ' ' || faults, 'OI003 0', 'UPDATE, trigger aaa: to_completed')
FROM pg_temp.with_trigger('aaa', 'BEFORE UPDATE', 'to_completed', $$UPDATE orders SET state = 'paid' WHERE key = 'k'$$);

-- One that turns it into another legal transition: right as a whole, or refused.
SELECT ok(code IN ('00000', 'OI003') AND faults = 0, format('UPDATE, trigger %s: another legal state', t))
FROM unnest(ARRAY['zzz', 'aaa']) t,
	 pg_temp.with_trigger(t, 'BEFORE UPDATE', 'to_cancelled', $$UPDATE orders SET state = 'paid' WHERE key = 'k'$$);
-- One that drops it: an UPDATE may have no rows, and then has no effects.
SELECT is(code || ' ' || faults, '00000 0', format('UPDATE, trigger %s: %s', t, 'nothing'))
FROM unnest(ARRAY['zzz', 'aaa']) t,
	 pg_temp.with_trigger(t, 'BEFORE UPDATE', 'nothing', $$UPDATE orders SET state = 'paid' WHERE key = 'k'$$);
SELECT ok(faults = 0, format('UPDATE, trigger %s: the old row', t))
FROM unnest(ARRAY['zzz', 'aaa']) t,
	 pg_temp.with_trigger(t, 'BEFORE UPDATE', 'to_old', $$UPDATE orders SET state = 'paid' WHERE key = 'k'$$);

-- The functions report what they did, so they raise where they could not do it.
SELECT is(code || ' ' || faults, '09000 0', format('%s, trigger %s: dropped', s, t))
FROM unnest(ARRAY['zzz', 'aaa']) t,
	 unnest(ARRAY['SELECT transition_order(''k'', ''paid'')', 'SELECT cancel_order(''k'')',
				  'SELECT transition_order(''k'', ''paid'', on_conflict => ''report'')']) s,
	 pg_temp.with_trigger(t, 'BEFORE UPDATE', 'nothing', s);
SELECT ok(code IN ('09000', 'OI003') AND faults = 0, format('transition_order, trigger %s: %s', t, f))
FROM unnest(ARRAY['zzz', 'aaa']) t,
	 unnest(ARRAY['to_completed', 'to_cancelled', 'to_old', 'amount', 'payload']) f,
	 pg_temp.with_trigger(t, 'BEFORE UPDATE', f, $$SELECT transition_order('k', 'paid')$$);
SELECT is(code || ' ' || faults, '09000 0', format('%s, trigger before INSERT: dropped', s))
FROM unnest(ARRAY['SELECT create_order(''new'', 100, ''EUR'', ''alice'')',
				  'SELECT create_order(''new'', 100, ''EUR'', ''alice'', on_conflict => ''report'')',
				  'SELECT cancel_order(''new'', if_missing => ''tombstone'')']) s,
	 pg_temp.with_trigger('t', 'BEFORE INSERT', 'nothing', s);
SELECT is(code || ' ' || faults, '09000 0', format('create_order, trigger before INSERT: %s', f))
FROM unnest(ARRAY['amount', 'account', 'payload', 'key', 'to_cancelled', 'history', 'money', 'tombstone']) f,
	 pg_temp.with_trigger('t', 'BEFORE INSERT', f, $$SELECT create_order('new', 100, 'EUR', 'alice')$$);
SELECT is(code || ' ' || faults, '00000 0', format('%s, trigger %s: as it is', s, t))
FROM unnest(ARRAY['zzz', 'aaa']) t,
	 unnest(ARRAY['SELECT create_order(''new'', 100, ''EUR'', ''alice'')', 'SELECT transition_order(''k'', ''paid'')',
				  'SELECT cancel_order(''k'')', 'SELECT cancel_order(''new'', if_missing => ''tombstone'')']) s,
	 pg_temp.with_trigger(t, 'BEFORE INSERT OR UPDATE', 'as_it_is', s);
SELECT is(code || ' ' || faults, 'ZZ001 0', format('%s, trigger that raises %s', s, e))
FROM unnest(ARRAY['BEFORE INSERT OR UPDATE', 'AFTER INSERT OR UPDATE']) e,
	 unnest(ARRAY['SELECT create_order(''new'', 100, ''EUR'', ''alice'')', 'SELECT transition_order(''k'', ''paid'')',
				  'SELECT cancel_order(''k'')', 'SELECT cancel_order(''new'', if_missing => ''tombstone'')']) s,
	 pg_temp.with_trigger('t', e, 'refuse', s);
SELECT is(pg_temp.row_counts(), before, 'nothing is left of any of it') FROM counts;

-- The functions notice that the guard is switched off, in whole or in part.
CREATE FUNCTION pg_temp.disabled(triggers name[], statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text;
	t name;
BEGIN
	FOREACH t IN ARRAY triggers LOOP
		EXECUTE format('ALTER TABLE order_idempotency.orders DISABLE TRIGGER %I', t);
	END LOOP;
	code := (pg_temp.ending(statement)).code;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	RETURN code;
END
$$;
CREATE TEMPORARY TABLE guards AS
	SELECT t.tgname, t.tgfoid::regproc::text AS function FROM pg_trigger t
	WHERE t.tgrelid = 'orders'::regclass AND t.tgfoid::regproc::text ~ 'guard_(change|verify)';
SELECT is((SELECT string_agg(function, ' ' ORDER BY function) FROM guards), 'guard_change guard_verify', 'the guard has two parts');
SELECT ok(pg_temp.disabled(ARRAY[g.tgname], s) IN ('09000', 'OI003'), format('%s without %s', s, g.function))
FROM guards g, unnest(ARRAY['SELECT transition_order(''k'', ''paid'')', 'SELECT cancel_order(''k'')']) s;
SELECT is(pg_temp.disabled((SELECT array_agg(tgname) FROM guards), s), '09000', s || ' without both')
FROM unnest(ARRAY['SELECT transition_order(''k'', ''paid'')', 'SELECT cancel_order(''k'')']) s;
SET LOCAL session_replication_role = replica;
SELECT is((pg_temp.ending($$SELECT transition_order('k', 'paid')$$)).code, '09000', 'transition_order where no triggers fire');
SET LOCAL session_replication_role = origin;
SELECT is((SELECT outcome FROM transition_order('k', 'paid')), 'applied', 'with the guard all is well');
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
