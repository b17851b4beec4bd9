-- Promise: triggers, constraints, indexes and foreign keys that users put on
-- orders work as on any table, for calls of ours too (what would go round the
-- executor keeps what it gives).
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(65);

CREATE SCHEMA mine;

-- AFTER triggers, by row and by statement, see each change.
CREATE TABLE mine.seen (nr int GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION mine.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_LEVEL = 'STATEMENT' THEN
		INSERT INTO mine.seen (what) VALUES (format('%s %s', TG_WHEN, TG_OP));
	ELSE
		INSERT INTO mine.seen (what)
		VALUES (format('%s %s %s: %s', TG_WHEN, TG_OP, NEW.key,
					   CASE TG_OP WHEN 'INSERT' THEN NEW.state ELSE OLD.state || ' to ' || NEW.state END));
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER note_row_before BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine.note();
CREATE TRIGGER note_row AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine.note();
SELECT create_order('k1', 100, 'EUR', 'alice');
SELECT transition_order('k1', 'paid');
SELECT create_order('k2', 100, 'EUR', 'alice');
SELECT cancel_order('k2');
SELECT cancel_order('k3', if_missing => 'tombstone');
SELECT pg_temp.rows_are('SELECT what FROM mine.seen ORDER BY nr', $$VALUES
	('BEFORE INSERT k1: created'), ('AFTER INSERT k1: created'),
	('BEFORE UPDATE k1: created to paid'), ('AFTER UPDATE k1: created to paid'),
	('BEFORE INSERT k2: created'), ('AFTER INSERT k2: created'),
	('BEFORE UPDATE k2: created to cancelled'), ('AFTER UPDATE k2: created to cancelled'),
	('BEFORE INSERT k3: cancelled'), ('AFTER INSERT k3: cancelled')$$, 'row triggers fire for each change');
TRUNCATE mine.seen;
SELECT create_order('k1', 100, 'EUR', 'alice');
SELECT transition_order('k1', 'paid');
SELECT cancel_order('k1');
SELECT create_order('k1', 101, 'EUR', 'alice', on_conflict => 'report');
SELECT is_empty('SELECT * FROM mine.seen', 'and not where nothing changed');
DROP TRIGGER note_row_before ON orders;
DROP TRIGGER note_row ON orders;

CREATE TRIGGER note_when AFTER UPDATE ON orders FOR EACH ROW WHEN (NEW.state = 'completed') EXECUTE FUNCTION mine.note();
SELECT create_order('k4', 100, 'EUR', 'alice');
SELECT transition_order('k4', 'paid');
SELECT transition_order('k4', 'completed');
SELECT pg_temp.rows_are('SELECT what FROM mine.seen', $$VALUES ('AFTER UPDATE k4: paid to completed')$$, 'WHEN is honoured');
DROP TRIGGER note_when ON orders;
TRUNCATE mine.seen;

CREATE CONSTRAINT TRIGGER note_later AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION mine.note();
SELECT create_order('k5', 100, 'EUR', 'alice');
SELECT is_empty('SELECT * FROM mine.seen', 'a deferred trigger waits');
SET CONSTRAINTS ALL IMMEDIATE;
SELECT pg_temp.rows_are('SELECT what FROM mine.seen', $$VALUES ('AFTER INSERT k5: created')$$, 'for the end');
SET CONSTRAINTS ALL DEFERRED;
DROP TRIGGER note_later ON orders;
TRUNCATE mine.seen;

-- Statement-level triggers, with what changed as a table.
CREATE FUNCTION mine.note_table() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO mine.seen (what)
	SELECT format('%s %s: %s %s', TG_LEVEL, TG_OP, string_agg(key || ' ' || state, ', '), count(*)) FROM new_rows;
	RETURN NULL;
END
$$;
CREATE TRIGGER note_insert AFTER INSERT ON orders REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION mine.note_table();
CREATE TRIGGER note_update AFTER UPDATE ON orders REFERENCING NEW TABLE AS new_rows
	FOR EACH STATEMENT EXECUTE FUNCTION mine.note_table();
SELECT create_order('k7', 100, 'EUR', 'alice');
SELECT transition_order('k7', 'paid');
SELECT pg_temp.rows_are('SELECT what FROM mine.seen ORDER BY nr', $$VALUES
	('STATEMENT INSERT: k7 created 1'), ('STATEMENT UPDATE: k7 paid 1')$$, 'statement triggers see the changed rows');
DROP TRIGGER note_insert ON orders;
DROP TRIGGER note_update ON orders;
TRUNCATE mine.seen;

-- A trigger may use the functions itself.
CREATE FUNCTION mine.mail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM order_idempotency.emit_event('mail.sent', NEW.key);
	RETURN NEW;
END
$$;
CREATE TRIGGER mail AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine.mail();
SELECT create_order('k6', 100, 'EUR', 'alice');
SELECT transition_order('k6', 'paid');
SELECT is((SELECT string_agg(type, ' ' ORDER BY type) FROM outbox WHERE key = 'k6'),
		  'mail.sent order.created order.paid', 'emit_event in an AFTER trigger');
DROP TRIGGER mail ON orders;

-- One that changes the row that is being changed.
CREATE FUNCTION mine.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.state = 'paid' THEN
		UPDATE order_idempotency.orders SET state = 'cancelled' WHERE key = NEW.key;
	END IF;
	RETURN NEW;
END
$$;
SELECT create_order('k8', 100, 'EUR', 'alice');
CREATE TRIGGER meddle BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine.meddle();
SELECT throws_ok($$SELECT transition_order('k8', 'paid')$$, '27000', NULL, 'a BEFORE trigger that changes the same row');
SELECT throws_ok($$UPDATE orders SET state = 'paid' WHERE key = 'k8'$$, '27000', NULL, 'under an UPDATE too');
DROP TRIGGER meddle ON orders;
SELECT is((SELECT state FROM get_order('k8')), 'created', 'changes nothing');

-- One that goes on with the same order: both changes are there, in their order.
CREATE FUNCTION mine.go_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.state = 'created' THEN
		PERFORM order_idempotency.transition_order(NEW.key, 'paid');
	ELSIF NEW.state = 'paid' THEN
		PERFORM order_idempotency.transition_order(NEW.key, 'completed');
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER zzz AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine.go_on();
SELECT lives_ok($$SELECT create_order('n1', 100, 'EUR', 'alice')$$, 'a trigger that goes on with the order');
SELECT is((SELECT state || version FROM orders WHERE key = 'n1'), 'completed3', 'takes it to the end');
SELECT is_empty('SELECT * FROM story_faults', 'in the right order, by its events too');
DROP TRIGGER zzz ON orders;
CREATE TRIGGER "!aa" AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION mine.go_on();
SELECT ok((pg_temp.ending($$SELECT create_order('n2', 100, 'EUR', 'alice')$$)).code IS NOT NULL,
		  'the same by a trigger that comes before the guard''s');
SELECT is_empty('SELECT * FROM story_faults', 'is right or refused');
SELECT ok((pg_temp.ending($$SELECT transition_order('k5', 'paid')$$)).code IS NOT NULL, 'also from a transition');
SELECT is_empty('SELECT * FROM story_faults', 'right or refused');
DROP TRIGGER "!aa" ON orders;


-- One that changes another order while ours is being changed: each keeps what it was called with.
CREATE FUNCTION mine.parent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.key LIKE 'child %' THEN
		PERFORM order_idempotency.transition_order('parent of ' || NEW.key, 'paid', 'for ' || NEW.key, '{"parent": true}',
												   '{"h": "parent"}');
	END IF;
	RETURN NEW;
END
$$;
CREATE FUNCTION mine.failing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.key LIKE 'child %' THEN
		BEGIN
			PERFORM order_idempotency.transition_order('parent of ' || NEW.key, 'completed', 'for ' || NEW.key);
		EXCEPTION WHEN SQLSTATE 'OI003' THEN
			NULL;
		END;
		BEGIN
			PERFORM order_idempotency.transition_order('parent of ' || NEW.key, 'paid', 'for ' || NEW.key);
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END IF;
	RETURN NEW;
END
$$;
CREATE TEMPORARY TABLE nested (nr int GENERATED ALWAYS AS IDENTITY, timing text, name text, function text);
INSERT INTO nested (timing, name, function) VALUES
	('BEFORE', 'aaa', 'parent'), ('BEFORE', 'zzz', 'parent'), ('AFTER', '!aa', 'parent'), ('AFTER', 'zzz', 'parent'),
	('BEFORE', 'aaa', 'failing'), ('BEFORE', 'zzz', 'failing'), ('AFTER', '!aa', 'failing'), ('AFTER', 'zzz', 'failing');
CREATE FUNCTION pg_temp.pay_child(n nested) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	child text := 'child ' || n.nr;
BEGIN
	EXECUTE format('CREATE TRIGGER %I %s UPDATE ON order_idempotency.orders FOR EACH ROW EXECUTE FUNCTION mine.%I()',
				   n.name, n.timing, n.function);
	PERFORM order_idempotency.create_order(k, 100, 'EUR', 'alice') FROM unnest(ARRAY[child, 'parent of ' || child]) k;
	PERFORM order_idempotency.transition_order(child, 'paid', 'rk', '{"child": true}', '{"h": "child"}');
	EXECUTE format('DROP TRIGGER %I ON order_idempotency.orders', n.name);
	RETURN (SELECT concat_ws(' ', h.request_key, e.payload->>'request_key', e.payload->'payload', e.headers)
			FROM order_idempotency.order_history(child) h JOIN order_idempotency.outbox e USING (event_id) WHERE h.version = 2);
END
$$;
SELECT is(pg_temp.pay_child(n), 'rk rk {"child": true} {"h": "child"}',
		  format('%s trigger %s that changes another order: %s', timing, name, function)) FROM nested n ORDER BY nr;
SELECT is((SELECT string_agg(concat_ws(' ', e.key, e.payload->>'request_key', e.payload->'payload', e.headers), ', ' ORDER BY e.key)
		   FROM outbox e WHERE e.key LIKE 'parent of %' AND e.version = 2),
		  (SELECT string_agg(format('parent of child %s for child %s {"parent": true} {"h": "parent"}', i, i), ', ' ORDER BY i)
		   FROM generate_series(1, 4) i), 'so do the others');
SELECT is_empty('SELECT * FROM story_faults', 'all of it in order');

-- CHECK.
ALTER TABLE orders ADD CONSTRAINT not_too_much CHECK (amount <= 1000);
SELECT throws_ok($$SELECT create_order('c1', 1001, 'EUR', 'alice')$$, '23514', NULL, 'a CHECK refuses');
SELECT throws_ok($$SELECT create_order('c1', 1001, 'EUR', 'alice', on_conflict => 'report')$$, '23514', NULL,
				 'which is no outcome to be reported');
SELECT is((SELECT outcome FROM create_order('c1', 1000, 'EUR', 'alice')), 'created', 'or lets through');
ALTER TABLE orders ADD CONSTRAINT never_completed CHECK (state <> 'completed') NOT VALID;
SELECT transition_order('c1', 'paid');
SELECT throws_ok($$SELECT transition_order('c1', 'completed')$$, '23514', NULL, 'a CHECK on what changes');
SELECT is((SELECT state FROM get_order('c1')), 'paid', 'keeps the order where it is');
ALTER TABLE orders DROP CONSTRAINT not_too_much, DROP CONSTRAINT never_completed;
-- whatever it is called
CREATE FUNCTION pg_temp.with_check(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	ending text;
BEGIN
	EXECUTE format('ALTER TABLE order_idempotency.orders ADD CONSTRAINT %I CHECK (amount <> 1001)', name);
	ending := (pg_temp.ending($q$SELECT order_idempotency.create_order('c2', 1001, 'EUR')$q$)).code;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	RETURN ending;
END
$$;
SELECT is(pg_temp.with_check(n), '23514', 'a CHECK by the name of ' || n)
FROM unnest(ARRAY['x', 'guard', 'guard_mine', 'orders_check', 'orders_amount_check1']
			|| (SELECT array_agg(conname || '_2') FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'c')) n;

-- UNIQUE, on a column and on an expression.
CREATE UNIQUE INDEX one_each ON orders (account) WHERE account LIKE 'only %';
SELECT is((SELECT outcome FROM create_order('u1', 1, 'EUR', 'only one')), 'created', 'the first of a unique index');
SELECT throws_ok($$SELECT create_order('u2', 1, 'EUR', 'only one')$$, '23505', NULL, 'the second is refused');
SELECT throws_ok($$SELECT create_order('u2', 1, 'EUR', 'only one', on_conflict => 'report')$$, '23505', NULL,
				 'which is no repeat of the key');
SELECT is((SELECT outcome FROM create_order('u1', 1, 'EUR', 'only one')), 'replayed', 'the first is still repeated');
DROP INDEX one_each;
CREATE UNIQUE INDEX one_ref ON orders ((payload->>'ref')) WHERE state = 'paid';
SELECT create_order('u3', 1, 'EUR', payload => '{"ref": "A"}');
SELECT create_order('u4', 1, 'EUR', payload => '{"ref": "A"}');
SELECT is((SELECT outcome FROM transition_order('u3', 'paid')), 'applied', 'a partial index on an expression');
SELECT throws_ok($$SELECT transition_order('u4', 'paid')$$, '23505', NULL, 'refuses the second');
SELECT is((SELECT outcome FROM cancel_order('u4')), 'cancelled', 'which may do something else');
DROP INDEX one_ref;
CREATE INDEX by_state ON orders (state);
SELECT create_order('x1', 1, 'EUR');
SELECT transition_order('x1', 'paid');
SET LOCAL enable_seqscan = off;
SELECT is((SELECT string_agg(key, ' ') FROM orders WHERE state = 'paid' AND key = 'x1'), 'x1', 'an index of one''s own is kept up');
RESET enable_seqscan;
ALTER TABLE orders ADD CONSTRAINT no_twins EXCLUDE USING btree (account WITH =) WHERE (account LIKE 'twin %');
SELECT is((SELECT outcome FROM create_order('e1', 1, 'EUR', 'twin A')), 'created', 'an exclusion constraint');
SELECT throws_ok($$SELECT create_order('e2', 1, 'EUR', 'twin A')$$, '23P01', NULL, 'refuses the second');
ALTER TABLE orders DROP CONSTRAINT no_twins;

-- Constraints that wait for the end.
ALTER TABLE orders ADD CONSTRAINT one_later EXCLUDE USING btree (account WITH =) WHERE (account = 'deferred')
	DEFERRABLE INITIALLY DEFERRED;
SELECT is((SELECT outcome FROM create_order('d1', 77, 'EUR', 'deferred')), 'created', 'a deferred exclusion constraint');
SELECT is((pg_temp.ending($$DO 'BEGIN
	IF (SELECT outcome FROM order_idempotency.create_order(''d2'', 77, ''EUR'', ''deferred'')) <> ''created'' THEN
		RAISE EXCEPTION ''too early'';
	END IF;
	SET CONSTRAINTS ALL IMMEDIATE; END'$$)).code, '23P01', 'refuses the second in the end');
SET CONSTRAINTS ALL DEFERRED;
ALTER TABLE orders DROP CONSTRAINT one_later;

-- Foreign keys, from orders and to orders.
CREATE TABLE mine.accounts (name text COLLATE "C" PRIMARY KEY);
INSERT INTO mine.accounts VALUES ('known');
ALTER TABLE orders ADD CONSTRAINT known_account FOREIGN KEY (account) REFERENCES mine.accounts NOT VALID;
SELECT is((SELECT outcome FROM create_order('f1', 1, 'EUR', 'known')), 'created', 'an account that is there');
SELECT throws_ok($$SELECT create_order('f2', 1, 'EUR', 'stranger')$$, '23503', NULL, 'one that is not');
SELECT is((SELECT count(*) FROM orders WHERE key = 'f2'), 0::bigint, 'makes no order');
SELECT throws_ok($$DELETE FROM mine.accounts$$, '23503', NULL, 'and one with orders stays');
ALTER TABLE orders DROP CONSTRAINT known_account;
CREATE TABLE mine.notes (order_key text COLLATE "C" REFERENCES orders (key), note text);
SELECT lives_ok($$INSERT INTO mine.notes VALUES ('f1', 'fragile')$$, 'a row of one''s own on an order');
SELECT throws_ok($$INSERT INTO mine.notes VALUES ('f2', 'fragile')$$, '23503', NULL, 'on none');
SELECT is((SELECT outcome FROM transition_order('f1', 'paid')), 'applied', 'it does not keep the order from going on');
SELECT is((SELECT outcome FROM create_order('f3', 1, 'EUR', 'known')), 'created', 'order and note');
SELECT lives_ok($$INSERT INTO mine.notes VALUES ('f3', 'in one transaction')$$, 'in one transaction');

SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
