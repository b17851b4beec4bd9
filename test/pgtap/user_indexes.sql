-- Promise: indexes and constraints that users put on the tables are kept up and
-- hold for our own writes, those that go past the executor too (src/README,
-- "What is not honoured").  Each kind is alone on the table when it is tried:
-- one that needs the executor would hide what becomes of the others.
-- Found when planted: no executor for CHECK, for NOT NULL, for an expression, for a
-- predicate, for an exclusion constraint or for a trigger; any unique index an
-- arbiter; a unique index that is not checked; no index but the first.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SET statement_timeout = '180s';		-- a creation that takes another's index for its key's would try for ever
SELECT plan(27);

-- Which rows a condition finds by an index, in order of their keys.
CREATE FUNCTION pg_temp.found(tab text, condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	plan text;
	found text;
	line text;
BEGIN
	SET LOCAL enable_seqscan = off;
	plan := '';
	FOR line IN EXECUTE format('EXPLAIN SELECT * FROM order_idempotency.%I WHERE %s', tab, condition) LOOP
		plan := plan || line;
	END LOOP;
	IF plan NOT LIKE '%mine_%' THEN
		RETURN plan;
	END IF;
	EXECUTE format('SELECT string_agg(%s, '' '' ORDER BY %1$s) FROM order_idempotency.%I WHERE %s',
				   CASE tab WHEN 'ledger' THEN 'order_key' ELSE 'key' END, tab, condition) INTO found;
	RETURN found;
END
$$;

-- Indexes of each kind, on orders.
CREATE INDEX mine_column ON orders (account, amount);
SELECT create_order('c1', 11, 'EUR', 'col');
SELECT is(pg_temp.found('orders', $$account = 'col' AND amount = 11$$), 'c1', 'on columns');
DROP INDEX mine_column;
CREATE INDEX mine_hash ON orders USING hash (account);
SELECT create_order('c2', 11, 'EUR', 'hash');
SELECT is(pg_temp.found('orders', $$account = 'hash'$$), 'c2', 'hash');
DROP INDEX mine_hash;
CREATE INDEX mine_gin ON orders USING gin (payload);
SELECT create_order('c3', 11, 'EUR', 'gin', '{"colour": "red"}');
SELECT is(pg_temp.found('orders', $$payload @> '{"colour": "red"}'$$), 'c3', 'gin');
DROP INDEX mine_gin;
CREATE INDEX mine_brin ON orders USING brin (created_at);
SELECT create_order('c4', 11, 'EUR', 'brin');
SELECT is(pg_temp.found('orders', $$created_at = (SELECT o.created_at FROM order_idempotency.orders o WHERE o.key = 'c4')$$),
		  'c4', 'brin');
DROP INDEX mine_brin;
CREATE INDEX mine_expression ON orders (upper(account));
SELECT create_order('c5', 11, 'EUR', 'expr');
SELECT is(pg_temp.found('orders', $$upper(account) = 'EXPR'$$), 'c5', 'on an expression');
DROP INDEX mine_expression;
CREATE INDEX mine_partial ON orders (account) WHERE amount > 100;
SELECT create_order('c6', 101, 'EUR', 'part');
SELECT create_order('c7', 99, 'EUR', 'part');
SELECT is(pg_temp.found('orders', $$account = 'part' AND amount > 100$$), 'c6', 'partial');
DROP INDEX mine_partial;
CREATE INDEX mine_include ON orders (account) INCLUDE (currency);
SELECT create_order('c8', 11, 'EUR', 'incl');
SELECT is(pg_temp.found('orders', $$account = 'incl'$$), 'c8', 'with more columns');
DROP INDEX mine_include;

-- Unique ones object with the server's own error, and are no claim of a key.
CREATE UNIQUE INDEX mine_unique ON orders (account, amount);
SELECT is((SELECT outcome FROM create_order('u1', 5, 'EUR', 'uni')), 'created', 'unique: the first');
SELECT throws_ok($$SELECT create_order('u2', 5, 'EUR', 'uni')$$, '23505', NULL, 'unique: the second');
SELECT is((SELECT outcome FROM create_order('u1', 5, 'EUR', 'uni')), 'replayed', 'unique: the first, repeated');
SELECT is((SELECT outcome FROM create_order('u2', 6, 'EUR', 'uni')), 'created', 'unique: another');
DROP INDEX mine_unique;
CREATE UNIQUE INDEX mine_key ON orders (key);
SELECT is((SELECT outcome FROM create_order('u3', 6, 'EUR', 'x')), 'created', 'a second index on the key');
SELECT is((SELECT outcome FROM create_order('u3', 6, 'EUR', 'x')), 'replayed', 'a second index on the key: a repeat');
DROP INDEX mine_key;
ALTER TABLE orders ADD CONSTRAINT mine_exclusion EXCLUDE USING btree (account WITH =, amount WITH =);
SELECT is((SELECT outcome FROM create_order('x1', 7, 'EUR', 'ex')), 'created', 'an exclusion constraint: the first');
SELECT throws_ok($$SELECT create_order('x2', 7, 'EUR', 'ex')$$, '23P01', NULL, 'an exclusion constraint: the second');
ALTER TABLE orders DROP CONSTRAINT mine_exclusion;
ALTER TABLE orders ADD CONSTRAINT mine_later UNIQUE (account, amount) DEFERRABLE INITIALLY DEFERRED;
SAVEPOINT later;
SELECT create_order('d1', 8, 'EUR', 'later');
SELECT is((SELECT outcome FROM create_order('d2', 8, 'EUR', 'later')), 'created', 'a deferred unique constraint: not yet');
SELECT throws_ok('SET CONSTRAINTS ALL IMMEDIATE', '23505', NULL, 'a deferred unique constraint: in the end');
ROLLBACK TO later;
ALTER TABLE orders DROP CONSTRAINT mine_later;

-- Constraints on rows.
ALTER TABLE orders ALTER account SET NOT NULL;
SELECT throws_ok($$SELECT create_order('n1', 1, 'EUR')$$, '23502', NULL, 'NOT NULL: refused');
SELECT is((SELECT outcome FROM create_order('n1', 1, 'EUR', 'given')), 'created', 'NOT NULL: given');
ALTER TABLE orders ALTER account DROP NOT NULL;
ALTER TABLE orders ADD CONSTRAINT mine_check CHECK (amount <> 13);
SELECT throws_ok($$SELECT create_order('n2', 13, 'EUR')$$, '23514', NULL, 'CHECK: refused');
ALTER TABLE orders DROP CONSTRAINT mine_check;

-- The same for what is written besides the order.
CREATE INDEX mine_order ON ledger (order_key);
SELECT create_order('l1', 1, 'EUR', 'led');
SELECT is(pg_temp.found('ledger', $$order_key = 'l1'$$), 'l1', 'ledger: an index');
DROP INDEX mine_order;
ALTER TABLE ledger ADD CONSTRAINT mine_check CHECK (amount < 1000);
SELECT throws_ok($$SELECT create_order('l2', 1000, 'EUR', 'led')$$, '23514', NULL, 'ledger: CHECK');
SELECT is((SELECT outcome FROM create_order('l2', 999, 'EUR', 'led')), 'created', 'ledger: CHECK satisfied');
ALTER TABLE ledger DROP CONSTRAINT mine_check;
CREATE INDEX mine_type ON outbox_0 (lower(key));
SELECT create_order('L3', 1, 'EUR', 'led');
SELECT is(pg_temp.found('outbox_0', $$lower(key) = 'l3'$$), 'L3', 'outbox: an index on an expression');
DROP INDEX mine_type;
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'ZZ001';
END
$$;
CREATE TRIGGER mine_trigger AFTER INSERT ON outbox_0 FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse();
SELECT throws_ok($$SELECT create_order('l4', 1, 'EUR')$$, 'ZZ001', NULL, 'outbox: a trigger');
DROP TRIGGER mine_trigger ON outbox_0;
CREATE TRIGGER mine_trigger BEFORE INSERT ON ledger FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.refuse();
SELECT is((SELECT outcome FROM create_order('l4', 1, 'EUR')), 'created', 'ledger: a trigger that does not fire');
SELECT throws_ok($$SELECT create_order('l5', 1, 'EUR', 'led')$$, 'ZZ001', NULL, 'ledger: a trigger, by statement');

SELECT * FROM finish();
ROLLBACK;
