--
-- Installation.  Promise 9, least privilege: the extension goes into a schema
-- of its own making, which nobody else could have prepared.
--
\set SHOW_CONTEXT never
DROP EXTENSION order_idempotency;
DROP SCHEMA order_idempotency;

-- somebody else's schema
CREATE ROLE regress_extension_other;
CREATE SCHEMA order_idempotency AUTHORIZATION regress_extension_other;
CREATE EXTENSION order_idempotency;
DROP SCHEMA order_idempotency;
DROP ROLE regress_extension_other;

-- one of our own with something in it
CREATE SCHEMA order_idempotency;
CREATE TABLE order_idempotency.x ();
CREATE EXTENSION order_idempotency;
DROP TABLE order_idempotency.x;
CREATE FUNCTION order_idempotency.x() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE EXTENSION order_idempotency;
DROP FUNCTION order_idempotency.x();
CREATE TYPE order_idempotency.x AS ENUM ('x');
CREATE EXTENSION order_idempotency;
DROP TYPE order_idempotency.x;

-- an empty one
CREATE EXTENSION IF NOT EXISTS order_idempotency;
SELECT extversion, extrelocatable FROM pg_extension WHERE extname = 'order_idempotency';
ALTER EXTENSION order_idempotency SET SCHEMA public;
CREATE EXTENSION order_idempotency;
DROP EXTENSION order_idempotency;
CREATE EXTENSION order_idempotency SCHEMA public;
DROP SCHEMA order_idempotency;

-- none
CREATE EXTENSION order_idempotency;
SELECT outcome FROM order_idempotency.create_order('extension 1', 1, 'EUR');

-- Dropped and created again in a session that has used it.
DROP EXTENSION order_idempotency;
SELECT order_idempotency.get_order('extension 1');
CREATE EXTENSION order_idempotency;
SELECT outcome FROM order_idempotency.create_order('extension 1', 1, 'EUR');
SELECT outcome FROM order_idempotency.claim_key('extension 1');
