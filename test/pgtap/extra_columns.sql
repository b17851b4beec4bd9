-- Promise: columns that somebody added to a table of the extension (which is
-- not supported, as a dump could not be loaded) are refused with 42P16 before
-- anything is written, and harm nothing else.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(25);

SELECT create_order('o', 100, 'EUR', 'alice');
SELECT claim_key('k', lease => '1 hour');
CREATE TEMPORARY TABLE counts AS SELECT pg_temp.row_counts() AS before;

-- What a call ends with when a table has another column, or had one; the table is put back.
CREATE FUNCTION pg_temp.ending_with(changes text[], statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text;
	change text;
BEGIN
	FOREACH change IN ARRAY changes LOOP
		EXECUTE 'ALTER TABLE order_idempotency.' || change;
	END LOOP;
	code := (pg_temp.ending(statement)).code;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000';
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	RETURN code;
END
$$;
CREATE TEMPORARY TABLE calls (nr int GENERATED ALWAYS AS IDENTITY, tab text, call text);
INSERT INTO calls (tab, call) VALUES
	('orders', 'SELECT create_order(''n'', 1, ''EUR'', ''alice'')'),
	('orders', 'SELECT create_order(''o'', 100, ''EUR'', ''alice'')'),
	('orders', 'SELECT transition_order(''o'', ''paid'')'),
	('orders', 'SELECT cancel_order(''o'')'),
	('orders', 'SELECT cancel_order(''n'', if_missing => ''tombstone'')'),
	('orders', 'SELECT * FROM get_order(''o'')'),
	('orders', 'SELECT * FROM order_history(''o'')'),
	('ledger', 'SELECT create_order(''n'', 1, ''EUR'', ''alice'')'),
	('ledger', 'SELECT transition_order(''o'', ''paid'')'),
	('payment_deadlines', 'SELECT create_order(''n'', 1, ''EUR'', pay_within => ''1 hour'')'),
	('outbox_0', 'SELECT emit_event(''mail.sent'', ''k'')'),
	('outbox_0', 'SELECT create_order(''n'', 1, ''EUR'')'),
	('claims_0', 'SELECT claim_key(''n'')'),
	('claims_0', 'SELECT claim_key(''k'')'),
	('claims_0', 'SELECT complete_key(''k'', attempt => 1)');
SELECT is(pg_temp.ending_with(ARRAY[tab || ' ADD COLUMN mine text'], call), '42P16', format('%s with a column more: %s', tab, call))
FROM calls ORDER BY nr;
SELECT is(pg_temp.ending_with(ARRAY[tab || ' ADD COLUMN mine text DEFAULT ''x''', tab || ' DROP COLUMN mine'], call), '00000',
		  format('%s with one that was dropped again works: %s', tab, call))
FROM calls WHERE nr IN (1, 8, 10, 11, 13) ORDER BY nr;
SELECT isnt(pg_temp.ending_with(ARRAY['orders ADD COLUMN mine text'], 'UPDATE orders SET state = ''paid'' WHERE key = ''o'''), '00000',
			'a direct UPDATE is refused too');

-- All is as before.
SELECT is(pg_temp.row_counts(), before, 'nothing was written') FROM counts;
SELECT is((SELECT outcome FROM create_order('n', 1, 'EUR', 'alice')), 'created', 'without the column orders can be made');
SELECT is((SELECT outcome FROM transition_order('o', 'paid')), 'applied', 'and changed');
SELECT is((SELECT complete_key('k', attempt => 1)), 'completed', 'and claims completed');

SELECT * FROM finish();
ROLLBACK;
