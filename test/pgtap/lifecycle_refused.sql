-- Promise 3: a lifecycle under which an order could capture twice, release
-- what was captured, keep funds held for ever or get nowhere is refused as a
-- whole, at commit; what is in force stays in force.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(52);

\set refused '''23514'''

-- What becomes of the rows at the end of a transaction.
CREATE FUNCTION pg_temp.at_commit(rows text) RETURNS text LANGUAGE sql AS $$
	SELECT e.code FROM pg_temp.ending(format('DO %L', format(
		'BEGIN INSERT INTO order_idempotency.lifecycle VALUES %s; SET CONSTRAINTS ALL IMMEDIATE; END', rows))) e
$$;

CREATE TEMPORARY TABLE bad (nr int GENERATED ALWAYS AS IDENTITY, why text, rows text);
INSERT INTO bad (why, rows) VALUES
	('two money statuses in one state',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'capture'), ('a', 'c', 'x', 'release'), ('b', 'd', 'x', NULL), ('c', 'd', 'x', NULL)$$),
	('two money statuses in one state, by one and two steps',
	 $$(NULL, 'a', 'x', NULL), ('a', 'b', 'x', NULL), ('a', 'c', 'x', 'hold'), ('c', 'b', 'x', 'release')$$),
	('another money status when it comes round again',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'release'), ('b', 'a', 'x', NULL)$$),
	('a final state held', $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', NULL)$$),
	('the initial state final and held', $$(NULL, 'a', 'x', 'hold')$$),
	('one of two final states held',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'capture'), ('a', 'c', 'x', NULL)$$),
	('a capture after a capture',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'capture'), ('b', 'c', 'x', 'capture')$$),
	('a capture in a cycle',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'capture'), ('b', 'a', 'x', NULL)$$),
	('a capture to itself',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'capture'), ('b', 'b', 'x', 'capture')$$),
	('a capture of what was never held', $$(NULL, 'a', 'x', NULL), ('a', 'b', 'x', 'capture')$$),
	('a capture at the beginning', $$(NULL, 'a', 'x', 'capture')$$),
	('a capture of what was released',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'release'), ('b', 'c', 'x', 'capture')$$),
	('a release of what was captured',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'capture'), ('b', 'c', 'x', 'release')$$),
	('a release of nothing', $$(NULL, 'a', 'x', NULL), ('a', 'b', 'x', 'release')$$),
	('a release at the beginning', $$(NULL, 'a', 'x', 'release')$$),
	('a refund of what is held', $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'refund')$$),
	('a refund of nothing', $$(NULL, 'a', 'x', NULL), ('a', 'b', 'x', 'refund')$$),
	('a second refund',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'capture'), ('b', 'c', 'x', 'refund'), ('c', 'd', 'x', 'refund')$$),
	('a second hold', $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'hold'), ('b', 'c', 'x', 'release')$$),
	('a hold of what was returned',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'release'), ('b', 'c', 'x', 'hold'), ('c', 'd', 'x', 'capture')$$),
	('a state that cannot be reached', $$(NULL, 'a', 'x', NULL), ('b', 'c', 'x', NULL)$$),
	('a cycle that cannot be reached',
	 $$(NULL, 'a', 'x', NULL), ('b', 'c', 'x', NULL), ('c', 'b', 'x', NULL)$$),
	('a state from which one only comes', $$(NULL, 'a', 'x', NULL), ('b', 'a', 'x', NULL)$$),
	('a change to the same state', $$(NULL, 'a', 'x', NULL), ('a', 'a', 'x', NULL)$$),
	('a state of 64 bytes', $$(NULL, repeat('a', 64), 'x', NULL)$$),
	('an event of 256 bytes', $$(NULL, 'a', repeat('x', 256), NULL)$$),
	('no initial state', $$('a', 'b', 'x', NULL)$$),
	('no initial state, in a cycle', $$('a', 'b', 'x', NULL), ('b', 'a', 'x', NULL)$$),
	('two initial states', $$(NULL, 'a', 'x', NULL), (NULL, 'b', 'x', NULL)$$),
	('an unknown effect', $$(NULL, 'a', 'x', 'steal')$$),
	('an empty effect', $$(NULL, 'a', 'x', '')$$),
	('an effect in capitals', $$(NULL, 'a', 'x', 'HOLD'), ('a', 'b', 'x', 'capture')$$),
	('a state without a name', $$(NULL, '', 'x', NULL)$$),
	('a beginning without a name', $$(NULL, 'a', 'x', NULL), ('', 'a', 'x', NULL)$$),
	('an event without a name', $$(NULL, 'a', '', NULL)$$);
SELECT is(pg_temp.at_commit(rows), :refused, 'refused: ' || why) FROM bad ORDER BY nr;
SELECT is_empty('SELECT * FROM lifecycle', 'nothing of them is left');
SELECT is((SELECT bool_and(built_in) FROM current_lifecycle), true, 'the built-in one is in force');

-- What comes near to them is accepted.
CREATE TEMPORARY TABLE good (nr int GENERATED ALWAYS AS IDENTITY, why text, rows text);
INSERT INTO good (why, rows) VALUES
	('a single state', $$(NULL, 'a', 'x', NULL)$$),
	('the longest names', $$(NULL, repeat('a', 63), repeat('x', 255), NULL)$$),
	('a cycle', $$(NULL, 'a', 'x', NULL), ('a', 'b', 'x', NULL), ('b', 'a', 'x', NULL)$$),
	('two ways to one state with one money status',
	 $$(NULL, 'a', 'x', 'hold'), ('a', 'b', 'x', 'release'), ('a', 'c', 'x', 'capture'), ('c', 'd', 'x', 'refund'), ('b', 'd', 'x', NULL)$$),
	('all four effects in a row',
	 $$(NULL, 'a', 'x', NULL), ('a', 'b', 'x', 'hold'), ('b', 'c', 'x', 'capture'), ('c', 'd', 'x', 'refund'), ('b', 'e', 'x', 'release')$$);
CREATE FUNCTION pg_temp.accepted(rows text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'INSERT INTO order_idempotency.lifecycle VALUES ' || rows;
	SET CONSTRAINTS ALL IMMEDIATE;
	SET CONSTRAINTS ALL DEFERRED;
	TRUNCATE order_idempotency.lifecycle;
	RETURN true;
END
$$;
SELECT ok(pg_temp.accepted(rows), 'accepted: ' || why) FROM good ORDER BY nr;

-- It is the whole that is checked: the rows may pass through anything.
SELECT lives_ok($$DO 'BEGIN
	INSERT INTO order_idempotency.lifecycle VALUES (''b'', ''c'', ''x'', ''capture'');
	INSERT INTO order_idempotency.lifecycle VALUES (''a'', ''b'', ''x'', NULL);
	INSERT INTO order_idempotency.lifecycle VALUES (NULL, ''a'', ''x'', ''hold'');
	SET CONSTRAINTS ALL IMMEDIATE;
	SET CONSTRAINTS ALL DEFERRED;
	END'$$, 'row by row, from the end to the beginning');

-- UPDATE and DELETE are checked like INSERT.
SELECT is((pg_temp.ending($$DO 'BEGIN
	UPDATE order_idempotency.lifecycle SET ledger_effect = NULL WHERE to_state = ''c'';
	SET CONSTRAINTS ALL IMMEDIATE; END'$$)).code, :refused, 'an UPDATE that leaves a final state held');
SELECT is((pg_temp.ending($$DO 'BEGIN
	DELETE FROM order_idempotency.lifecycle WHERE to_state = ''a'';
	SET CONSTRAINTS ALL IMMEDIATE; END'$$)).code, :refused, 'a DELETE that leaves no initial state');
SELECT is((pg_temp.ending($$DO 'BEGIN
	UPDATE order_idempotency.lifecycle SET to_state = ''z'' WHERE to_state = ''b'';
	SET CONSTRAINTS ALL IMMEDIATE; END'$$)).code, :refused, 'an UPDATE that cuts it in two');
SELECT is((SELECT count(*) FROM current_lifecycle WHERE NOT built_in), 3::bigint, 'what was accepted stays in force');

-- What it says helps to find the row.
CREATE TEMPORARY TABLE said AS SELECT * FROM pg_temp.ending($$DO 'BEGIN
	INSERT INTO order_idempotency.lifecycle VALUES (''a'', ''dead_end'', ''x'', NULL);
	SET CONSTRAINTS ALL IMMEDIATE; END'$$);
SELECT is(code, :refused, 'one more: a final state held') FROM said;
SELECT matches(concat(message, ' ', detail), 'dead_end', 'the message or its detail names the state') FROM said;
SELECT matches(concat(message, ' ', detail), 'held', 'and what is wrong with it') FROM said;

-- No order is made under what would be refused.
SELECT isnt((pg_temp.ending($$DO 'BEGIN
	DELETE FROM order_idempotency.lifecycle;
	INSERT INTO order_idempotency.lifecycle VALUES (NULL, ''a'', ''x'', ''steal'');
	PERFORM order_idempotency.create_order(''bad'', 1, ''EUR'', ''alice'');
	SET CONSTRAINTS ALL IMMEDIATE; END'$$)).code, '00000', 'an order under a bad lifecycle');
SELECT is_empty($$SELECT * FROM orders$$, 'does not come to be');

SELECT * FROM finish();
ROLLBACK;
