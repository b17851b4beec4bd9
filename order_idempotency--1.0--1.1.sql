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
-- Ledger: the key of a purged order may be used again
----------------------------------------------------------------------------

ALTER TABLE ledger DROP CONSTRAINT ledger_pkey;
ALTER TABLE ledger ALTER COLUMN order_key SET NOT NULL, ALTER COLUMN version SET NOT NULL;
CREATE INDEX ledger_order ON ledger (order_key, version);
COMMENT ON INDEX ledger_order IS 'finds the movements of an order';
