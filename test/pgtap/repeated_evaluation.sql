-- Promise: a call that one statement evaluates again, as SELECT (f(...)).*
-- does for every column of the result, answers the same again; a call of its
-- own, in the same statement or a later one, is a repeat and says so.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(63);

-- SELECT (f(...)).*
CREATE TEMPORARY TABLE c1 AS SELECT (claim_key('c1', '{"a": 1}')).*;
SELECT is(outcome, 'claimed', 'claim_key: the first column') FROM c1;
SELECT is(attempt, 1, 'claim_key: the third') FROM c1;
SELECT is((SELECT (claim_key('c1', '{"a": 1}')).outcome), 'replayed', 'the next statement repeats it');
CREATE TEMPORARY TABLE c2 AS SELECT (claim_key('c2', lease => '1 hour')).*;
SELECT is(outcome, 'claimed', 'claim_key with a lease: the first column') FROM c2;
SELECT ok(lease_until > now(), 'claim_key with a lease: the last') FROM c2;
SELECT is((SELECT (claim_key('c2', lease => '1 hour')).outcome), 'in_progress', 'the next statement finds it at work');

CREATE TEMPORARY TABLE c3 AS
	SELECT (claim_key('c3')).outcome AS one, (claim_key('c3')).attempt, (claim_key('c3')).outcome AS other;
SELECT is(one || ' ' || other, 'claimed claimed', 'claim_key: the same column twice') FROM c3;
CREATE TEMPORARY TABLE c4 AS
	SELECT (claim_key('c4', lease => '1 hour')).outcome AS one, (claim_key('c4', lease => '1 hour')).outcome AS other,
		   (claim_key('c4', '1', lease => '1 hour')).outcome AS another;
SELECT is(one || ' ' || other || ' ' || another, 'claimed claimed in_progress', 'but another call is another call') FROM c4;

CREATE TEMPORARY TABLE o1 AS SELECT (create_order('o1', 100, 'EUR', 'alice')).*;
SELECT is(outcome, 'created', 'create_order') FROM o1;
SELECT is(order_key || state || version, 'o1created1', 'create_order: its other columns') FROM o1;
SELECT is(event_id, (SELECT event_id FROM outbox WHERE key = 'o1'), 'create_order: its event') FROM o1;
SELECT is((SELECT (create_order('o1', 100, 'EUR', 'alice')).outcome), 'replayed', 'the next statement repeats it');

CREATE TEMPORARY TABLE t1 AS SELECT (transition_order('o1', 'paid')).*;
SELECT is(outcome || state || version, 'appliedpaid2', 'transition_order') FROM t1;
SELECT is((SELECT (transition_order('o1', 'paid')).outcome), 'replayed', 'the next statement repeats it');
CREATE TEMPORARY TABLE t2 AS SELECT (transition_order('o1', 'completed', 'done-1')).*;
SELECT is(outcome || state || version, 'appliedcompleted3', 'transition_order with a request key') FROM t2;
SELECT is((SELECT (transition_order('o1', 'completed', 'done-1')).outcome), 'replayed', 'the next statement repeats it');
SELECT is((SELECT count(*) FROM outbox WHERE key = 'o1'), 3::bigint, 'one event a change');

CREATE TEMPORARY TABLE x1 AS
	SELECT (cancel_order(key, 'why')).* FROM create_order('x1', 100, 'EUR', 'alice') c(key);
SELECT is(outcome || state || version, 'cancelledcancelled2', 'cancel_order') FROM x1;
SELECT is((SELECT (cancel_order('x1', 'why')).outcome), 'replayed', 'the next statement repeats it');
CREATE TEMPORARY TABLE x2 AS SELECT (cancel_order('x2', if_missing => 'tombstone')).*;
SELECT is(outcome || state || version, 'tombstonedcancelled1', 'cancel_order with a tombstone') FROM x2;
SELECT is((SELECT (cancel_order('x2', if_missing => 'tombstone')).outcome), 'replayed', 'the next statement repeats it');

-- Outcomes that wrote nothing.
CREATE TEMPORARY TABLE r1 AS SELECT (create_order('x2', 1, 'EUR', on_conflict => 'report')).*;
SELECT is(outcome || state, 'refusedcancelled', 'create_order: refused') FROM r1;
CREATE TEMPORARY TABLE r2 AS SELECT (transition_order('nobody', 'paid', on_conflict => 'report')).*;
SELECT is(outcome, 'missing', 'transition_order: missing') FROM r2;

-- The rows of a batch: the second of the same key is a repeat.
SELECT pg_temp.rows_are($$SELECT outcome::text FROM (SELECT (claim_key(k)).* FROM (VALUES ('b1'), ('b1'), ('b2')) v(k)) r$$,
				  $$VALUES ('claimed'), ('replayed'), ('claimed')$$, 'a batch of claims');
SELECT pg_temp.rows_are($$SELECT outcome || attempt
					FROM (SELECT (claim_key(k, lease => '1 hour')).* FROM (VALUES ('b3'), ('b3'), ('b4')) v(k)) r$$,
				  $$VALUES ('claimed1'), ('in_progress1'), ('claimed1')$$, 'a batch of leased claims');
SELECT pg_temp.rows_are($$SELECT outcome || version
					FROM (SELECT (create_order(k, 100, 'EUR', 'alice')).*
						  FROM (VALUES ('b1'), ('b1'), ('b2'), ('b1')) v(k)) r$$,
				  $$VALUES ('created1'), ('replayed1'), ('created1'), ('replayed1')$$, 'a batch of orders');
SELECT pg_temp.rows_are($$SELECT outcome || state || version
					FROM (SELECT (transition_order(k, s)).*
						  FROM (VALUES ('b1', 'paid'), ('b1', 'paid'), ('b1', 'completed'), ('b2', 'paid')) v(k, s)) r$$,
				  $$VALUES ('appliedpaid2'), ('replayedpaid2'), ('appliedcompleted3'), ('appliedpaid2')$$,
				  'a batch of transitions');
SELECT pg_temp.rows_are($$SELECT outcome || amount
					FROM (SELECT a AS amount, (create_order('b5', a, 'EUR', on_conflict => 'report')).*
						  FROM (VALUES (1), (2), (1)) v(a)) r$$,
				  $$VALUES ('created1'), ('mismatch2'), ('replayed1')$$, 'a batch that contradicts itself');
SELECT pg_temp.rows_are($$SELECT r.outcome::text FROM (VALUES ('f1'), ('f2'), ('f1')) v(k), claim_key(v.k) r$$,
				  $$VALUES ('claimed'), ('claimed'), ('replayed')$$, 'a batch in FROM');

-- Two calls that stand apart in one statement.
SELECT pg_temp.rows_are($$SELECT (claim_key('u1')).outcome::text UNION ALL SELECT (claim_key('u2')).outcome::text$$,
				  $$VALUES ('claimed'), ('claimed')$$, 'calls for two keys');

-- Statements that share a plan, a function or a message.
PREPARE claim(text) AS SELECT (claim_key($1)).*;
CREATE TEMPORARY TABLE p1 AS EXECUTE claim('p1');
SELECT is(outcome || attempt, 'claimed1', 'a prepared statement') FROM p1;
CREATE TEMPORARY TABLE p2 AS EXECUTE claim('p1');
SELECT is(outcome, 'replayed', 'executed again') FROM p2;

CREATE FUNCTION pg_temp.loop(times int, call text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	outcomes text[];
	o text;
BEGIN
	FOR i IN 1 .. times LOOP
		EXECUTE call INTO o;
		outcomes := outcomes || o;
	END LOOP;
	RETURN outcomes;
END
$$;
SELECT is(pg_temp.loop(3, $$SELECT outcome FROM order_idempotency.claim_key('l1')$$),
		  ARRAY['claimed', 'replayed', 'replayed'], 'dynamic statements in one outer statement');
SELECT is(pg_temp.loop(3, $$SELECT (r).outcome FROM (SELECT order_idempotency.claim_key('l2') AS r) s$$),
		  ARRAY['claimed', 'replayed', 'replayed'], 'the same by a record');

CREATE FUNCTION pg_temp.expressions() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	outcomes text[];
	r order_idempotency.claim_result;
BEGIN
	FOR i IN 1 .. 3 LOOP
		r := order_idempotency.claim_key('l3');
		outcomes := outcomes || r.outcome::text;
	END LOOP;
	RETURN outcomes;
END
$$;
SELECT is(pg_temp.expressions(), ARRAY['claimed', 'replayed', 'replayed'], 'an expression that a loop evaluates again');

CREATE FUNCTION pg_temp.selects() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	outcomes text[];
	o text;
	v int;
BEGIN
	FOR i IN 1 .. 3 LOOP
		SELECT (order_idempotency.create_order('l4', 100, 'EUR', 'alice')).outcome,
			   (order_idempotency.create_order('l4', 100, 'EUR', 'alice')).version INTO o, v;
		outcomes := outcomes || (o || v);
	END LOOP;
	RETURN outcomes;
END
$$;
SELECT is((pg_temp.selects())[2:3], ARRAY['replayed1', 'replayed1'], 'a statement that a loop runs again');

CREATE FUNCTION pg_temp.expanded() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
	outcomes text[];
	r record;
BEGIN
	FOR i IN 1 .. 3 LOOP
		SELECT (order_idempotency.create_order('l5', 100, 'EUR', 'alice')).* INTO r;
		outcomes := outcomes || (r.outcome || r.state || r.version);
	END LOOP;
	RETURN outcomes;
END
$$;
SELECT is(pg_temp.expanded(), ARRAY['createdcreated1', 'replayedcreated1', 'replayedcreated1'],
		  'an expanded statement that a loop runs again');

CREATE FUNCTION pg_temp.by_sql(k text) RETURNS SETOF claim_result LANGUAGE sql VOLATILE AS $$
	SELECT (order_idempotency.claim_key(k)).*
$$;
SELECT is(outcome || attempt, 'claimed1', 'in a function in SQL') FROM pg_temp.by_sql('q1');
SELECT is(outcome || attempt, 'replayed1', 'called again') FROM pg_temp.by_sql('q1');

-- An attempt that failed in a savepoint does not answer for the next one.
CREATE FUNCTION pg_temp.retried() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR i IN 1 .. 2 LOOP
		BEGIN
			SELECT (order_idempotency.claim_key('s1')).* INTO r;
			IF i = 1 THEN
				RAISE EXCEPTION 'roll this back';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			r := NULL;
		END;
	END LOOP;
	RETURN r.outcome;
END
$$;
SELECT is(pg_temp.retried(), 'claimed', 'a claim that was rolled back in the same statement is made anew');
SELECT is((SELECT outcome FROM claim_key('s1')), 'replayed', 'and is there');
CREATE FUNCTION pg_temp.retried_order() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	FOR i IN 1 .. 2 LOOP
		BEGIN
			SELECT (order_idempotency.create_order('s2', 100, 'EUR', 'alice')).* INTO r;
			IF i = 1 THEN
				RAISE EXCEPTION 'roll this back';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			r := NULL;
		END;
	END LOOP;
	RETURN r.outcome;
END
$$;
SELECT is(pg_temp.retried_order(), 'created', 'so is an order');
SELECT is((SELECT count(*) FROM outbox WHERE key = 's2'), 1::bigint, 'with its event');

-- What a statement was told holds for that statement only, also where nothing was written in between.
CREATE FUNCTION pg_temp.patient(k text, columns int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	o text;
	call text := format('(order_idempotency.claim_key(%L, lease => ''1 hour'')).outcome', k);
BEGIN
	PERFORM (order_idempotency.claim_key(k, lease => '10 ms')).outcome;
	EXECUTE 'SELECT ' || call INTO o;
	WHILE o = 'in_progress' AND NOT EXISTS (SELECT FROM order_idempotency.abandoned_claims a WHERE a.key = k) LOOP
		PERFORM pg_sleep(0.001);
	END LOOP;
	IF o = 'in_progress' THEN
		-- a statement that looks different in memory, too
		EXECUTE format('SELECT %s FROM (SELECT %s %s AS o OFFSET 0) s', 'o', repeat('clock_timestamp(), ', columns), call) INTO o;
	END IF;
	RETURN o;
END
$$;
SELECT is(pg_temp.patient('z' || i, i), 'claimed', 'a transaction that asks again when a lease is over gets the claim: ' || i)
FROM generate_series(0, 11) i;

-- A cursor goes on where other statements have been.
DECLARE walk CURSOR FOR SELECT (claim_key(k)).* FROM (VALUES ('w1'), ('w2'), ('w1')) v(k);
CREATE TEMPORARY TABLE walked (outcome text, response jsonb, attempt int, claimed_at timestamptz, lease_until timestamptz);
CREATE FUNCTION pg_temp.fetch_one() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	walk refcursor := 'walk';
	r record;
BEGIN
	FETCH walk INTO r;
	RETURN r.outcome || r.attempt;
END
$$;
SELECT is(pg_temp.fetch_one(), 'claimed1', 'a cursor: its first row');
SELECT is((SELECT (claim_key('w2')).outcome), 'claimed', 'another statement in between');
SELECT is(pg_temp.fetch_one(), 'replayed1', 'a cursor: its second row');
SELECT is(pg_temp.fetch_one(), 'replayed1', 'a cursor: its third row');
CLOSE walk;
CREATE FUNCTION pg_temp.two_cursors() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	a CURSOR FOR SELECT (order_idempotency.claim_key('w3')).outcome;
	b CURSOR FOR SELECT 1 + 1, (order_idempotency.claim_key('w3')).outcome;
	o text;
	p text;
	n int;
BEGIN
	OPEN a;
	OPEN b;
	FETCH a INTO o;
	FETCH b INTO n, p;
	CLOSE a;
	CLOSE b;
	RETURN o || ' ' || p;
END
$$;
SELECT is(pg_temp.two_cursors(), 'claimed replayed', 'two cursors that were opened at once are two statements');

-- emit_event has a single column: each call is an event of its own.
SELECT is((SELECT count(DISTINCT e) FROM (SELECT emit_event('mail.sent', 'm') AS e FROM generate_series(1, 3)) s),
		  3::bigint, 'emit_event: a call, an event');
SELECT is((SELECT count(*) FROM outbox WHERE type = 'mail.sent'), 3::bigint, 'three in all');
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

SELECT * FROM finish();
ROLLBACK;
