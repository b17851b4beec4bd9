--
-- Lifecycles.  Promise 3, no path around the lifecycle: what the table says is
-- checked as a whole at commit, and is what every later statement goes by.
--
SET search_path = order_idempotency, public;
SELECT * FROM current_lifecycle ORDER BY from_state NULLS FIRST, to_state;

-- Begun under the built-in one.
SELECT outcome, state FROM create_order('lifecycle 1', 100, 'EUR', 'lifecycle alice');
SELECT outcome, state FROM transition_order('lifecycle 1', 'paid');
SELECT outcome, state FROM cancel_order('lifecycle 1');

-- A paid order can be cancelled with a refund.
BEGIN;
SELECT copy_default_lifecycle();
INSERT INTO lifecycle VALUES ('paid', 'cancelled', 'order.refunded', 'refund');
COMMIT;
SELECT * FROM current_lifecycle ORDER BY from_state NULLS FIRST, to_state;
SELECT outcome, state FROM cancel_order('lifecycle 1');
SELECT version, effect, debit_account, credit_account, amount FROM ledger WHERE order_key = 'lifecycle 1' ORDER BY version;
SELECT version, type FROM outbox WHERE key = 'lifecycle 1' ORDER BY position;
SELECT emit_event('order.refunded', 'lifecycle 1');

-- What is refused is refused when it is committed.
BEGIN;
DELETE FROM lifecycle WHERE from_state IS NULL;
COMMIT;
BEGIN;
INSERT INTO lifecycle VALUES ('cancelled', 'charged', 'order.charged', 'capture');
COMMIT;
BEGIN;
INSERT INTO lifecycle VALUES ('paid', 'parked', 'order.parked', NULL), ('created', 'parked', 'order.parked', NULL);
COMMIT;
BEGIN;
INSERT INTO lifecycle VALUES ('created', 'limbo', 'order.lost', NULL);
COMMIT;
BEGIN;
INSERT INTO lifecycle VALUES ('nowhere', 'paid', 'order.found', NULL);
COMMIT;
BEGIN;
INSERT INTO lifecycle VALUES (NULL, 'draft', 'order.drafted', NULL);
COMMIT;
INSERT INTO lifecycle VALUES ('paid', 'stolen', 'order.stolen', 'steal');
-- it is still what it was
SELECT * FROM current_lifecycle ORDER BY from_state NULLS FIRST, to_state;
SELECT outcome, state FROM create_order('lifecycle 2', 100, 'EUR', 'lifecycle alice');

-- A change that is rolled back is not in force.
BEGIN;
INSERT INTO lifecycle VALUES ('paid', 'lost', 'order.lost', NULL);
SELECT outcome FROM transition_order('lifecycle 2', 'paid');
SELECT allowed_transitions FROM get_order('lifecycle 2');
ROLLBACK;
SELECT outcome FROM transition_order('lifecycle 2', 'paid');
SELECT transition_order('lifecycle 2', 'lost');

-- A cycle: back and forth, each way by a request of its own.
BEGIN;
TRUNCATE lifecycle;
INSERT INTO lifecycle VALUES
	(NULL, 'open', 'case.opened', NULL),
	('open', 'waiting', 'case.waiting', NULL),
	('waiting', 'open', 'case.reopened', NULL),
	('open', 'closed', 'case.closed', NULL);
COMMIT;
SELECT outcome, state, version FROM create_order('lifecycle 3', 0, 'XXX');
SELECT outcome, state, version FROM transition_order('lifecycle 3', 'waiting', 'w1');
SELECT outcome, state, version FROM transition_order('lifecycle 3', 'open', 'o1');
SELECT outcome, state, version FROM transition_order('lifecycle 3', 'waiting', 'w2');
SELECT outcome, state, version FROM transition_order('lifecycle 3', 'open', 'o2');
SELECT outcome, state, version FROM transition_order('lifecycle 3', 'waiting', 'w1');
SELECT outcome, state, version FROM transition_order('lifecycle 3', 'closed');
SELECT version, state, request_key FROM order_history('lifecycle 3');
SELECT version, type FROM outbox WHERE key = 'lifecycle 3' ORDER BY position;

-- Orders of another time cannot be charged again under new rules.
SELECT allowed_transitions FROM get_order('lifecycle 2');
BEGIN;
TRUNCATE lifecycle;
INSERT INTO lifecycle VALUES
	(NULL, 'created', 'order.created', NULL),
	('created', 'paid', 'order.paid', 'hold'),
	('paid', 'completed', 'order.completed', 'capture');
COMMIT;
SELECT transition_order('lifecycle 2', 'completed');
SELECT version, effect FROM ledger WHERE order_key = 'lifecycle 2' ORDER BY version;

-- An empty table is the built-in one.
TRUNCATE lifecycle;
SELECT bool_and(built_in) FROM current_lifecycle;
SELECT outcome, state FROM transition_order('lifecycle 2', 'completed');
