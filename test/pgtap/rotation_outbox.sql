-- The log's store (promises 4, 8 and 9): what rotate_outbox does and refuses, what view
-- outbox_store shows, and who holds a table, for cursors of all kinds.  Not in a
-- transaction block: rotate_outbox commits.
--
-- Bugs that the cases catch, one by one and by chance; the first three were planted: a position alone in place of the snapshot;
-- forgetting the xids from a snapshot's xmax on, or those of its list; taking a batch's
-- progress for more than the batch's position; taking what a cursor that was moved
-- back has seen for behind it.
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SELECT plan(55);

-- Before the first write nothing is noted: a restore may be under way.
CALL rotate_outbox('0');
SELECT is_empty('SELECT * FROM generations', 'nothing is noted before the database is in use');
SELECT pg_temp.rows_are('SELECT generation, slot, events, started_at, ended_at, kept_until, held_by FROM outbox_store',
	'VALUES (1, 0, 0, NULL, NULL, NULL, NULL)', 'outbox_store: one generation, whose beginning nobody knows');
SELECT is(outbox_retention(), '1 day', 'events are kept for a day');

-- What it takes.
SELECT throws_ok($$CALL rotate_outbox('-1 s')$$, '22023', 'retention must not be negative', 'retention is not negative');
SELECT throws_ok($$CALL rotate_outbox()$$, '25001', 'rotate_outbox() cannot run inside a transaction block',
	'it is not for functions');
SELECT throws_ok($$SELECT rotate_outbox()$$, '42809', NULL, 'nor is it one');
SELECT throws_ok($$SELECT log_holders(4)$$, '22023', NULL, 'there are four slots');

-- A generation begins when the one before is half as old as events are kept.
SELECT isnt(emit_event('test.event', 'a'), NULL, 'an event');
CALL rotate_outbox();
SELECT pg_temp.rows_are($$SELECT generation, slot, started_at <= now(), ended_at, kept_until FROM outbox_store$$,
	'VALUES (1, 0, true, NULL, NULL)', 'the first generation is noted when it is first looked at');
CALL rotate_outbox('1 hour');
SELECT is((SELECT max(generation) FROM generations WHERE store = 'outbox'), 1::bigint, 'it is too young to be followed');
UPDATE generations SET started_at = now() - interval '12 hours' WHERE store = 'outbox';
CALL rotate_outbox();
SELECT pg_temp.rows_are($$SELECT generation, slot, started_at > now() - interval '1 hour', ended_at IS NOT NULL, kept_until - ended_at
	FROM outbox_store ORDER BY generation$$,
	$$VALUES (1, 0, false, true, interval '1 day'), (2, 1, true, false, NULL)$$, 'after half a day it is');
UPDATE generations SET started_at = now() - interval '12 hours' WHERE store = 'outbox';
CALL rotate_outbox();
SELECT is((SELECT max(generation) FROM generations WHERE store = 'outbox'), 2::bigint, 'one without events goes on');
UPDATE generations SET started_at = now() WHERE generation = 2;
SELECT isnt(emit_event('test.event', 'b'), NULL, 'new events');
SELECT is((SELECT count(*) FROM outbox_1), 1::bigint, 'are in the next one');
SELECT is((SELECT count(*) FROM outbox), 2::bigint, 'view outbox shows all');

-- The estimate and the bytes are those of the statistics and of the files.
SELECT pg_stat_force_next_flush();
SELECT is((SELECT sum(events) FROM outbox_store), 2::numeric, 'there are two events');
SELECT is((SELECT bytes FROM outbox_store WHERE slot = 1), pg_total_relation_size('outbox_1'), 'in files of this size');

-- It goes when it was kept for long enough.
UPDATE generations SET ended_at = now() - interval '23 hours' WHERE generation = 1;
CALL rotate_outbox();
SELECT is((SELECT min(generation) FROM generations), 1::bigint, 'it is kept up to the last hour');
UPDATE generations SET ended_at = now() - interval '1 day' WHERE generation = 1;
CALL rotate_outbox();
SELECT is((SELECT min(generation) FROM generations), 2::bigint, 'then it expires');
SELECT is(pg_relation_size('outbox_0'), 0::bigint, 'and its table is empty');
SELECT is((SELECT string_agg(key, ' ') FROM outbox), 'b', 'the other one is as it was');
SELECT is((SELECT string_agg(store, ' ') FROM generations), 'outbox', 'claims have nothing to do with it');

-- Users cannot do what the rotation does, the owner neither.
SELECT throws_ok('TRUNCATE outbox_1', 'OI003', NULL, 'TRUNCATE is refused');
SELECT throws_ok('DELETE FROM outbox_1', 'OI003', NULL, 'so is DELETE');
CREATE FUNCTION pg_temp.meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM order_idempotency.outbox_1;
	RETURN NULL;
END $$;
CREATE TRIGGER meddle BEFORE TRUNCATE ON outbox_1 EXECUTE FUNCTION pg_temp.meddle();
CALL rotate_outbox('0');
SELECT throws_ok('TRUNCATE outbox_1', 'OI003', NULL, 'TRUNCATE is refused with a trigger, too');
\set ON_ERROR_STOP off
CALL rotate_outbox('0');
\set state :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'state'::text, 'OI003'::text, 'a trigger of the rotation''s TRUNCATE may not delete');
SELECT throws_ok('TRUNCATE outbox_1', 'OI003', NULL, 'nor has a rotation that failed left the way open');
DROP TRIGGER meddle ON outbox_1;
CALL rotate_outbox('0');
SELECT is_empty('SELECT * FROM outbox', 'the next one goes on where it failed');

-- Nobody but who was granted it.
CREATE ROLE rotate_outbox_nobody;
GRANT USAGE ON SCHEMA order_idempotency TO rotate_outbox_nobody;
SET ROLE rotate_outbox_nobody;
SELECT is((pg_temp.ending('CALL order_idempotency.rotate_outbox()')).code, '42501', 'it takes EXECUTE');
SELECT is((pg_temp.ending('SELECT * FROM order_idempotency.outbox_store')).code, '42501', 'the view takes SELECT');
RESET ROLE;
SELECT grant_monitor('rotate_outbox_nobody');
SET ROLE rotate_outbox_nobody;
SELECT lives_ok('SELECT * FROM order_idempotency.outbox_store', 'monitors have that');
RESET ROLE;
SELECT grant_operator('rotate_outbox_nobody');
SET ROLE rotate_outbox_nobody;
CALL order_idempotency.rotate_outbox();
SELECT pass('operators may rotate');
RESET ROLE;
DROP OWNED BY rotate_outbox_nobody;
DROP ROLE rotate_outbox_nobody;

-- What holds a table, from rows and cursors that are put there.  Incarnation 0, xids from
-- 3 on; an event of a transaction and a cursor: behind, its position, its next xid, batch,
-- its position, its next xid, progress, whether it was moved, open_log.
CREATE FUNCTION pg_temp.holds(xids text, behind text, batch text = NULL, progress bigint = 0, moved boolean = false,
							 open bigint[] = NULL) RETURNS boolean
	LANGUAGE plpgsql AS $$
DECLARE
	b text[] := string_to_array(behind, ' ');
	m text[] := string_to_array(batch, ' ');
	held boolean;
BEGIN
	-- rows: position/xid
	INSERT INTO order_idempotency.outbox_3 (position, xid, event_id, key, type, created_at)
	SELECT split_part(r, '/', 1)::bigint, split_part(r, '/', 2)::xid8, gen_random_uuid(), 'k', 'test.event', now()
	FROM string_to_table(xids, ' ') r;
	INSERT INTO order_idempotency.subscriptions (id, name, server, owner) VALUES (7, 'holder', 'none', current_user::regrole);
	INSERT INTO order_idempotency.subscription_cursors
	VALUES (7, b[1]::pg_snapshot, b[2]::bigint, b[3]::xid8, m[1]::pg_snapshot, m[2]::bigint, m[3]::xid8, progress, 0, NULL, 0, moved);
	UPDATE order_idempotency.subscription_cursors SET open_log = open WHERE subscription = 7;
	held := order_idempotency.log_holders(3) = '{holder}';
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
	RETURN held IS TRUE;
END $$;

SELECT is(pg_temp.holds('1/10 2/11', '12:12: 2 12'), false, 'all is below, and seen');
SELECT is(pg_temp.holds('1/10 3/11', '12:12: 2 12'), true, 'something is above');
SELECT is(pg_temp.holds('1/10 2/11', '10:12:10 2 12'), true, 'a transaction of the list');
SELECT is(pg_temp.holds('1/10 2/11', '11:11: 2 12'), true, 'one from xmax on');
SELECT is(pg_temp.holds('1/10 2/11', '5:12:5,6,7 2 12'), false, 'others of the list do not matter');
SELECT is(pg_temp.holds('1/10 2/11', '10:11:10 2 12', '12:12: 5 12', 2), false, 'the batch has got that far');
SELECT is(pg_temp.holds('1/10 2/11', '10:11:10 2 12', '12:12: 5 12', 1), true, 'not quite that far');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 1 12', '12:12: 5 12', 0), true, 'a batch that has not begun');
SELECT is(pg_temp.holds('1/10 2/11', '10:11:10 2 12', '11:12:11 5 12', 2), true, 'the batch does not see one, either');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 2 12', NULL, 0, true), false, 'moved to behind all');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 1 12', NULL, 0, true), true, 'moved to before something that it sees');
SELECT is(pg_temp.holds('1/10 2/12', '10:10: 0 10', '11:11: 1 12', 2), true,
	'progress is above the batch''s position, and there is a transaction of after it');
SELECT is(pg_temp.holds('17592186044417/10', '12:12: 2 12'), true, 'a later incarnation');
SELECT is(pg_temp.holds('1/10 2/11', '10:11:10 17592186044417 12'), false, 'an earlier one: the xids mean another transaction');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 2 12', open => '{2,0}'), true, 'an event whose delivery is not known to be made');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 2 12', open => '{3,1,4,2}'), false, 'it is elsewhere; the second of each two is no position');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 2 12', open => ARRAY[-8, 5 + (10::bigint << 32)]), true, 'one of a run');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 2 12', open => ARRAY[-8, -1 + (8::bigint << 32), 3, 0]), false, 'a run that ends before');
SELECT is(pg_temp.holds('1/10 2/11', '12:12: 2 12', open => ARRAY[-8, -1 + (9::bigint << 32)]), true, 'a run that ends with it');
SELECT is(pg_temp.holds('', '3:3: 0 3'), false, 'nothing holds an empty table');

-- Moments and events by chance, as transactions that overlap bring them about: who
-- has not all behind him holds the table, and nobody else but for events above both of his
-- positions.
CREATE TEMP TABLE moments (step int PRIMARY KEY, position bigint, next_xid bigint, snapshot text);
CREATE TEMP TABLE history (position bigint, xid bigint);
CREATE FUNCTION pg_temp.history() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	next bigint := 10;
	ended bigint := 9;			-- the highest that has
	position bigint := 0;
	open bigint[] := '{}';
	x bigint;
BEGIN
	TRUNCATE moments, history;
	FOR step IN 1 .. 80 LOOP
		IF random() < 0.4 OR open = '{}' THEN
			open := open || next;
			next := next + 1;
		ELSE
			x := open[1 + floor(random() * cardinality(open))];
			IF random() < 0.6 THEN
				position := position + 1;
				INSERT INTO history VALUES (position, x);
			ELSE
				open := array_remove(open, x);
				ended := greatest(ended, x);
			END IF;
		END IF;
		INSERT INTO moments
		SELECT step, position, next,
			least(ended + 1, min(o)) || ':' || ended + 1 || ':' || coalesce(string_agg(o::text, ',' ORDER BY o), '')
		FROM unnest(open) o WHERE o <= ended;
	END LOOP;
	-- what has not ended is not there
	DELETE FROM history h WHERE h.xid = ANY (open);
END $$;

-- How many of the decisions were wrong, held and not.
CREATE FUNCTION pg_temp.decisions(round int, OUT unsafe bigint, OUT needless bigint, OUT held bigint, OUT free bigint) LANGUAGE plpgsql AS $$
DECLARE
	holders text[];
BEGIN
	PERFORM pg_temp.history();
	INSERT INTO order_idempotency.outbox_0 (position, xid, event_id, key, type, created_at)
	SELECT h.position, h.xid::text::xid8, gen_random_uuid(), 'k', 'test.event', now() FROM history h
	WHERE h.position <= (SELECT random() * max(position) FROM history);
	INSERT INTO order_idempotency.subscriptions (id, name, server, owner)
	SELECT i, i, 'none', current_user::regrole FROM generate_series(1, 60) i;
	-- the three readings of a moment come one after the other, batch after behind
	INSERT INTO order_idempotency.subscription_cursors
	SELECT i, b.snapshot::pg_snapshot, CASE WHEN moved THEN floor(random() * (a.position + 1)) ELSE a.position END,
		c.next_xid::text::xid8,
		CASE WHEN batched THEN e.snapshot END::pg_snapshot, CASE WHEN batched THEN d.position END,
		CASE WHEN batched THEN f.next_xid END::text::xid8,
		CASE WHEN batched THEN floor(random() * (f.position + 2)) ELSE 0 END, 0, NULL, 0, moved
	FROM (SELECT i, random() < 0.6 AS batched, random() < 0.2 AS moved, 1 + floor(random() * 60)::int AS s1,
				 floor(random() * 4)::int AS s2, floor(random() * 4)::int AS s3, floor(random() * 10)::int AS s4,
				 floor(random() * 4)::int AS s5, floor(random() * 4)::int AS s6
		  FROM generate_series(1, 60) i) r
		JOIN moments a ON a.step = least(s1, 80) JOIN moments b ON b.step = least(s1 + s2, 80)
		JOIN moments c ON c.step = least(s1 + s2 + s3, 80) JOIN moments d ON d.step = least(s1 + s2 + s3 + s4, 80)
		JOIN moments e ON e.step = least(s1 + s2 + s3 + s4 + s5, 80)
		JOIN moments f ON f.step = least(s1 + s2 + s3 + s4 + s5 + s6, 80);
	holders := coalesce(order_idempotency.log_holders(0), '{}');
	SELECT count(*) FILTER (WHERE n.needed AND NOT n.held), count(*) FILTER (WHERE n.held AND NOT n.needed AND NOT n.above),
		   count(*) FILTER (WHERE n.held), count(*) FILTER (WHERE NOT n.held)
	INTO unsafe, needless, held, free
	FROM (SELECT s.name = ANY (holders) AS held,
			EXISTS (SELECT FROM order_idempotency.outbox_0 o
					WHERE NOT (pg_visible_in_snapshot(o.xid, c.behind) AND (NOT c.behind_all_above OR o.position <= c.behind_position))
					  AND NOT (c.batch IS NOT NULL AND o.position <= c.progress AND pg_visible_in_snapshot(o.xid, c.batch))) AS needed,
			EXISTS (SELECT FROM order_idempotency.outbox_0 o
					WHERE o.position > c.behind_position
					  AND (c.batch IS NULL OR o.position > least(c.progress, c.batch_position))) AS above
		  FROM order_idempotency.subscriptions s JOIN order_idempotency.subscription_cursors c ON c.subscription = s.id) n;
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
END $$;

CREATE TEMP TABLE result AS SELECT d.* FROM generate_series(1, 100) i, LATERAL pg_temp.decisions(i) d;
SELECT diag(format('%s held, %s not', sum(held), sum(free))) FROM result;
SELECT is((SELECT sum(unsafe) FROM result), 0::numeric, 'who needs a table holds it');
SELECT is((SELECT sum(needless) FROM result), 0::numeric, 'nobody else does');
SELECT cmp_ok((SELECT least(sum(held), sum(free)) FROM result), '>', 300::numeric, 'both were so often');
SELECT * FROM finish();
