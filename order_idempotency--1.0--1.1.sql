/* order_idempotency--1.0--1.1.sql */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION order_idempotency UPDATE TO '1.1'" to load this file. \quit

-- The server keeps the library that it was started with.  That one lacks what
-- this version calls.
DO $do$
BEGIN
	CREATE FUNCTION order_idempotency.library_version() RETURNS text
		LANGUAGE C STABLE PARALLEL SAFE
		AS 'MODULE_PATHNAME', 'oi_library_version';
EXCEPTION WHEN undefined_function OR undefined_file THEN
	RAISE EXCEPTION 'the server runs an older library than order_idempotency 1.1 needs'
		USING ERRCODE = 'object_not_in_prerequisite_state',
			  HINT = 'Install the new library, restart the server, then update the extension again.';
END
$do$;
REVOKE ALL ON FUNCTION order_idempotency.library_version() FROM PUBLIC;
COMMENT ON FUNCTION library_version IS
'the version of the shared library that this session has loaded; where it is not the extension''s, restart the server or run ALTER EXTENSION order_idempotency UPDATE';

----------------------------------------------------------------------------
-- The installation; it has been written to
----------------------------------------------------------------------------

CREATE TABLE installation (
	id uuid NOT NULL
);
INSERT INTO installation (id) VALUES (pg_catalog.gen_random_uuid());

CREATE SEQUENCE in_use AS int CACHE 1;
SELECT pg_catalog.nextval('order_idempotency.in_use');
REVOKE ALL ON TABLE installation FROM PUBLIC;
REVOKE ALL ON SEQUENCE in_use FROM PUBLIC;
REVOKE ALL ON TYPE installation FROM PUBLIC;
COMMENT ON TABLE installation IS
'which installation of the extension this is: its only row is made by CREATE EXTENSION and is not dumped, so a restored database is another one; pg_upgrade keeps it';
COMMENT ON COLUMN installation.id IS 'a random UUID';
COMMENT ON SEQUENCE in_use IS
'called once, by the first write through the extension''s functions in this installation; not dumped, so that a restored log goes on in another incarnation';

----------------------------------------------------------------------------
-- Ledger: the key of a purged order may be used again
----------------------------------------------------------------------------

ALTER TABLE ledger DROP CONSTRAINT ledger_pkey;
ALTER TABLE ledger ALTER COLUMN order_key SET NOT NULL, ALTER COLUMN version SET NOT NULL;
CREATE INDEX ledger_order ON ledger (order_key, version);
COMMENT ON INDEX ledger_order IS 'finds the movements of an order';

----------------------------------------------------------------------------
-- Sink http
----------------------------------------------------------------------------

CREATE FUNCTION http_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_http_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_http
	NO HANDLER VALIDATOR http_sink_validator;
REVOKE ALL ON FUNCTION http_sink_validator(text[], oid) FROM PUBLIC;

COMMENT ON FOREIGN DATA WRAPPER order_idempotency_http IS
'sink that sends each event by a POST, as a CloudEvent 1.0 in binary mode; server options: url; allow_addresses (networks; default: public addresses), ca_file (takes pg_read_server_files), max_in_flight (1 to 256 requests, default 8), timeout (100 to 25000 ms for a request, default 10000); options of user mappings: secret (of Standard Webhooks), token (for Authorization: Bearer)';
COMMENT ON FUNCTION http_sink_validator IS 'validator of order_idempotency_http: checks the options of servers and user mappings when they are written';

----------------------------------------------------------------------------
-- Roles
----------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION grant_operator(role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM order_idempotency.grant_monitor(role);
	EXECUTE format('GRANT SELECT ON order_idempotency.orders, order_idempotency.ledger, '
				   'order_idempotency.outbox, order_idempotency.claims, order_idempotency.lifecycle, '
				   'order_idempotency.generations, order_idempotency.payment_deadlines, order_idempotency.installation, '
				   'order_idempotency.subscriptions, order_idempotency.subscription_cursors TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION order_idempotency.get_order, order_idempotency.order_history, '
				   'order_idempotency.create_subscription, order_idempotency.drop_subscription TO %s', role);
END
$$;
