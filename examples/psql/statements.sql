-- The functions of order_idempotency, as the scripts of client.sh call them:
--     :create_order ('key', 4990, 'EUR', 'alice', NULL, NULL, NULL, 'error');
-- directly a prepared statement.  Through PgBouncer in transaction mode the next
-- transaction may meet another session, where nothing was prepared: there the
-- function itself.
\if :pooled
\set create_order 'SELECT * FROM order_idempotency.create_order'
\set transition_order 'SELECT * FROM order_idempotency.transition_order'
\set get_order 'SELECT * FROM order_idempotency.get_order'
\set order_history 'SELECT * FROM order_idempotency.order_history'
\set claim_key 'SELECT * FROM order_idempotency.claim_key'
\set complete_key 'SELECT order_idempotency.complete_key'
\else
PREPARE create_order(text, bigint, text, text, jsonb, interval, jsonb, text) AS
	SELECT * FROM order_idempotency.create_order($1, $2, $3, $4, $5, $6, $7, $8);
PREPARE transition_order(text, text, text, jsonb, jsonb, text) AS
	SELECT * FROM order_idempotency.transition_order($1, $2, $3, $4, $5, $6);
PREPARE get_order(text) AS SELECT * FROM order_idempotency.get_order($1);
PREPARE order_history(text) AS SELECT * FROM order_idempotency.order_history($1);
PREPARE claim_key(text, jsonb, text, interval) AS
	SELECT * FROM order_idempotency.claim_key($1, $2, $3, $4);
PREPARE complete_key(text, jsonb, text, int) AS
	SELECT order_idempotency.complete_key($1, $2, $3, $4);
\set create_order 'EXECUTE create_order'
\set transition_order 'EXECUTE transition_order'
\set get_order 'EXECUTE get_order'
\set order_history 'EXECUTE order_history'
\set claim_key 'EXECUTE claim_key'
\set complete_key 'EXECUTE complete_key'
\endif
