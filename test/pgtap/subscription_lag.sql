-- Promise 8: how far a subscription is behind can be asked at any time, at a cost that has a bound; and
-- what is said is what the next batches will have.
--
-- Bugs that this catches: a late row that is not counted, or one counted that was delivered; a lag of 0
-- while something is waiting; a look at the whole log.  Tried with each of these planted: late rows of
-- one of the two moments left out, of the open transactions left out, one position too few, no LIMIT.
BEGIN;
\ir lib/tools.psql
SET search_path = order_idempotency, public;
SET jit = off;
SELECT plan(10);

CREATE SERVER files FOREIGN DATA WRAPPER order_idempotency_file OPTIONS (path '/nonexistent/events');
SELECT create_subscription('s', 'files');
SELECT setseed(0.5);

-- A log whose positions were drawn in another order than the xids, in two incarnations; every cursor that
-- there could be, as the worker moves it; and what batch.c would still read.
INSERT INTO outbox_0 (position, xid, event_id, key, version, type, created_at)
SELECT i + CASE WHEN i > 1500 THEN 1::bigint << 44 ELSE 0 END, (1000 + i / 3 + (random() * 30)::int)::text::xid8,
	   gen_random_uuid(), 'k', 1, 't.' || i % 3, now()
FROM generate_series(1, 2000) i;

CREATE FUNCTION pg_temp.last_xid(upto bigint) RETURNS bigint LANGUAGE sql AS
	$$SELECT COALESCE(max(xid::text::bigint), 1000) FROM outbox_0 WHERE position <= upto AND position >> 44 = upto >> 44$$;

-- a snapshot that does not see some of the last 40 xids
CREATE FUNCTION pg_temp.snapshot(xmax bigint, unseen bigint[]) RETURNS pg_snapshot LANGUAGE sql AS $$
	SELECT format('%s:%s:%s', COALESCE(min(x), xmax), xmax, COALESCE(string_agg(x::text, ',' ORDER BY x), ''))::pg_snapshot
	FROM unnest(unseen) x WHERE x < xmax
$$;

CREATE FUNCTION pg_temp.move(n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	p bigint := (random() * 1400)::int;
	p2 bigint := p + (random() * 100)::int;
	inc bigint := CASE WHEN n % 5 = 0 THEN 1::bigint << 44 ELSE 0 END;
	x bigint;
	x2 bigint;
	unseen bigint[];
	with_batch bool := n % 3 > 0;
BEGIN
	IF inc > 0 THEN
		p := 1500 + p % 400; p2 := p + 50;
	END IF;
	x := pg_temp.last_xid(p + inc) + 1 - (random() * 5)::int;
	x2 := GREATEST(x, pg_temp.last_xid(p2 + inc) + 1 - (random() * 5)::int);
	unseen := ARRAY(SELECT v FROM generate_series(x - 40, x - 1) v WHERE random() < 0.3);
	UPDATE subscription_cursors SET behind = pg_temp.snapshot(x, unseen), behind_position = p + inc,
		behind_next_xid = (pg_temp.last_xid(p + inc) + 1)::text::xid8, behind_all_above = n % 7 = 0,
		batch = CASE WHEN with_batch THEN pg_temp.snapshot(x2, ARRAY(
			SELECT v FROM unnest(unseen || ARRAY(SELECT generate_series(x, x2))) v WHERE random() < 0.5)) END,
		batch_position = CASE WHEN with_batch THEN p2 + inc END,
		batch_next_xid = CASE WHEN with_batch THEN (GREATEST(pg_temp.last_xid(p2 + inc), x2) + 1)::text::xid8 END,
		progress = CASE WHEN with_batch THEN p2 + inc - (random() * 120)::int ELSE 0 END;
	UPDATE subscriptions SET event_types = CASE WHEN n % 2 = 0 THEN '{t.1}'::text[] END;
END
$$;

CREATE FUNCTION pg_temp.truth(OUT events bigint, OUT late bigint) LANGUAGE sql AS $$
	SELECT count(*), count(*) FILTER (WHERE o.position <= GREATEST(c.behind_position, c.progress))
	FROM outbox o, subscription_cursors c, subscriptions s
	WHERE o.position >> 44 >= c.behind_position >> 44
	  AND (s.event_types IS NULL OR o.type = ANY (s.event_types))
	  AND (o.position >> 44 > c.behind_position >> 44
		   OR (((c.behind_all_above AND o.position > c.behind_position) OR NOT pg_visible_in_snapshot(o.xid, c.behind))
			   AND (c.batch IS NULL OR o.position > c.progress OR NOT pg_visible_in_snapshot(o.xid, c.batch))))
$$;

CREATE TEMP TABLE compared (n int, said bigint, truth bigint, late bigint);
DO $$
BEGIN
	FOR i IN 1 .. 60 LOOP
		PERFORM pg_temp.move(i);
		INSERT INTO compared
		SELECT i, l.events, t.events, t.late FROM subscriptions s, subscription_lag(s.id) l, pg_temp.truth() t;
	END LOOP;
END
$$;
SELECT is_empty('SELECT * FROM compared WHERE said <> truth', 'what is said is what there is, wherever the cursor is');
SELECT cmp_ok((SELECT count(*) FROM compared WHERE late > 0), '>', 30::bigint, 'late rows among it');

-- A long backlog: 125,000 rows are looked at, and what is behind them is estimated.
SELECT setval('outbox_position', (SELECT max(position) FROM outbox));
SELECT seek_to_position('s', 1::bigint << 62);
UPDATE subscriptions SET event_types = NULL;
SELECT is((SELECT lag_events FROM subscription_status), 0::bigint, 'nothing is left');
SELECT count(emit_event('t.a', 'k', '{"a": 1}')) AS written FROM generate_series(1, 125000) \gset
SELECT count(emit_event('t.b', 'k')) AS more FROM generate_series(1, 1000) \gset
SELECT is((SELECT lag_events FROM subscription_status), 126000::bigint, 'of a long backlog about as much is said as there is');
UPDATE subscriptions SET event_types = '{t.a}';
SELECT is((SELECT lag_events FROM subscription_status), 126000::bigint, 'what is behind the rows looked at is taken to be as they are');
UPDATE subscriptions SET event_types = '{t.b}';
SELECT cmp_ok((SELECT lag_events FROM subscription_status), '>', 0::bigint, 'and something may be there where nothing was so far');
SELECT seek_to_position('s', (SELECT max(position) - 1000 FROM outbox));
SELECT pg_temp.rows_are('SELECT lag_events, oldest_waiting IS NOT NULL, lag_bytes BETWEEN 100000 AND 200000 FROM subscription_status',
						'VALUES (1000::bigint, true, true)', 'nearer to the end it is exact');
SELECT is((SELECT in_flight FROM subscription_status), 0, 'in flight: nothing');

-- An owner who is gone.
UPDATE subscriptions SET owner = 1::oid::regrole;
SELECT is((SELECT detail FROM subscription_status),
		  'Its owner was dropped; a superuser takes it over with resume_subscription().', 'its owner is gone');
SELECT resume_subscription('s');
SELECT pg_temp.rows_are('SELECT owner, detail FROM subscription_status', 'VALUES (current_user::regrole, NULL::text)',
						'taken over');

SELECT * FROM finish();
ROLLBACK;
