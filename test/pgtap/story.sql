-- The measure that the other files use is measured here: story_faults, which
-- compares state, history, ledger and outbox, sees each kind of fault.
BEGIN;
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(17);

SELECT create_order('ok', 100, 'EUR', 'alice');
SELECT transition_order('ok', 'paid', 'pay-1', '{"a": 1}');
SELECT cancel_order('tomb', if_missing => 'tombstone');
SELECT is_empty('SELECT * FROM story_faults', 'a story that holds together');

-- Forge, as the owner of the tables can where no trigger fires; look; undo.
CREATE FUNCTION pg_temp.faults_of(forgery text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	faults text;
BEGIN
	SET LOCAL session_replication_role = replica;
	EXECUTE forgery;
	SELECT string_agg(fault, '; ' ORDER BY fault COLLATE "C") INTO faults FROM story_faults;
	RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = COALESCE(faults, 'none');
EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
	RETURN SQLERRM;
END
$$;
SELECT is(pg_temp.faults_of($$UPDATE orders SET changed_at = changed_at WHERE key = 'ok'$$), 'none', 'no fault, none seen');
SELECT matches(pg_temp.faults_of($$UPDATE orders SET state = 'completed' WHERE key = 'ok'$$), 'history: its last step', 'state');
SELECT matches(pg_temp.faults_of($$UPDATE orders SET version = 3 WHERE key = 'ok'$$), 'history: its last step', 'version');
SELECT matches(pg_temp.faults_of($$UPDATE orders SET changed_at = 'epoch' WHERE key = 'ok'$$), 'history: its last step', 'time');
SELECT matches(pg_temp.faults_of($$UPDATE orders SET history[2].version = 3 WHERE key = 'ok'$$), 'history: version 3 at place 2', 'a gap');
SELECT matches(pg_temp.faults_of($$UPDATE orders SET history[1].state = 'completed' WHERE key = 'ok'$$),
			   'history: no transition from completed to paid', 'an illegal step');
SELECT matches(pg_temp.faults_of($$UPDATE orders SET money_status = 'held' WHERE key = 'ok'$$), 'money: held after capture', 'money');
SELECT matches(pg_temp.faults_of($$DELETE FROM ledger WHERE version = 2$$), 'ledger: no row for version 2', 'a lost movement');
SELECT matches(pg_temp.faults_of($$INSERT INTO ledger SELECT order_key, 3, effect, debit_account, credit_account, amount,
		currency, posted_at FROM ledger WHERE version = 2$$), 'ledger: a row too many for version 3', 'a second movement');
SELECT matches(pg_temp.faults_of($$UPDATE ledger SET amount = 99 WHERE version = 2$$), 'ledger: wrong row for version 2', 'a wrong one');
SELECT matches(pg_temp.faults_of($$DELETE FROM outbox_0 WHERE version = 2$$), 'outbox: no event for version 2', 'a lost event');
SELECT matches(pg_temp.faults_of($$INSERT INTO outbox_0 SELECT position + 10, xid, gen_random_uuid(), 'ghost', version, type, payload, headers,
		created_at FROM outbox_0 WHERE version = 2$$), 'outbox: an event too many for version 2', 'a ghost');
SELECT matches(pg_temp.faults_of($$UPDATE outbox_0 SET payload = payload || '{"amount": 1}' WHERE version = 2$$),
			   'outbox: wrong event for version 2', 'an event that says something else');
SELECT matches(pg_temp.faults_of($$UPDATE outbox_0 SET position = position - 10 WHERE version = 2$$),
			   'outbox: version 2 has a position before', 'events in the wrong order');
SELECT matches(pg_temp.faults_of($$INSERT INTO outbox_1 SELECT * FROM outbox_0 WHERE version = 2$$),
			   'outbox: event_id of version 2 is used twice', 'an event_id given twice');
SELECT matches(pg_temp.faults_of($$UPDATE orders SET state = 'paid' WHERE key = 'tomb'$$), 'tombstone', 'a tombstone that lives');

SELECT * FROM finish();
ROLLBACK;
