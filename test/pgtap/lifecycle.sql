-- Promise 3, no path around the lifecycle, for lifecycles of one's own: what
-- the table says is in force at once and as a whole, with cycles and refunds,
-- and an order that was begun under another one keeps its money right.
BEGIN;
\ir lib/tools.psql
\ir lib/story.psql
SET search_path = order_idempotency, public;
SELECT plan(71);
-- what a COMMIT would do
\set check_now 'SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED;'

-- The built-in one.
SELECT pg_temp.rows_are($$SELECT from_state::text, to_state::text, event_type::text, ledger_effect::text, built_in
					FROM current_lifecycle ORDER BY from_state NULLS FIRST, to_state$$, $$VALUES
	(NULL, 'created', 'order.created', 'hold', true),
	('created', 'cancelled', 'order.cancelled', 'release', true),
	('created', 'paid', 'order.paid', 'capture', true),
	('paid', 'completed', 'order.completed', NULL, true)$$, 'an empty table means the built-in one');
SELECT is_empty('SELECT * FROM lifecycle', 'of which the table has no rows');
SELECT set_eq('SELECT * FROM default_lifecycle()',
			  'SELECT from_state, to_state, event_type, ledger_effect FROM current_lifecycle',
			  'default_lifecycle shows the same');

-- A copy of it, to be edited.
SELECT lives_ok('SELECT copy_default_lifecycle()', 'copy_default_lifecycle');
SELECT lives_ok('SET CONSTRAINTS ALL IMMEDIATE', 'is accepted');
SET CONSTRAINTS ALL DEFERRED;
SELECT set_eq('SELECT * FROM lifecycle', 'SELECT * FROM default_lifecycle()', 'puts the same rows into the table');
SELECT is((SELECT bool_or(built_in) FROM current_lifecycle), false, 'which are then what is in force');
SELECT throws_ok('SELECT copy_default_lifecycle()', '23505', NULL, 'it does not overwrite');

-- Paid to cancelled, with a refund.
SELECT create_order('f1', 100, 'EUR', 'alice');
SELECT transition_order('f1', 'paid');
SELECT is((SELECT allowed_transitions FROM get_order('f1')), ARRAY['completed'], 'paid: only completed');
SELECT is((SELECT outcome FROM cancel_order('f1')), 'ignored', 'a cancellation is too late');
INSERT INTO lifecycle VALUES ('paid', 'cancelled', 'order.refunded', 'refund');
SELECT lives_ok('SET CONSTRAINTS ALL IMMEDIATE', 'a refund is accepted');
SET CONSTRAINTS ALL DEFERRED;
SELECT set_eq($$SELECT unnest(allowed_transitions) FROM get_order('f1')$$, ARRAY['completed', 'cancelled'],
			  'paid: may be cancelled now');
SELECT is((SELECT outcome || state FROM cancel_order('f1', 'broken', 'refund-1')), 'cancelledcancelled',
		  'a paid order is cancelled');
SELECT is((SELECT money_status FROM get_order('f1')), 'returned', 'its money is returned');
SELECT pg_temp.rows_are($$SELECT effect::text FROM ledger WHERE order_key = 'f1' ORDER BY version$$,
				  $$VALUES ('hold'), ('capture'), ('refund')$$, 'in three movements');
SELECT is((SELECT type FROM outbox WHERE key = 'f1' AND version = 3), 'order.refunded', 'and told as what it is');
SELECT create_order('f2', 100, 'EUR', 'alice');
SELECT is((SELECT outcome FROM cancel_order('f2')), 'cancelled', 'an unpaid one is cancelled as before');
SELECT is((SELECT effect FROM ledger WHERE order_key = 'f2' AND version = 2), 'release', 'with a release');
SELECT throws_ok($$SELECT emit_event('order.refunded', 'f1')$$, '22023', NULL, 'its event cannot be forged either');
SELECT is_empty('SELECT * FROM story_faults', 'state, history, ledger and outbox agree');

-- Without the rows, the built-in one again.
SELECT create_order('f3', 100, 'EUR', 'alice');
SELECT transition_order('f3', 'paid');
DELETE FROM lifecycle;
SELECT lives_ok('SET CONSTRAINTS ALL IMMEDIATE', 'an empty table is accepted');
SET CONSTRAINTS ALL DEFERRED;
SELECT is((SELECT bool_and(built_in) FROM current_lifecycle), true, 'and means the built-in one');
SELECT is((SELECT outcome FROM cancel_order('f3')), 'ignored', 'where a paid order stays paid');
SELECT isnt(emit_event('order.refunded', 'f1'), NULL, 'and order.refunded is nobody''s event');

-- What is rolled back was never in force.
SELECT is((pg_temp.ending($$DO 'BEGIN
	PERFORM order_idempotency.copy_default_lifecycle();
	INSERT INTO order_idempotency.lifecycle VALUES (''paid'', ''cancelled'', ''order.refunded'', ''refund'');
	IF (SELECT outcome FROM order_idempotency.cancel_order(''f3'')) <> ''cancelled'' THEN
		RAISE EXCEPTION ''not in force'';
	END IF;
	RAISE division_by_zero; END'$$)).code, '22012', 'a change of the lifecycle is used, then rolled back');
SELECT is((SELECT state FROM get_order('f3')), 'paid', 'so is what was done under it');
SELECT is((SELECT outcome FROM cancel_order('f3')), 'ignored', 'the one before is in force');
SELECT throws_ok($$SELECT transition_order('f3', 'cancelled')$$, 'OI003', NULL, 'in every respect');

-- Other statements that change it.
SELECT copy_default_lifecycle();
UPDATE lifecycle SET event_type = 'order.settled' WHERE to_state = 'completed';
SELECT is((SELECT outcome FROM transition_order('f3', 'completed')), 'applied', 'after an UPDATE');
SELECT is((SELECT type FROM outbox WHERE key = 'f3' AND version = 3), 'order.settled', 'the new name is used');
:check_now
TRUNCATE lifecycle;
SELECT create_order('f4', 100, 'EUR', 'alice');
SELECT transition_order('f4', 'paid');
SELECT transition_order('f4', 'completed');
SELECT is((SELECT type FROM outbox WHERE key = 'f4' AND version = 3), 'order.completed', 'after a TRUNCATE the built-in one is');

-- A cycle, money that is taken late, a refund at the end.
INSERT INTO lifecycle VALUES
	(NULL, 'draft', 'basket.opened', NULL),
	('draft', 'ready', 'basket.ready', NULL),
	('ready', 'draft', 'basket.reopened', NULL),
	('ready', 'reserved', 'basket.reserved', 'hold'),
	('draft', 'cancelled', 'basket.dropped', NULL),
	('reserved', 'shipped', 'basket.shipped', 'capture'),
	('shipped', 'delivered', 'basket.delivered', NULL),
	('delivered', 'returned', 'basket.returned', 'refund');
SELECT lives_ok('SET CONSTRAINTS ALL IMMEDIATE', 'a lifecycle with a cycle is accepted');
SET CONSTRAINTS ALL DEFERRED;
SELECT is((SELECT outcome || state FROM create_order('g1', 100, 'EUR', 'bob')), 'createddraft', 'the initial state is its own');
SELECT is((SELECT money_status FROM get_order('g1')), 'none', 'with no money moved');
SELECT is((SELECT count(*) FROM ledger WHERE order_key = 'g1'), 0::bigint, 'nor a row in the ledger');
SELECT is((SELECT outcome || version FROM transition_order('g1', 'ready', 'r1')), 'applied2', 'to and');
SELECT is((SELECT outcome || version FROM transition_order('g1', 'draft', 'd1')), 'applied3', 'fro');
SELECT is((SELECT outcome || state FROM transition_order('g1', 'ready')), 'replayeddraft',
		  'without a request key a state once passed through is a repeat');
SELECT is((SELECT outcome || version FROM transition_order('g1', 'ready', 'r2')), 'applied4', 'with a new one it is not');
SELECT is((SELECT outcome || state || version FROM transition_order('g1', 'ready', 'r1')), 'replayedready4', 'with an old one it is');
SELECT is((SELECT event_id FROM transition_order('g1', 'ready', 'r1')),
		  (SELECT event_id FROM order_history('g1') WHERE version = 2), 'of the change that it made');
SELECT is((SELECT event_id FROM transition_order('g1', 'ready', 'r2')),
		  (SELECT event_id FROM order_history('g1') WHERE version = 4), 'each its own');
SELECT is((SELECT outcome FROM cancel_order('g1')), 'ignored', 'from here it cannot be cancelled');
SELECT transition_order('g1', 'reserved');
SELECT transition_order('g1', 'shipped');
SELECT transition_order('g1', 'delivered');
SELECT transition_order('g1', 'returned');
SELECT pg_temp.rows_are($$SELECT version, effect::text, debit_account::text, credit_account::text
					FROM ledger WHERE order_key = 'g1' ORDER BY version$$,
	$$VALUES (5, 'hold', 'bob', 'escrow'), (6, 'capture', 'escrow', 'revenue'), (8, 'refund', 'revenue', 'bob')$$,
	'the money moves where the lifecycle says');
SELECT is((SELECT count(*) FROM account_balance WHERE account = 'bob' AND balance <> 0), 0::bigint, 'and is back in the end');
SELECT pg_temp.rows_are($$SELECT type::text FROM outbox WHERE key = 'g1' ORDER BY version$$,
	$$VALUES ('basket.opened'), ('basket.ready'), ('basket.reopened'), ('basket.ready'), ('basket.reserved'),
			 ('basket.shipped'), ('basket.delivered'), ('basket.returned')$$, 'under its events');
SELECT is_empty($$SELECT * FROM story_faults WHERE key = 'g1'$$, 'state, history, ledger and outbox agree');

-- Orders of the lifecycle before are in states that this one does not know.
SELECT is((SELECT allowed_transitions FROM get_order('f4')), '{}', 'an order in an unknown state goes nowhere');
SELECT throws_ok($$SELECT transition_order('f4', 'delivered')$$, 'OI003', NULL, 'whatever is asked of it');
SELECT is((SELECT outcome FROM transition_order('f4', 'paid')), 'replayed', 'its past is still known');
SELECT is((SELECT outcome FROM create_order('f4', 100, 'EUR', 'alice')), 'replayed', 'and so is its creation');

-- A lifecycle in which a state that orders are in means something else for the money.
TRUNCATE lifecycle;
SELECT create_order('h-held', 100, 'EUR', 'carol');
SELECT create_order('h-captured', 100, 'EUR', 'carol');
SELECT transition_order('h-captured', 'paid');
INSERT INTO lifecycle VALUES
	(NULL, 'created', 'order.created', NULL),
	('created', 'paid', 'order.paid', 'hold'),
	('paid', 'completed', 'order.completed', 'capture'),
	('paid', 'cancelled', 'order.cancelled', 'release');
SELECT lives_ok('SET CONSTRAINTS ALL IMMEDIATE', 'the lifecycle by itself is right');
SET CONSTRAINTS ALL DEFERRED;
SELECT throws_ok($$SELECT transition_order('h-captured', 'completed')$$, 'OI003', NULL, 'no second capture');
SELECT throws_ok($$UPDATE orders SET state = 'completed' WHERE key = 'h-captured'$$, 'OI003', NULL, 'not by UPDATE either');
SELECT is((pg_temp.ending($$SELECT transition_order('h-captured', 'cancelled')$$)).code, 'OI003',
		  'no release of what was captured');
SELECT throws_ok($$SELECT transition_order('h-held', 'paid')$$, 'OI003', NULL, 'no second hold');
SELECT is((SELECT string_agg(order_key || ' ' || effect, ', ' ORDER BY order_key, version)
		   FROM ledger WHERE order_key LIKE 'h-%'), 'h-captured hold, h-captured capture, h-held hold',
		  'their movements are as they were');
SELECT create_order('h-new', 100, 'EUR', 'carol');
SELECT transition_order('h-new', 'paid');
SELECT is((SELECT outcome FROM transition_order('h-new', 'completed')), 'applied', 'new orders go their way');
SELECT is((SELECT string_agg(effect, ' ' ORDER BY version) FROM ledger WHERE order_key = 'h-new'), 'hold capture',
		  'with the money of that way');

-- A tombstone stays one, also where cancelled orders can be taken up again.
TRUNCATE lifecycle;
INSERT INTO lifecycle VALUES (NULL, 'open', 'case.opened', NULL), ('open', 'cancelled', 'case.cancelled', NULL),
	('cancelled', 'open', 'case.reopened', NULL);
:check_now
SELECT create_order('j1', 1, 'EUR');
SELECT cancel_order('j1', request_key => 'c1');
SELECT is((SELECT outcome FROM transition_order('j1', 'open', 'o1')), 'applied', 'a cancelled order that is taken up again');
SELECT is((SELECT outcome FROM cancel_order('j1', request_key => 'c2')), 'cancelled', 'and cancelled again');
SELECT is((SELECT outcome FROM cancel_order('j2', if_missing => 'tombstone')), 'tombstoned', 'a tombstone');
SELECT is((SELECT allowed_transitions FROM get_order('j2')), '{}', 'goes nowhere');
SELECT throws_ok($$SELECT transition_order('j2', 'open')$$, 'OI003', NULL, 'by function');
SELECT throws_ok($$UPDATE orders SET state = 'open' WHERE key = 'j2'$$, 'OI003', NULL, 'or by UPDATE');
SELECT is((SELECT outcome FROM create_order('j2', 1, 'EUR', on_conflict => 'report')), 'refused', 'and is not created');

-- A lifecycle that cannot cancel.
TRUNCATE lifecycle;
INSERT INTO lifecycle VALUES (NULL, 'open', 'case.opened', NULL), ('open', 'closed', 'case.closed', NULL);
:check_now
SELECT create_order('i1', 1, 'EUR');
SELECT is((SELECT outcome || state FROM cancel_order('i1')), 'ignoredopen', 'without a state cancelled nothing is cancelled');

-- What it takes to write it.
SELECT throws_ok($$INSERT INTO lifecycle VALUES ('open', 'closed', 'case.again', NULL)$$, '23505', NULL, 'one row a pair');
SELECT throws_ok($$INSERT INTO lifecycle VALUES (NULL, 'open', 'case.again', NULL)$$, '23505', NULL, 'one for the initial state too');
SELECT throws_ok($$INSERT INTO lifecycle VALUES ('open', NULL, 'case.again', NULL)$$, '23502', NULL, 'to somewhere');
SELECT throws_ok($$INSERT INTO lifecycle VALUES ('open', 'lost', NULL, NULL)$$, '23502', NULL, 'under some name');

SELECT * FROM finish();
ROLLBACK;
