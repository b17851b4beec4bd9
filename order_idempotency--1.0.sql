/* order_idempotency--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION order_idempotency" to load this file. \quit

-- A schema that somebody else made beforehand could hold anything, and its
-- owner could put more into it later: only one of our own will do.
DO $$
BEGIN
	IF (SELECT n.nspowner <> current_user::pg_catalog.regrole::pg_catalog.oid
		FROM pg_catalog.pg_namespace n WHERE n.nspname = 'order_idempotency')
	THEN
		RAISE EXCEPTION 'schema "order_idempotency" belongs to another role'
			USING ERRCODE = 'insufficient_privilege',
				  HINT = 'Drop or rename that schema, then create the extension again.';
	END IF;
	IF EXISTS (SELECT FROM pg_catalog.pg_class c
			   WHERE c.relnamespace = 'order_idempotency'::pg_catalog.regnamespace)
	   OR EXISTS (SELECT FROM pg_catalog.pg_proc p
				  WHERE p.pronamespace = 'order_idempotency'::pg_catalog.regnamespace)
	   OR EXISTS (SELECT FROM pg_catalog.pg_type t
				  WHERE t.typnamespace = 'order_idempotency'::pg_catalog.regnamespace)
	THEN
		RAISE EXCEPTION 'schema "order_idempotency" is not empty'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Drop or rename that schema, then create the extension again.';
	END IF;
END
$$;

REVOKE ALL ON SCHEMA order_idempotency FROM PUBLIC;

----------------------------------------------------------------------------
-- Types
----------------------------------------------------------------------------

CREATE TYPE claim_result AS (
	outcome text COLLATE "C",
	response jsonb,
	attempt int,
	claimed_at timestamptz,
	lease_until timestamptz
);

CREATE TYPE order_result AS (
	order_key text COLLATE "C",
	outcome text COLLATE "C",
	state text COLLATE "C",
	version int,
	event_id uuid,
	changed_at timestamptz,
	detail text
);

CREATE TYPE order_step AS (
	version int,
	state text COLLATE "C",
	at timestamptz,
	event_id uuid,
	request_key text COLLATE "C",
	reason text
);

----------------------------------------------------------------------------
-- Generations: which of a store's fixed tables are in use.  No row for a
-- store means that its slot 0 is current and the only one in use.  The
-- relation is also the gate that claims pass (see src/README).
----------------------------------------------------------------------------

CREATE TABLE generations (
	store text COLLATE "C" NOT NULL CHECK (store IN ('claims', 'outbox')),
	slot int NOT NULL CHECK (slot BETWEEN 0 AND 3),
	generation bigint NOT NULL,
	started_at timestamptz NOT NULL,
	ended_at timestamptz,
	PRIMARY KEY (store, slot),
	UNIQUE (store, generation)
);

CREATE FUNCTION invalidate_caches() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_invalidate_caches';
CREATE TRIGGER invalidate_caches
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON generations
	FOR EACH STATEMENT EXECUTE FUNCTION invalidate_caches();

----------------------------------------------------------------------------
-- Claims
----------------------------------------------------------------------------

CREATE TABLE claims_0 (
	key_hash uuid NOT NULL PRIMARY KEY,
	claimed_at timestamptz NOT NULL,
	lease_until timestamptz,
	completed_at timestamptz,
	attempt int NOT NULL,
	request_hash bytea,
	scope text COLLATE "C",
	key text COLLATE "C",
	response jsonb
) WITH (fillfactor = 90);
CREATE TABLE claims_1 (LIKE claims_0 INCLUDING ALL);
CREATE TABLE claims_2 (LIKE claims_0 INCLUDING ALL);
CREATE TABLE claims_3 (LIKE claims_0 INCLUDING ALL);

CREATE VIEW claims AS
	SELECT 0 AS slot, c.* FROM claims_0 c UNION ALL
	SELECT 1, c.* FROM claims_1 c UNION ALL
	SELECT 2, c.* FROM claims_2 c UNION ALL
	SELECT 3, c.* FROM claims_3 c;

CREATE VIEW abandoned_claims AS
	SELECT c.scope, c.key, c.attempt, c.claimed_at, c.lease_until
	FROM claims c
	WHERE c.lease_until < pg_catalog.clock_timestamp() AND c.completed_at IS NULL;

CREATE FUNCTION claim_key(key text, request jsonb = NULL, scope text = 'default', lease interval = NULL)
	RETURNS claim_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 50
	AS 'MODULE_PATHNAME', 'oi_claim_key';

CREATE FUNCTION complete_key(key text, response jsonb = NULL, scope text = 'default', attempt int = NULL)
	RETURNS text
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 50
	AS 'MODULE_PATHNAME', 'oi_complete_key';

CREATE FUNCTION extend_key(key text, lease interval, scope text, attempt int)
	RETURNS text
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 50
	AS 'MODULE_PATHNAME', 'oi_extend_key';

CREATE FUNCTION release_key(key text, scope text = 'default', attempt int = NULL)
	RETURNS text
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 50
	AS 'MODULE_PATHNAME', 'oi_release_key';

----------------------------------------------------------------------------
-- Lifecycle
----------------------------------------------------------------------------

CREATE TABLE lifecycle (
	from_state text COLLATE "C",
	to_state text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(to_state) BETWEEN 1 AND 63),
	event_type text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(event_type) BETWEEN 1 AND 255),
	ledger_effect text COLLATE "C" CHECK (ledger_effect IN ('hold', 'capture', 'release', 'refund')),
	UNIQUE NULLS NOT DISTINCT (from_state, to_state)
);

CREATE FUNCTION lifecycle_check() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_lifecycle_check';

CREATE TRIGGER invalidate_caches
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON lifecycle
	FOR EACH STATEMENT EXECUTE FUNCTION invalidate_caches();
CREATE CONSTRAINT TRIGGER lifecycle_check
	AFTER INSERT OR UPDATE OR DELETE ON lifecycle
	DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION lifecycle_check();

CREATE FUNCTION default_lifecycle(OUT from_state text, OUT to_state text, OUT event_type text, OUT ledger_effect text)
	RETURNS SETOF record
	LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 4
	AS 'MODULE_PATHNAME', 'oi_default_lifecycle';

CREATE VIEW current_lifecycle AS
	SELECT l.from_state, l.to_state, l.event_type, l.ledger_effect, false AS built_in
	FROM lifecycle l
	UNION ALL
	SELECT d.from_state, d.to_state, d.event_type, d.ledger_effect, true
	FROM default_lifecycle() d
	WHERE NOT EXISTS (SELECT FROM lifecycle);

CREATE FUNCTION copy_default_lifecycle() RETURNS void
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
	INSERT INTO order_idempotency.lifecycle (from_state, to_state, event_type, ledger_effect)
	SELECT d.from_state, d.to_state, d.event_type, d.ledger_effect
	FROM order_idempotency.default_lifecycle() d;
	$$;

----------------------------------------------------------------------------
-- Orders
----------------------------------------------------------------------------

CREATE TABLE orders (
	key text COLLATE "C" NOT NULL PRIMARY KEY
		CHECK (pg_catalog.octet_length(key) BETWEEN 1 AND 255),
	state text COLLATE "C" NOT NULL,
	version int NOT NULL DEFAULT 1 CHECK (version >= 1),
	amount bigint CHECK (amount >= 0),
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	tombstone boolean NOT NULL DEFAULT false
		CHECK (tombstone OR (amount IS NOT NULL AND currency IS NOT NULL)),
	currency text COLLATE "C" CHECK (currency ~ '^[A-Z]{3}$'),
	account text COLLATE "C",
	money_status text COLLATE "C"
		CHECK (money_status IN ('none', 'held', 'captured', 'returned')),
	payload jsonb,
	history order_step[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 80);

CREATE FUNCTION guard_change() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_guard_change';
CREATE FUNCTION guard_verify() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_guard_verify';
CREATE FUNCTION guard_removal() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_guard_removal';

CREATE TRIGGER guard_change BEFORE UPDATE ON orders
	FOR EACH ROW EXECUTE FUNCTION guard_change();
-- The name sorts before others: triggers fire in that order, and a change that
-- a user's trigger makes to the same order must find this one verified.
CREATE TRIGGER "0_guard_verify" AFTER UPDATE ON orders
	FOR EACH ROW EXECUTE FUNCTION guard_verify();
CREATE TRIGGER guard_removal BEFORE DELETE ON orders
	FOR EACH ROW EXECUTE FUNCTION guard_removal();
CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON orders
	FOR EACH STATEMENT EXECUTE FUNCTION guard_removal();

CREATE TABLE payment_deadlines (
	order_key text COLLATE "C" NOT NULL,
	due_at timestamptz NOT NULL
);
CREATE INDEX payment_deadlines_due ON payment_deadlines (due_at);

CREATE FUNCTION create_order(key text, amount bigint, currency text, account text = NULL, payload jsonb = NULL,
							 pay_within interval = NULL, headers jsonb = NULL, on_conflict text = 'error')
	RETURNS order_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100
	AS 'MODULE_PATHNAME', 'oi_create_order';

CREATE FUNCTION transition_order(key text, to_state text, request_key text = NULL, payload jsonb = NULL,
								 headers jsonb = NULL, on_conflict text = 'error')
	RETURNS order_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100
	AS 'MODULE_PATHNAME', 'oi_transition_order';

CREATE FUNCTION cancel_order(key text, reason text = NULL, request_key text = NULL, if_missing text = 'error',
							 headers jsonb = NULL, on_conflict text = 'error')
	RETURNS order_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100
	AS 'MODULE_PATHNAME', 'oi_cancel_order';

CREATE FUNCTION get_order(key text, OUT order_key text, OUT state text, OUT version int, OUT amount bigint,
						  OUT currency text, OUT account text, OUT money_status text, OUT payload jsonb,
						  OUT tombstone boolean, OUT created_at timestamptz, OUT changed_at timestamptz,
						  OUT allowed_transitions text[])
	RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 50 ROWS 1
	AS 'MODULE_PATHNAME', 'oi_get_order';

CREATE FUNCTION order_history(key text, OUT version int, OUT state text, OUT at timestamptz, OUT event_id uuid,
							  OUT request_key text, OUT reason text)
	RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 50 ROWS 4
	AS 'MODULE_PATHNAME', 'oi_order_history';

----------------------------------------------------------------------------
-- Ledger
----------------------------------------------------------------------------

CREATE TABLE ledger (
	order_key text COLLATE "C" NOT NULL,
	version int NOT NULL,
	effect text COLLATE "C" NOT NULL,
	debit_account text COLLATE "C" NOT NULL,
	credit_account text COLLATE "C" NOT NULL,
	amount bigint NOT NULL,
	currency text COLLATE "C" NOT NULL,
	posted_at timestamptz NOT NULL,
	PRIMARY KEY (order_key, version)
);

CREATE FUNCTION guard_append_only() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_guard_append_only';
CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
	FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only();

CREATE VIEW account_balance AS
	SELECT m.account, m.currency, pg_catalog.sum(m.amount) AS balance
	FROM (SELECT l.credit_account AS account, l.currency, l.amount FROM ledger l
		  UNION ALL
		  SELECT l.debit_account, l.currency, - l.amount FROM ledger l) m
	GROUP BY m.account, m.currency;

----------------------------------------------------------------------------
-- Outbox
----------------------------------------------------------------------------

CREATE SEQUENCE outbox_position AS bigint CACHE 1;

CREATE TABLE outbox_0 (
	position bigint NOT NULL,
	xid xid8 NOT NULL,
	event_id uuid NOT NULL,
	key text COLLATE "C" NOT NULL,
	version int,
	type text COLLATE "C" NOT NULL,
	payload jsonb,
	headers jsonb,
	created_at timestamptz NOT NULL
);
CREATE INDEX outbox_0_position ON outbox_0 (position);
CREATE INDEX outbox_0_xid ON outbox_0 (xid, position);
CREATE TABLE outbox_1 (LIKE outbox_0);
CREATE INDEX outbox_1_position ON outbox_1 (position);
CREATE INDEX outbox_1_xid ON outbox_1 (xid, position);
CREATE TABLE outbox_2 (LIKE outbox_0);
CREATE INDEX outbox_2_position ON outbox_2 (position);
CREATE INDEX outbox_2_xid ON outbox_2 (xid, position);
CREATE TABLE outbox_3 (LIKE outbox_0);
CREATE INDEX outbox_3_position ON outbox_3 (position);
CREATE INDEX outbox_3_xid ON outbox_3 (xid, position);

CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON outbox_0
	FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON outbox_1
	FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON outbox_2
	FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER guard_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON outbox_3
	FOR EACH STATEMENT EXECUTE FUNCTION guard_append_only();

CREATE VIEW outbox AS
	SELECT * FROM outbox_0 UNION ALL
	SELECT * FROM outbox_1 UNION ALL
	SELECT * FROM outbox_2 UNION ALL
	SELECT * FROM outbox_3;

CREATE FUNCTION emit_event(type text, key text, payload jsonb = NULL, headers jsonb = NULL)
	RETURNS uuid
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100
	AS 'MODULE_PATHNAME', 'oi_emit_event';

----------------------------------------------------------------------------
-- Subscriptions and sinks
----------------------------------------------------------------------------

CREATE FUNCTION file_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_file_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_file
	NO HANDLER VALIDATOR file_sink_validator;

CREATE SEQUENCE subscription_id AS int CACHE 1;

CREATE TABLE subscriptions (
	id int NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('order_idempotency.subscription_id'),
	name text COLLATE "C" NOT NULL UNIQUE CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 63),
	server text COLLATE "C" NOT NULL,
	owner regrole NOT NULL,
	event_types text[] COLLATE "C",
	topic text COLLATE "C",
	options jsonb,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- Where each subscription stands; the columns are explained in src/README,
-- "The cursor".
CREATE TABLE subscription_cursors (
	subscription int NOT NULL PRIMARY KEY,
	behind pg_snapshot NOT NULL,
	behind_position bigint NOT NULL,
	behind_next_xid xid8 NOT NULL,
	batch pg_snapshot,
	batch_position bigint,
	batch_next_xid xid8,
	progress bigint NOT NULL,
	delivered bigint NOT NULL,
	delivered_at timestamptz
) WITH (fillfactor = 50);

CREATE FUNCTION create_subscription(name text, server text, event_types text[] = NULL, topic text = NULL,
									options jsonb = NULL)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_create_subscription';

CREATE FUNCTION drop_subscription(name text)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_drop_subscription';

-- What shared memory knows of the workers of this database.
CREATE FUNCTION subscription_workers(OUT subscription int, OUT pid int, OUT state text, OUT last_error text,
									 OUT last_error_at timestamptz)
	RETURNS SETOF record
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 8
	AS 'MODULE_PATHNAME', 'oi_subscription_workers';

CREATE VIEW subscription_status AS
	SELECT s.name, s.server, s.owner, s.event_types, s.topic,
		   COALESCE(w.state, 'stopped') AS state, w.pid,
		   c.delivered, c.delivered_at,
		   (SELECT pg_catalog.count(*) FROM outbox o
			WHERE (o.position > c.behind_position
				   OR (o.xid >= pg_catalog.pg_snapshot_xmin(c.behind) AND o.xid < c.behind_next_xid))
			  AND NOT pg_catalog.pg_visible_in_snapshot(o.xid, c.behind)
			  AND (c.batch IS NULL OR o.position > c.progress
				   OR NOT pg_catalog.pg_visible_in_snapshot(o.xid, c.batch))
			  AND (s.event_types IS NULL OR o.type = ANY (s.event_types))) AS lag_events,
		   w.last_error, w.last_error_at
	FROM subscriptions s
		JOIN subscription_cursors c ON c.subscription = s.id
		LEFT JOIN subscription_workers() w ON w.subscription = s.id;

----------------------------------------------------------------------------
-- Roles
----------------------------------------------------------------------------

CREATE FUNCTION grant_application(role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF role IS NULL THEN
		RAISE EXCEPTION 'role must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	EXECUTE format('GRANT USAGE ON SCHEMA order_idempotency TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION '
				   'order_idempotency.claim_key, order_idempotency.complete_key, '
				   'order_idempotency.extend_key, order_idempotency.release_key, '
				   'order_idempotency.create_order, order_idempotency.transition_order, '
				   'order_idempotency.cancel_order, order_idempotency.get_order, '
				   'order_idempotency.order_history, order_idempotency.emit_event TO %s', role);
END
$$;

CREATE FUNCTION grant_monitor(role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	IF role IS NULL THEN
		RAISE EXCEPTION 'role must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	EXECUTE format('GRANT USAGE ON SCHEMA order_idempotency TO %s', role);
	EXECUTE format('GRANT SELECT ON order_idempotency.abandoned_claims, '
				   'order_idempotency.account_balance, order_idempotency.current_lifecycle, '
				   'order_idempotency.subscription_status TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION order_idempotency.default_lifecycle, '
				   'order_idempotency.subscription_workers TO %s', role);
END
$$;

CREATE FUNCTION grant_operator(role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM order_idempotency.grant_monitor(role);
	EXECUTE format('GRANT SELECT ON order_idempotency.orders, order_idempotency.ledger, '
				   'order_idempotency.outbox, order_idempotency.claims, order_idempotency.lifecycle, '
				   'order_idempotency.generations, order_idempotency.payment_deadlines, '
				   'order_idempotency.subscriptions, order_idempotency.subscription_cursors TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION order_idempotency.get_order, order_idempotency.order_history, '
				   'order_idempotency.create_subscription, order_idempotency.drop_subscription TO %s', role);
END
$$;

----------------------------------------------------------------------------
-- Dumps, privileges
----------------------------------------------------------------------------

SELECT pg_catalog.pg_extension_config_dump('order_idempotency.generations', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.claims_0', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.claims_1', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.claims_2', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.claims_3', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.lifecycle', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.orders', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.payment_deadlines', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.ledger', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.outbox_position', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.outbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.outbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.outbox_2', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.outbox_3', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.subscription_id', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.subscriptions', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.subscription_cursors', '');

REVOKE ALL ON ALL TABLES IN SCHEMA order_idempotency FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA order_idempotency FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA order_idempotency FROM PUBLIC;
REVOKE ALL ON TYPE claim_result, order_result, order_step FROM PUBLIC;
