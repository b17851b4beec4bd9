/* order_idempotency--1.1.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION order_idempotency" to load this file. \quit

-- A schema that somebody else made beforehand could hold anything, and who may create
-- objects in it could put more into it later: only one of our own will do.  Until it is
-- known to be, nothing is resolved by name in it, operators included.
DO $$
BEGIN
	IF (SELECT n.nspowner OPERATOR(pg_catalog.<>) current_user::pg_catalog.regrole::pg_catalog.oid
		FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'order_idempotency')
	THEN
		RAISE EXCEPTION 'schema "order_idempotency" belongs to another role'
			USING ERRCODE = 'insufficient_privilege',
				  HINT = 'Drop or rename that schema, then create the extension again.';
	END IF;
	IF EXISTS (SELECT FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
			   WHERE n.nspname OPERATOR(pg_catalog.=) 'order_idempotency'
				 AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'::pg_catalog.text
				 AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner)
	THEN
		RAISE EXCEPTION 'other roles may create objects in schema "order_idempotency"'
			USING ERRCODE = 'insufficient_privilege',
				  HINT = 'Revoke CREATE on that schema, then create the extension again.';
	END IF;
	IF EXISTS (SELECT FROM pg_catalog.pg_namespace n
			   WHERE n.nspname OPERATOR(pg_catalog.=) 'order_idempotency'
				 AND (EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) n.oid)
					  OR EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) n.oid)
					  OR EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.typnamespace OPERATOR(pg_catalog.=) n.oid)
					  OR EXISTS (SELECT FROM pg_catalog.pg_operator o WHERE o.oprnamespace OPERATOR(pg_catalog.=) n.oid)))
	THEN
		RAISE EXCEPTION 'schema "order_idempotency" is not empty'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Drop or rename that schema, then create the extension again.';
	END IF;
END
$$;

REVOKE ALL ON SCHEMA order_idempotency FROM PUBLIC;

-- The server keeps the library that it was started with, which may be one that
-- lacks what this version calls.
DO $do$
BEGIN
	CREATE FUNCTION library_version() RETURNS text
		LANGUAGE C STABLE PARALLEL SAFE
		AS 'MODULE_PATHNAME', 'oi_library_version';
EXCEPTION WHEN undefined_function THEN
	RAISE EXCEPTION 'the server runs an older library than order_idempotency 1.1 needs'
		USING ERRCODE = 'object_not_in_prerequisite_state',
			  HINT = 'Restart the server, then create the extension again.';
END
$do$;

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
-- The installation.  Neither of these is dumped: whatever a dump brings in, it
-- is not from here.  pg_upgrade keeps both.
----------------------------------------------------------------------------

CREATE TABLE installation (
	id uuid NOT NULL
);
INSERT INTO installation (id) VALUES (pg_catalog.gen_random_uuid());

CREATE SEQUENCE in_use AS bigint CACHE 1;

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
	SELECT 0 AS slot, c.* FROM claims_0 c
	WHERE EXISTS (SELECT FROM generations g WHERE g.store = 'claims' AND g.slot = 0)
	   OR NOT EXISTS (SELECT FROM generations g WHERE g.store = 'claims')
	UNION ALL
	SELECT 1, c.* FROM claims_1 c
	WHERE EXISTS (SELECT FROM generations g WHERE g.store = 'claims' AND g.slot = 1)
	UNION ALL
	SELECT 2, c.* FROM claims_2 c
	WHERE EXISTS (SELECT FROM generations g WHERE g.store = 'claims' AND g.slot = 2)
	UNION ALL
	SELECT 3, c.* FROM claims_3 c
	WHERE EXISTS (SELECT FROM generations g WHERE g.store = 'claims' AND g.slot = 3);

CREATE VIEW abandoned_claims AS
	SELECT c.scope, c.key, c.attempt, c.claimed_at, c.lease_until
	FROM claims c
	WHERE c.lease_until < pg_catalog.clock_timestamp() AND c.completed_at IS NULL
	  AND c.lease_until <> '-infinity';	-- released

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

-- In seconds.  Not called: no claim ever had a lease.
CREATE SEQUENCE longest_lease AS bigint CACHE 1;

-- The number of a generation.  Not called: no key was claimed by functions of
-- this version yet.  The first claim then looks whether version 1.0 left any
-- (in a dump), and calls it.
CREATE SEQUENCE time_ordered_from AS bigint CACHE 1;

CREATE FUNCTION key_retention() RETURNS interval
	LANGUAGE C STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'oi_key_retention_setting';

-- A slot that is not on the list and has something is waiting to be emptied.
CREATE VIEW key_store AS
	SELECT COALESCE(g.generation, CASE WHEN s.slot = 0 AND NOT l.has_rows THEN 1 END) AS generation, s.slot,
		   pg_catalog.pg_stat_get_live_tuples(s.relid) AS keys,
		   pg_catalog.pg_total_relation_size(s.relid) AS bytes,
		   g.started_at, g.ended_at, g.ended_at + key_retention() AS kept_until
	FROM (VALUES (0, 'order_idempotency.claims_0'::pg_catalog.regclass),
				 (1, 'order_idempotency.claims_1'::pg_catalog.regclass),
				 (2, 'order_idempotency.claims_2'::pg_catalog.regclass),
				 (3, 'order_idempotency.claims_3'::pg_catalog.regclass)) s (slot, relid)
		CROSS JOIN (SELECT EXISTS (SELECT FROM generations r WHERE r.store = 'claims') AS has_rows) l
		LEFT JOIN generations g ON g.store = 'claims' AND g.slot = s.slot
	WHERE g.generation IS NOT NULL OR (s.slot = 0 AND NOT l.has_rows)
	   OR pg_catalog.pg_relation_size(s.relid) > 0;

CREATE PROCEDURE rotate_keys(retention interval = NULL, INOUT began bigint = NULL, INOUT emptied int = NULL)
	LANGUAGE C
	AS 'MODULE_PATHNAME', 'oi_rotate_keys';

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

-- The functions check their arguments themselves.  The constraints named guard_*
-- are for imports: our own writes satisfy them, and do not evaluate them.
CREATE TABLE orders (
	key text COLLATE "C" NOT NULL PRIMARY KEY,
	state text COLLATE "C" NOT NULL,
	version int NOT NULL DEFAULT 1,
	amount bigint,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	tombstone boolean NOT NULL DEFAULT false,
	currency text COLLATE "C",
	account text COLLATE "C",
	money_status text COLLATE "C",
	payload jsonb,
	history order_step[] NOT NULL DEFAULT '{}',
	CONSTRAINT guard_key CHECK (pg_catalog.octet_length(key) BETWEEN 1 AND 255),
	CONSTRAINT guard_version CHECK (version >= 1),
	CONSTRAINT guard_amount CHECK (amount >= 0),
	CONSTRAINT guard_currency CHECK (currency ~ '^[A-Z]{3}$'),
	CONSTRAINT guard_money_status CHECK (money_status IN ('none', 'held', 'captured', 'returned')),
	CONSTRAINT guard_complete CHECK (tombstone OR (amount IS NOT NULL AND currency IS NOT NULL))
) WITH (fillfactor = 80);

CREATE FUNCTION guard_change() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_guard_change';
CREATE FUNCTION guard_verify() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_guard_verify';
CREATE FUNCTION guard_removal() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'oi_guard_removal';

CREATE TRIGGER guard_change BEFORE UPDATE ON orders
	FOR EACH ROW EXECUTE FUNCTION guard_change();
-- The name sorts before all others that anybody would choose: triggers fire in
-- that order, and a change that a user's trigger makes to the same order must
-- find this one verified, and its event written.
CREATE TRIGGER U&"\0001guard_verify" AFTER UPDATE ON orders
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
CREATE TABLE deadline_failures (
	order_key text COLLATE "C" NOT NULL PRIMARY KEY,
	failures int NOT NULL,
	failed_at timestamptz NOT NULL,
	sqlstate text COLLATE "C" NOT NULL,
	message text COLLATE "C" NOT NULL
);

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

CREATE FUNCTION purge_orders(before timestamptz, max int)
	RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000
	AS 'MODULE_PATHNAME', 'oi_purge_orders';

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
	posted_at timestamptz NOT NULL
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

-- Which subscriptions have not all behind them that is in a slot's table.
CREATE FUNCTION log_holders(slot int) RETURNS text[]
	LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_log_holders_of';

CREATE FUNCTION outbox_retention() RETURNS interval
	LANGUAGE C STABLE PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'oi_outbox_retention_setting';

-- As key_store.
CREATE VIEW outbox_store AS
	SELECT COALESCE(g.generation, CASE WHEN s.slot = 0 AND NOT l.has_rows THEN 1 END) AS generation, s.slot,
		   pg_catalog.pg_stat_get_live_tuples(s.relid) AS events,
		   pg_catalog.pg_total_relation_size(s.relid) AS bytes,
		   g.started_at, g.ended_at, g.ended_at + outbox_retention() AS kept_until, log_holders(s.slot) AS held_by
	FROM (VALUES (0, 'order_idempotency.outbox_0'::pg_catalog.regclass),
				 (1, 'order_idempotency.outbox_1'::pg_catalog.regclass),
				 (2, 'order_idempotency.outbox_2'::pg_catalog.regclass),
				 (3, 'order_idempotency.outbox_3'::pg_catalog.regclass)) s (slot, relid)
		CROSS JOIN (SELECT EXISTS (SELECT FROM generations r WHERE r.store = 'outbox') AS has_rows) l
		LEFT JOIN generations g ON g.store = 'outbox' AND g.slot = s.slot
	WHERE g.generation IS NOT NULL OR (s.slot = 0 AND NOT l.has_rows)
	   OR pg_catalog.pg_relation_size(s.relid) > 0;

CREATE PROCEDURE rotate_outbox(retention interval = NULL, INOUT began bigint = NULL, INOUT emptied int = NULL)
	LANGUAGE C
	AS 'MODULE_PATHNAME', 'oi_rotate_outbox';

----------------------------------------------------------------------------
-- Subscriptions and sinks
----------------------------------------------------------------------------

CREATE FUNCTION file_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_file_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_file
	NO HANDLER VALIDATOR file_sink_validator;

CREATE FUNCTION http_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_http_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_http
	NO HANDLER VALIDATOR http_sink_validator;

CREATE FUNCTION kafka_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_kafka_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_kafka
	NO HANDLER VALIDATOR kafka_sink_validator;

CREATE FUNCTION nats_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_nats_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_nats
	NO HANDLER VALIDATOR nats_sink_validator;

CREATE FUNCTION rabbitmq_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_rabbitmq_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_rabbitmq
	NO HANDLER VALIDATOR rabbitmq_sink_validator;

CREATE FUNCTION redis_sink_validator(text[], oid) RETURNS void
	LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'oi_redis_sink_validator';

CREATE FOREIGN DATA WRAPPER order_idempotency_redis
	NO HANDLER VALIDATOR redis_sink_validator;

CREATE SEQUENCE subscription_id AS int CACHE 1;

CREATE TABLE subscriptions (
	id int NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('order_idempotency.subscription_id'),
	name text COLLATE "C" NOT NULL UNIQUE CHECK (pg_catalog.octet_length(name) BETWEEN 1 AND 63),
	server text COLLATE "C" NOT NULL,
	owner regrole NOT NULL,
	event_types text[] COLLATE "C",
	topic text COLLATE "C",
	options jsonb,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	-- where it may publish; see src/README, "Copies of a database"
	armed_for uuid,
	armed_database oid,
	environment text COLLATE "C",
	paused_at timestamptz,
	invalidated_at timestamptz
);

-- Where each subscription stands; the columns are explained in src/README,
-- "The cursor".
CREATE TABLE subscription_cursors (
	subscription int NOT NULL,
	behind pg_snapshot NOT NULL,
	behind_position bigint NOT NULL,
	behind_next_xid xid8 NOT NULL,
	batch pg_snapshot,
	batch_position bigint,
	batch_next_xid xid8,
	progress bigint NOT NULL,
	delivered bigint NOT NULL,
	delivered_at timestamptz,
	retried bigint NOT NULL DEFAULT 0,
	behind_all_above boolean NOT NULL DEFAULT false,
	turn bigint NOT NULL DEFAULT 0,
	token bigint NOT NULL DEFAULT 0,
	token_timeline int NOT NULL DEFAULT 0,
	open_log bigint[],
	open_upto bigint,
	open_failed bigint[],
	settled bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (subscription, turn)
) WITH (fillfactor = 50);

-- Events that a subscription could not deliver, and those of the same keys behind
-- them: copies, so that they do not pin the log.
CREATE TABLE failed_events (
	subscription int NOT NULL,
	position bigint NOT NULL,
	event_id uuid NOT NULL,
	key text COLLATE "C" NOT NULL,
	version int,
	type text COLLATE "C" NOT NULL,
	payload jsonb,
	headers jsonb,
	created_at timestamptz NOT NULL,
	state text COLLATE "C" NOT NULL CHECK (state IN ('parked', 'waiting', 'dead')),
	attempts int NOT NULL,
	next_at timestamptz,
	reason text COLLATE "C",
	failed_at timestamptz,
	PRIMARY KEY (subscription, key, position)
);
-- a delivery that is made again finds its rows by it
CREATE INDEX failed_events_position ON failed_events (subscription, position);

CREATE FUNCTION create_subscription(name text, server text, event_types text[] = NULL, topic text = NULL,
									options jsonb = NULL)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_create_subscription';

CREATE FUNCTION drop_subscription(name text)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_drop_subscription';

CREATE FUNCTION resume_subscription(name text)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_resume_subscription';

CREATE FUNCTION alter_subscription(name text, server text = NULL, event_types text[] = NULL, topic text = NULL,
								   options jsonb = NULL)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_alter_subscription';

CREATE FUNCTION pause_subscription(name text)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_pause_subscription';

CREATE FUNCTION seek_to_position(name text, "position" bigint)
	RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_seek_to_position';

CREATE FUNCTION seek_to_time(name text, at timestamptz)
	RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_seek_to_time';

CREATE FUNCTION redrive(name text, event_id uuid = NULL, key text = NULL, everything boolean = false)
	RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_redrive';

CREATE FUNCTION discard(name text, event_id uuid = NULL, key text = NULL, everything boolean = false)
	RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_discard';

-- What shared memory knows of the workers of this database.
CREATE FUNCTION subscription_workers(OUT subscription int, OUT pid int, OUT state text, OUT last_error text,
									 OUT last_error_at timestamptz)
	RETURNS SETOF record
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 8
	AS 'MODULE_PATHNAME', 'oi_subscription_workers';

-- What the sinks of this database's subscriptions are at.
CREATE FUNCTION subscription_activity(OUT subscription int, OUT in_flight int)
	RETURNS SETOF record
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 8
	AS 'MODULE_PATHNAME', 'oi_subscription_activity';

CREATE VIEW parked_events AS
	SELECT s.name AS subscription, f.position, f.event_id, f.key, f.version, f.type, f.payload, f.headers, f.created_at,
		   f.state, f.attempts, f.next_at, f.reason, f.failed_at
	FROM failed_events f JOIN subscriptions s ON s.id = f.subscription
	WHERE f.state <> 'dead';

CREATE VIEW dead_letters AS
	SELECT s.name AS subscription, f.position, f.event_id, f.key, f.version, f.type, f.payload, f.headers, f.created_at,
		   f.attempts, f.reason, f.failed_at
	FROM failed_events f JOIN subscriptions s ON s.id = f.subscription
	WHERE f.state = 'dead';

-- What a subscription has before it, as the next batches will have it (batch.c).  The next 125,000 rows are looked at,
-- more than a worker passes over before it records that (cycle.c); those behind them are taken to be alike.  Up to
-- position "start" only late rows are left; "+ 0" has these found by xid, since the positions may be the whole log's.
-- pg_column_size() of a column reads nothing that is stored elsewhere.
CREATE FUNCTION subscription_lag(subscription int, OUT events bigint, OUT bytes bigint, OUT oldest timestamptz)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET enable_seqscan = off
	SET jit = off
	AS $$
	WITH c AS (
		-- incarnation: as OI_INCARNATION of src/incarnation.h
		SELECT c.*, s.event_types, c.behind_position >> 44 AS incarnation,
			   CASE WHEN c.batch IS NULL THEN c.behind_position ELSE GREATEST(c.behind_position, c.progress) END AS start
		FROM order_idempotency.subscriptions s
			CROSS JOIN LATERAL (SELECT n.* FROM order_idempotency.subscription_cursors n WHERE n.subscription = s.id
								ORDER BY n.turn LIMIT 1) c
		WHERE s.id = $1
	), late_xids AS (
		SELECT x.first, x.last, m.above, m.upto
		FROM (SELECT behind, behind_next_xid, incarnation << 44, behind_position FROM c
			  UNION ALL
			  SELECT batch, batch_next_xid, behind_position, start FROM c WHERE batch IS NOT NULL)
				 m (snapshot, next_xid, above, upto)
			CROSS JOIN LATERAL (
				SELECT xip, xip FROM pg_snapshot_xip(m.snapshot) xip
				UNION ALL SELECT pg_snapshot_xmax(m.snapshot), m.next_xid) x (first, last)
	), looked_at AS (
		SELECT q.*,
			   (q.position >> 44 > c.incarnation
				OR (((c.behind_all_above AND q.position > c.behind_position) OR NOT pg_visible_in_snapshot(q.xid, c.behind))
					AND (c.batch IS NULL OR q.position > c.progress OR NOT pg_visible_in_snapshot(q.xid, c.batch))))
			   AND (c.event_types IS NULL OR q.type = ANY (c.event_types)) AS wanted
		FROM c CROSS JOIN LATERAL (
			(SELECT o.position, o.xid, o.type, o.created_at, false AS late, 100 + COALESCE(pg_column_size(o.payload), 0) + COALESCE(pg_column_size(o.headers), 0) AS size
			 FROM order_idempotency.outbox o WHERE o.position > c.start ORDER BY o.position LIMIT 125000)
			UNION ALL
			(SELECT o.position, o.xid, o.type, o.created_at, true, 100 + COALESCE(pg_column_size(o.payload), 0) + COALESCE(pg_column_size(o.headers), 0)
			 FROM late_xids x CROSS JOIN LATERAL (
				 SELECT * FROM order_idempotency.outbox o
				 WHERE o.xid >= x.first AND o.xid <= x.last AND o.position + 0 > x.above AND o.position + 0 <= x.upto
				 OFFSET 0) o
			 LIMIT 125000)) q
	), counted AS (
		SELECT count(*) FILTER (WHERE wanted) AS events,
			   COALESCE(sum(size) FILTER (WHERE wanted), 0) AS bytes,
			   min(created_at) FILTER (WHERE wanted) AS oldest,
			   count(*) FILTER (WHERE wanted AND NOT late) AS alike,
			   COALESCE(sum(size) FILTER (WHERE wanted AND NOT late), 0) AS alike_bytes,
			   CASE WHEN count(*) FILTER (WHERE NOT late) < 125000 THEN 0
					ELSE (SELECT max(position) FROM order_idempotency.outbox) - max(position) FILTER (WHERE NOT late)
					END AS left_out
		FROM looked_at
	)
	-- what is left out may be wanted, even if nothing was so far
	SELECT events + ceil(GREATEST(alike, 1) * left_out::numeric / 125000)::bigint,
		   (bytes + alike_bytes * left_out::numeric / 125000)::bigint, oldest
	FROM counted
	$$;

CREATE VIEW subscription_status AS
	SELECT s.name, s.server, s.owner, s.event_types, s.topic,
		   CASE WHEN a.disarmed IS NOT NULL THEN 'disarmed' WHEN s.invalidated_at IS NOT NULL THEN 'invalidated'
				WHEN s.paused_at IS NOT NULL THEN 'paused'
				ELSE COALESCE(w.state, n.state, 'stopped') END AS state, w.pid,
		   c.delivered, c.delivered_at, l.events + f.parked AS lag_events, w.last_error, w.last_error_at,
		   COALESCE(a.disarmed,
					'Invalidated at ' || s.invalidated_at || ', as the log was larger than order_idempotency.max_retained: events may be lost. With resume_subscription() it goes on with what the log still has.',
					'Paused at ' || s.paused_at || '; use resume_subscription().',
					CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = s.owner)
						 THEN 'Its owner was dropped; a superuser takes it over with resume_subscription().'
						 WHEN COALESCE(w.state, n.state) = 'no process' THEN 'All of max_worker_processes are in use; it starts when one is free.'
						 WHEN w.state = 'retrying' THEN 'Deliveries fail, and are tried again; last_error says why.'
						 WHEN w.state = 'off' THEN 'Setting order_idempotency.publish is off.' END) AS detail,
		   l.bytes + f.bytes AS lag_bytes,
		   COALESCE(GREATEST(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - LEAST(l.oldest, f.oldest)), 0), 0)
			   AS lag_seconds,
		   LEAST(l.oldest, f.oldest) AS oldest_waiting, c.retried, f.parked, f.dead,
		   COALESCE(v.in_flight, 0) AS in_flight
	FROM subscriptions s
		CROSS JOIN LATERAL (SELECT n.* FROM subscription_cursors n WHERE n.subscription = s.id
							ORDER BY n.turn LIMIT 1) c
		LEFT JOIN subscription_workers() w ON w.subscription = s.id
		LEFT JOIN subscription_workers() n ON n.subscription IS NULL
		LEFT JOIN subscription_activity() v ON v.subscription = s.id
		CROSS JOIN LATERAL subscription_lag(s.id) l
		CROSS JOIN LATERAL (
			SELECT pg_catalog.count(*) FILTER (WHERE e.state <> 'dead') AS parked,
				   pg_catalog.count(*) FILTER (WHERE e.state = 'dead') AS dead,
				   pg_catalog.min(e.created_at) FILTER (WHERE e.state <> 'dead') AS oldest,
				   COALESCE(pg_catalog.sum(100 + COALESCE(pg_catalog.pg_column_size(e.payload), 0)
										   + COALESCE(pg_catalog.pg_column_size(e.headers), 0))
								FILTER (WHERE e.state <> 'dead'), 0) AS bytes
			FROM failed_events e WHERE e.subscription = s.id) f
		-- as oi_is_armed of src/arming.c
		LEFT JOIN (SELECT (SELECT n.id FROM installation n LIMIT 1) AS installation, d.oid AS database,
						  COALESCE(pg_catalog.current_setting('order_idempotency.environment', true), '') AS environment
				   FROM pg_catalog.pg_database d
				   WHERE d.datname = pg_catalog.current_database()) here ON true
		CROSS JOIN LATERAL (
			SELECT CASE
				WHEN s.armed_for IS DISTINCT FROM here.installation
				THEN 'It came with a dump of another database.'
				WHEN s.armed_database IS DISTINCT FROM here.database
				THEN 'This database is a copy of the one that it was armed in.'
				WHEN s.environment IS DISTINCT FROM here.environment
				THEN pg_catalog.format('It was armed in environment "%s", and order_idempotency.environment is "%s".',
									   s.environment, here.environment)
				END || ' If its events are to be published from here, use resume_subscription().' AS disarmed) a;

----------------------------------------------------------------------------
-- Statistics
----------------------------------------------------------------------------

-- What shared memory has counted for this database; no row without preloading.
CREATE FUNCTION claim_counts(OUT claimed bigint, OUT taken_over bigint, OUT replayed bigint, OUT in_progress bigint,
							 OUT mismatch bigint, OUT completed bigint, OUT completed_again bigint, OUT extended bigint,
							 OUT released bigint, OUT stale bigint, OUT unknown bigint, OUT since timestamptz)
	RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL SAFE ROWS 1
	AS 'MODULE_PATHNAME', 'oi_claim_counts';

CREATE FUNCTION order_counts(OUT created bigint, OUT applied bigint, OUT cancelled bigint, OUT tombstoned bigint,
							 OUT replayed bigint, OUT ignored bigint, OUT mismatch bigint, OUT in_progress bigint,
							 OUT illegal bigint, OUT missing bigint, OUT refused bigint, OUT since timestamptz)
	RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL SAFE ROWS 1
	AS 'MODULE_PATHNAME', 'oi_order_counts';

CREATE FUNCTION retry_counts(at timestamptz, OUT source text, OUT minutes int, OUT firsts bigint, OUT retries bigint)
	RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL SAFE ROWS 6
	AS 'MODULE_PATHNAME', 'oi_retry_counts';

CREATE FUNCTION retried_keys(at timestamptz, OUT source text, OUT scope text, OUT key text, OUT retries bigint,
							 OUT overcount bigint, OUT last_retry_at timestamptz)
	RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL SAFE ROWS 64
	AS 'MODULE_PATHNAME', 'oi_retried_keys';

CREATE FUNCTION delivery_counts(at timestamptz, OUT subscription int, OUT delivered bigint, OUT retried bigint,
								OUT rejected bigint, OUT delivered_1m bigint, OUT delivered_5m bigint,
								OUT delivered_60m bigint, OUT failed_1m bigint, OUT failed_5m bigint,
								OUT failed_60m bigint, OUT latency_bounds double precision[],
								OUT latency_counts bigint[], OUT latency_sum double precision, OUT since timestamptz)
	RETURNS SETOF record
	LANGUAGE C STABLE PARALLEL SAFE ROWS 8
	AS 'MODULE_PATHNAME', 'oi_delivery_counts';

CREATE FUNCTION reset_stats() RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'oi_reset_stats';

CREATE VIEW claim_stats AS SELECT * FROM claim_counts();
CREATE VIEW order_stats AS SELECT * FROM order_counts();
CREATE VIEW retry_ratio AS
	SELECT c.source, c.minutes, c.firsts, c.retries, c.retries::double precision / NULLIF(c.firsts, 0) AS ratio
	FROM retry_counts(pg_catalog.statement_timestamp()) c;
CREATE VIEW hot_keys AS
	SELECT * FROM retried_keys(pg_catalog.statement_timestamp()) ORDER BY retries DESC, last_retry_at DESC;
CREATE VIEW subscription_stats AS
	SELECT s.name, c.delivered, c.retried, c.rejected, c.delivered_1m / 60.0::double precision AS rate_1m,
		   c.delivered_5m / 300.0::double precision AS rate_5m, c.delivered_60m / 3600.0::double precision AS rate_60m,
		   c.failed_1m, c.failed_5m, c.failed_60m, q.p50 AS latency_p50, q.p95 AS latency_p95, q.p99 AS latency_p99,
		   c.latency_bounds, c.latency_counts, c.latency_sum, c.since
	FROM subscriptions s
		JOIN delivery_counts(pg_catalog.statement_timestamp()) c ON c.subscription = s.id
		-- the bound that so many are within; there is none above the last
		LEFT JOIN LATERAL (
			SELECT COALESCE(pg_catalog.min(b.bound) FILTER (WHERE b.upto >= 0.50 * c.delivered), 'Infinity') AS p50,
				   COALESCE(pg_catalog.min(b.bound) FILTER (WHERE b.upto >= 0.95 * c.delivered), 'Infinity') AS p95,
				   COALESCE(pg_catalog.min(b.bound) FILTER (WHERE b.upto >= 0.99 * c.delivered), 'Infinity') AS p99
			FROM ROWS FROM (pg_catalog.unnest(c.latency_bounds), pg_catalog.unnest(c.latency_counts)) b (bound, upto)) q ON c.delivered > 0;

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
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role) THEN
		RAISE EXCEPTION 'role with OID % does not exist', role::oid USING ERRCODE = 'undefined_object';
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
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role) THEN
		RAISE EXCEPTION 'role with OID % does not exist', role::oid USING ERRCODE = 'undefined_object';
	END IF;
	EXECUTE format('GRANT USAGE ON SCHEMA order_idempotency TO %s', role);
	EXECUTE format('GRANT SELECT ON order_idempotency.claim_stats, order_idempotency.order_stats, '
				   'order_idempotency.retry_ratio, order_idempotency.hot_keys, order_idempotency.subscription_stats TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION order_idempotency.claim_counts, order_idempotency.order_counts, '
				   'order_idempotency.retry_counts, order_idempotency.retried_keys, order_idempotency.delivery_counts TO %s', role);
	EXECUTE format('GRANT SELECT ON order_idempotency.abandoned_claims, '
				   'order_idempotency.account_balance, order_idempotency.current_lifecycle, '
				   'order_idempotency.subscription_status, order_idempotency.parked_events, '
				   'order_idempotency.dead_letters, order_idempotency.key_store, order_idempotency.outbox_store, '
				   'order_idempotency.deadline_failures TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION order_idempotency.default_lifecycle, '
				   'order_idempotency.subscription_workers, order_idempotency.subscription_activity, '
				   'order_idempotency.subscription_lag, '
				   'order_idempotency.key_retention, order_idempotency.outbox_retention, order_idempotency.log_holders TO %s', role);
END
$$;

CREATE FUNCTION grant_operator(role regrole) RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	AS $$
BEGIN
	PERFORM order_idempotency.grant_monitor(role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION order_idempotency.reset_stats TO %s', role);
	EXECUTE format('GRANT SELECT ON order_idempotency.orders, order_idempotency.ledger, '
				   'order_idempotency.outbox, order_idempotency.claims, order_idempotency.lifecycle, '
				   'order_idempotency.generations, order_idempotency.payment_deadlines, order_idempotency.installation, '
				   'order_idempotency.subscriptions, order_idempotency.subscription_cursors, '
				   'order_idempotency.failed_events TO %s', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION order_idempotency.get_order, order_idempotency.order_history, '
				   'order_idempotency.create_subscription, order_idempotency.drop_subscription, '
				   'order_idempotency.resume_subscription, order_idempotency.alter_subscription, '
				   'order_idempotency.pause_subscription, order_idempotency.seek_to_position, '
				   'order_idempotency.seek_to_time, order_idempotency.redrive, order_idempotency.discard, '
				   'order_idempotency.purge_orders TO %s', role);
	EXECUTE format('GRANT EXECUTE ON PROCEDURE order_idempotency.rotate_keys, order_idempotency.rotate_outbox TO %s', role);
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
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.failed_events', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.longest_lease', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.time_ordered_from', '');
SELECT pg_catalog.pg_extension_config_dump('order_idempotency.deadline_failures', '');

REVOKE ALL ON ALL TABLES IN SCHEMA order_idempotency FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA order_idempotency FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA order_idempotency FROM PUBLIC;
REVOKE ALL ON TYPE claim_result, order_result, order_step FROM PUBLIC;
DO $$
DECLARE
	t regtype;
BEGIN
	FOR t IN
		SELECT c.reltype FROM pg_catalog.pg_class c
		WHERE c.relnamespace = 'order_idempotency'::pg_catalog.regnamespace AND c.reltype <> 0
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON TYPE %s FROM PUBLIC', t);
	END LOOP;
END
$$;

----------------------------------------------------------------------------
-- Comments
----------------------------------------------------------------------------

COMMENT ON SCHEMA order_idempotency IS
'extension order_idempotency: idempotency keys, orders with an enforced lifecycle, a ledger, an outbox of events and subscriptions to it';

COMMENT ON FUNCTION library_version IS
'the version of the shared library that this session has loaded; where it is not the extension''s, restart the server or run ALTER EXTENSION order_idempotency UPDATE';

-- types

COMMENT ON TYPE claim_result IS 'what claim_key returns';
COMMENT ON COLUMN claim_result.outcome IS 'claimed, replayed, in_progress or mismatch';
COMMENT ON COLUMN claim_result.response IS 'what complete_key stored; only where the outcome is replayed';
COMMENT ON COLUMN claim_result.attempt IS 'which attempt at the work this is or was, from 1; the fencing token of a claim with a lease';
COMMENT ON COLUMN claim_result.claimed_at IS 'when that attempt began';
COMMENT ON COLUMN claim_result.lease_until IS 'when the lease ends; null where there is none, or the work is completed';

COMMENT ON TYPE order_result IS 'what create_order, transition_order and cancel_order return';
COMMENT ON COLUMN order_result.order_key IS 'the key that the call was made with';
COMMENT ON COLUMN order_result.outcome IS 'what happened; docs/reference.md has the table of all outcomes';
COMMENT ON COLUMN order_result.state IS 'the current state of the order; null where it is not known';
COMMENT ON COLUMN order_result.version IS 'the current version of the order: 1 when created, one more with each change';
COMMENT ON COLUMN order_result.event_id IS 'the event of the change that this call made or repeats; else null';
COMMENT ON COLUMN order_result.changed_at IS 'when the order last changed';
COMMENT ON COLUMN order_result.detail IS 'why it could not be done, as a sentence for people; else null';

COMMENT ON TYPE order_step IS 'one change of an order, as column history of table orders keeps it';
COMMENT ON COLUMN order_step.version IS 'the version that the change made';
COMMENT ON COLUMN order_step.state IS 'the state that it led to';
COMMENT ON COLUMN order_step.at IS 'when';
COMMENT ON COLUMN order_step.event_id IS 'the event that it wrote; null for a tombstone';
COMMENT ON COLUMN order_step.request_key IS 'the request_key of the call that made it, or null';
COMMENT ON COLUMN order_step.reason IS 'the reason that cancel_order was given, or null';

-- installation

COMMENT ON TABLE installation IS
'which installation of the extension this is: its only row is made by CREATE EXTENSION and is not dumped, so a restored database is another one; pg_upgrade keeps it';
COMMENT ON COLUMN installation.id IS 'a random UUID';
COMMENT ON SEQUENCE in_use IS
'set to the database''s OID by the first write through the extension''s functions in this installation and database; not dumped, so that a restored log goes on in another incarnation';

-- generations

COMMENT ON TABLE generations IS
'which of the tables claims_0 to claims_3 and outbox_0 to outbox_3 are in use; no row of a store means slot 0 alone';
COMMENT ON COLUMN generations.store IS 'claims or outbox';
COMMENT ON COLUMN generations.slot IS 'which of its tables, 0 to 3';
COMMENT ON COLUMN generations.generation IS 'a number that grows; the highest of a store is the one written to';
COMMENT ON COLUMN generations.started_at IS 'when writing to it began';
COMMENT ON COLUMN generations.ended_at IS 'when the last transaction that wrote to it was over; null while it is written to, or such a transaction is open';
COMMENT ON TRIGGER invalidate_caches ON generations IS 'tells every backend to read the generations again';
COMMENT ON FUNCTION invalidate_caches() IS 'trigger of tables generations and lifecycle: tells every backend to read the table again';

-- claims

COMMENT ON TABLE claims_0 IS 'claims of keys, first of four tables that are used as generations; read view claims instead';
COMMENT ON TABLE claims_1 IS 'claims of keys, second of four tables that are used as generations; read view claims instead';
COMMENT ON TABLE claims_2 IS 'claims of keys, third of four tables that are used as generations; read view claims instead';
COMMENT ON TABLE claims_3 IS 'claims of keys, last of four tables that are used as generations; read view claims instead';
COMMENT ON COLUMN claims_0.key_hash IS 'hash of scope and key: the first 16 bytes of the SHA-256 of both, each preceded by its length (4 bytes); of a key that is a UUIDv7, in generations from time_ordered_from on, the upper 4 bytes of its time and the first 12 bytes of that SHA-256';
COMMENT ON COLUMN claims_0.claimed_at IS 'when the current attempt began';
COMMENT ON COLUMN claims_0.lease_until IS 'until when others wait for complete_key; null for a claim without a lease, which is done when it commits';
COMMENT ON COLUMN claims_0.completed_at IS 'when complete_key was called; null: it was not';
COMMENT ON COLUMN claims_0.attempt IS 'how often the key was claimed, from 1';
COMMENT ON COLUMN claims_0.request_hash IS 'SHA-256 of the request; null: none was given, so none is compared';
COMMENT ON COLUMN claims_0.scope IS 'the scope of a claim with a lease; null without one';
COMMENT ON COLUMN claims_0.key IS 'the key of a claim with a lease, for abandoned_claims; null without one';
COMMENT ON COLUMN claims_0.response IS 'what complete_key was given, to be replayed';
COMMENT ON CONSTRAINT claims_0_pkey ON claims_0 IS 'one winner for each key';
COMMENT ON CONSTRAINT claims_1_pkey ON claims_1 IS 'one winner for each key';
COMMENT ON CONSTRAINT claims_2_pkey ON claims_2 IS 'one winner for each key';
COMMENT ON CONSTRAINT claims_3_pkey ON claims_3 IS 'one winner for each key';

COMMENT ON VIEW claims IS 'all claims that are kept, of all generations';
COMMENT ON COLUMN claims.slot IS 'the generation''s slot: the table is claims_0 for 0, and so on';
COMMENT ON VIEW abandoned_claims IS
'claims whose lease is over and whose work was not completed: the next claim_key of such a key takes it over, with attempt + 1';
COMMENT ON COLUMN abandoned_claims.scope IS 'the scope of the key';
COMMENT ON COLUMN abandoned_claims.key IS 'the key';
COMMENT ON COLUMN abandoned_claims.attempt IS 'the attempt that was not completed';
COMMENT ON COLUMN abandoned_claims.claimed_at IS 'when it began';
COMMENT ON COLUMN abandoned_claims.lease_until IS 'when its lease ended';

COMMENT ON SEQUENCE longest_lease IS 'what no lease was ever longer than, in seconds';
COMMENT ON SEQUENCE time_ordered_from IS 'the first generation of claims in which the hashes of UUIDv7 keys begin with their time; not called: settled by the first claim';
COMMENT ON FUNCTION key_retention IS 'the setting order_idempotency.key_retention';
COMMENT ON VIEW key_store IS
'what the claims take, by generation; a generation that is null is a table whose claims expired, which will be emptied when nobody reads it';
COMMENT ON COLUMN key_store.generation IS 'the number of the generation; the highest is the one written to';
COMMENT ON COLUMN key_store.slot IS 'where it is: the table is claims_0 for 0, and so on';
COMMENT ON COLUMN key_store.keys IS 'how many keys, as the statistics of the server have it: an estimate, and 0 after a crash until the next ANALYZE';
COMMENT ON COLUMN key_store.bytes IS 'how much space on disk, with indexes and TOAST';
COMMENT ON COLUMN key_store.started_at IS 'when writing to it began; null: not recorded yet';
COMMENT ON COLUMN key_store.ended_at IS 'when the last transaction that had made claims in it was over; null: it is written to, or such a transaction is still open';
COMMENT ON COLUMN key_store.kept_until IS 'when its claims expire, at the earliest: order_idempotency.key_retention after its end';
COMMENT ON PROCEDURE rotate_keys IS
'Does now what the maintenance process does by itself: begins a new generation of claims if the current one is older than
the retention, ends those that nobody writes to any more, and empties those whose claims have been kept for long enough.

retention  from 0 on; null: order_idempotency.key_retention. Claims in the generations concerned are forgotten
           earlier than the setting says if it is less. A lease that is running keeps its generation.
began      the number of the generation that was begun; null: none
emptied    how many tables were emptied

CALL it outside of a transaction block: it commits after each step, so that claims need not wait. What is held up by an open
transaction is left for the next time.
Errors: 25001 inside a transaction block; 22023 retention is negative; 55P03 a claim that is being made does not come to its
end; 25006 read-only transaction or standby.';

COMMENT ON FUNCTION claim_key IS
'Claims an idempotency key. Of all calls with one key and scope one gets "claimed" and does the work.

key      1 to 255 bytes, such as the value of an HTTP Idempotency-Key header (draft-ietf-httpapi-idempotency-key-header)
request  what is asked for; its SHA-256 is kept, values that jsonb calls equal are the same request; null: not compared
scope    1 to 255 bytes: a name space of keys, such as one consumer''s inbox; null: default
lease    null: committed means done, rolled back means never claimed;
         else, up to order_idempotency.key_retention: the claim may commit before the work is done, and others
         get "in_progress" until complete_key or the lease''s end; then the next one gets "claimed" with attempt + 1

claimed      do the work; attempt, claimed_at and lease_until are filled
replayed     it is done: response has what complete_key stored, or is null
in_progress  another transaction holds the key after order_idempotency.in_flight_wait, or a lease runs (lease_until)
mismatch     the key stands for another request; nothing else is filled

No outcome is an error. Errors: 22004 key is null; 22001 too long; 22023 empty, or a lease that is not
positive or too long; 54000 request over order_idempotency.max_payload; 25006 read-only transaction or standby;
40001 lost at REPEATABLE READ or SERIALIZABLE; 40P01 deadlock; 55P03 lock_timeout.';
COMMENT ON FUNCTION complete_key IS
'Says that the work of a claim is done, and stores the response for those who come later.

key, scope  as they were claimed
response    up to order_idempotency.max_payload, or null
attempt     the one that claim_key returned; must not be null where the claim has a lease

completed  stored
replayed   it was completed before; the stored response stays
stale      another attempt has taken over: the caller must not act on its work
unknown    there is no such claim

Errors: 22004 a null key, or a null attempt of a claim with a lease; 22001, 22023, 54000, 25006, 40001, 40P01,
55P03 as in claim_key; OI002 another transaction holds the claim after order_idempotency.in_flight_wait.';
COMMENT ON FUNCTION extend_key IS
'Lets the lease of a claim end that much after now.

key, scope  as they were claimed
lease       more than zero, up to order_idempotency.key_retention
attempt     the one that claim_key returned

extended  done
stale     completed, without a lease, or taken over by another attempt
unknown   there is no such claim

Errors: 22004 an argument but scope is null; others as in complete_key.';
COMMENT ON FUNCTION release_key IS
'Gives a claim back, as if the key had never been claimed: the next claim_key gets "claimed" with attempt 1.

key, scope  as they were claimed
attempt     the one that claim_key returned; must not be null where the claim has a lease

released  done
stale     completed (a completed claim is never released), or taken over by another attempt
unknown   there is no such claim

Errors as in complete_key.';

-- lifecycle

COMMENT ON TABLE lifecycle IS
'the states of orders and the changes between them, one row a change; empty: the built-in one. Checked as a whole at commit (23514)';
COMMENT ON COLUMN lifecycle.from_state IS 'the state before; null in the one row that names the initial state';
COMMENT ON COLUMN lifecycle.to_state IS 'the state after, 1 to 63 bytes; cancel_order goes to state cancelled';
COMMENT ON COLUMN lifecycle.event_type IS 'the type of the event that the change writes, 1 to 255 bytes; emit_event refuses it';
COMMENT ON COLUMN lifecycle.ledger_effect IS
'what it does with the money: hold (account to escrow), capture (escrow to revenue), release (escrow to account), refund (revenue to account); null: nothing';
COMMENT ON CONSTRAINT lifecycle_from_state_to_state_key ON lifecycle IS 'a change between two states is one change, with one event and one effect';
COMMENT ON TRIGGER invalidate_caches ON lifecycle IS 'tells every backend to read the lifecycle again';
COMMENT ON TRIGGER lifecycle_check ON lifecycle IS 'refuses a lifecycle that breaks the rules, at commit';
COMMENT ON FUNCTION lifecycle_check() IS
'trigger of table lifecycle: raises 23514 unless there is one initial state, every state is reached and has one money status, each effect starts from its own, and no final state holds money';
COMMENT ON FUNCTION default_lifecycle IS 'the built-in lifecycle, a row a change; columns as in table lifecycle';
COMMENT ON FUNCTION copy_default_lifecycle IS
'Copies the built-in lifecycle into table lifecycle, to be edited there. Takes the right to insert. Error: 23505 it was copied before.';
COMMENT ON VIEW current_lifecycle IS 'the lifecycle in force: table lifecycle, or the built-in one where that is empty';
COMMENT ON COLUMN current_lifecycle.from_state IS 'the state before; null in the one row that names the initial state';
COMMENT ON COLUMN current_lifecycle.to_state IS 'the state after';
COMMENT ON COLUMN current_lifecycle.event_type IS 'the type of the event that the change writes';
COMMENT ON COLUMN current_lifecycle.ledger_effect IS 'hold, capture, release, refund, or null for none';
COMMENT ON COLUMN current_lifecycle.built_in IS 'is this the built-in lifecycle?';

-- orders

COMMENT ON TABLE orders IS
'one row an order: the permanent claim of its key, its state, and its history. Change it by the functions; direct SQL meets the same guard, and INSERT is an import without event and ledger row';
COMMENT ON COLUMN orders.key IS 'the key that the order was created under, 1 to 255 bytes';
COMMENT ON COLUMN orders.state IS 'where in the lifecycle it is';
COMMENT ON COLUMN orders.version IS '1 when created, one more with each change of state';
COMMENT ON COLUMN orders.amount IS 'minor units of the currency, such as cents; null in a tombstone';
COMMENT ON COLUMN orders.created_at IS 'when it was created';
COMMENT ON COLUMN orders.changed_at IS 'when its state last changed';
COMMENT ON COLUMN orders.tombstone IS 'cancelled before it was created: there never was an order, and there will be none';
COMMENT ON COLUMN orders.currency IS 'three capital letters, as in ISO 4217; null in a tombstone';
COMMENT ON COLUMN orders.account IS 'whose money it is; null: the order moves no money in the ledger';
COMMENT ON COLUMN orders.money_status IS 'where the money is: none, held, captured or returned; null in an import: as the lifecycle has it in that state';
COMMENT ON COLUMN orders.payload IS 'what create_order was given; the extension does not read it';
COMMENT ON COLUMN orders.history IS 'every change so far, one step a version; order_history reads it';
COMMENT ON CONSTRAINT orders_pkey ON orders IS 'one order for each key, as long as the order exists';
COMMENT ON CONSTRAINT guard_complete ON orders IS 'only a tombstone has no amount and no currency';
COMMENT ON CONSTRAINT guard_currency ON orders IS 'three capital letters, as in ISO 4217';
COMMENT ON TRIGGER guard_change ON orders IS 'completes a change of state: version, money status, history';
COMMENT ON TRIGGER U&"\0001guard_verify" ON orders IS
'verifies a change as it was stored against the lifecycle and the columns that never change (OI003), then writes ledger and event';
COMMENT ON TRIGGER guard_removal ON orders IS 'refuses DELETE (OI003), but by purge_orders';
COMMENT ON TRIGGER guard_truncate ON orders IS 'refuses TRUNCATE (OI003)';
COMMENT ON FUNCTION guard_change() IS 'trigger of table orders, BEFORE UPDATE: raises the version, moves the money status and adds a step to the history';
COMMENT ON FUNCTION guard_verify() IS
'trigger of table orders, AFTER UPDATE: verifies the change against the lifecycle and the columns that never change (OI003), then writes ledger and event';
COMMENT ON FUNCTION guard_removal() IS 'trigger of table orders, BEFORE DELETE or TRUNCATE: refuses (OI003), since an order is the memory of its key';

COMMENT ON TABLE payment_deadlines IS
'until when orders have to leave their initial state; written by create_order, acted upon by the maintenance process';
COMMENT ON COLUMN payment_deadlines.order_key IS 'the order';
COMMENT ON COLUMN payment_deadlines.due_at IS 'the deadline, or when the next attempt is';
COMMENT ON INDEX payment_deadlines_due IS 'finds the deadlines that have passed';
COMMENT ON TABLE deadline_failures IS
'orders that could not be cancelled when their payment deadline was over, as a rule because of a trigger of yours; tried again, and deleted when it is done';
COMMENT ON COLUMN deadline_failures.order_key IS 'the order';
COMMENT ON COLUMN deadline_failures.failures IS 'how many attempts failed';
COMMENT ON COLUMN deadline_failures.failed_at IS 'when the last one did; the next one is at due_at in payment_deadlines';
COMMENT ON COLUMN deadline_failures.sqlstate IS 'the SQLSTATE of the last error';
COMMENT ON COLUMN deadline_failures.message IS 'the message of the last error';
COMMENT ON CONSTRAINT deadline_failures_pkey ON deadline_failures IS 'one row for each order';

COMMENT ON FUNCTION create_order IS
'Creates an order with its hold of the money and its event. A repeat of the call gets "replayed".

key          1 to 255 bytes; known for good, to all of the database
amount       zero or more, in minor units of the currency, such as cents
currency     three capital letters, as in ISO 4217
account      whose money it is, 1 to 255 bytes; not escrow, not revenue; null: no ledger rows
payload      kept with the order, and in its event; up to order_idempotency.max_payload
pay_within   how long the order may stay in its initial state; null: order_idempotency.pay_within; zero: for ever
headers      of the event: a JSON object of strings, such as traceparent of W3C Trace Context;
             null: order_idempotency.headers
on_conflict  error or null: what could not be done is an error; report: it is an outcome

created      now
replayed     before, with the same amount, currency, account and payload; state and version are the current ones
mismatch     before, with others; detail names them (error OI001)
in_progress  another transaction holds the key after order_idempotency.in_flight_wait (error OI002)
refused      cancel_order left a tombstone: the order was cancelled before it came (error OI005)

Errors besides: 22004 a null that may not be; 22001 too long; 22023 any other bad argument; 54000 over
order_idempotency.max_payload; 25006 read-only transaction or standby; 40001 lost at REPEATABLE READ or
SERIALIZABLE; 40P01 deadlock; 55P03 lock_timeout; 09000 a user''s trigger changed or suppressed the row.';
COMMENT ON FUNCTION transition_order IS
'Changes the state of an order, with the movement of money and the event that the lifecycle has for it.

key          of the order
to_state     1 to 63 bytes
request_key  1 to 255 bytes: known to this order for good; null: the state itself is the key
payload      goes into the event; up to order_idempotency.max_payload
headers      of the event: a JSON object of strings; null: order_idempotency.headers
on_conflict  error or null: what could not be done is an error; report: it is an outcome

applied      now
replayed     before: this request_key was seen, or without one the order is or was in that state; event_id is that change''s
mismatch     this request_key stands for another state (error OI001)
in_progress  another transaction holds the order after order_idempotency.in_flight_wait (error OI002)
illegal      the lifecycle does not allow it; detail names the current state (error OI003, whose hint has the allowed ones)
missing      there is no such order (error OI004)

Errors besides: as in create_order.';
COMMENT ON FUNCTION cancel_order IS
'Cancels an order, if its lifecycle still allows that; the money is given back as the lifecycle says.

key          of the order
reason       for the history and the event, 1 to 1024 bytes, or null
request_key  1 to 255 bytes: known to this order for good; null: the state itself is the key
if_missing   error or null: an unknown order is "missing"; tombstone: leave word, so that its create is refused when it comes
headers      of the event: a JSON object of strings; null: order_idempotency.headers
on_conflict  error or null: what could not be done is an error; report: it is an outcome

cancelled    now
replayed     before
ignored      it can no longer be cancelled; detail names its state
tombstoned   there was none, and will be none; no event is written
mismatch     this request_key stands for another state (error OI001)
in_progress  another transaction holds the order after order_idempotency.in_flight_wait (error OI002)
missing      there is no such order (error OI004)

Errors besides: as in create_order.';
COMMENT ON FUNCTION purge_orders IS
'Removes orders that are final and did not change since then, and whose events every subscription has behind it; returns how
many. Their keys are new afterwards: a repeat of a create_order from before makes another order, so let before be longer ago
than anybody may still repeat anything. The ledger keeps its rows.

before  orders that changed at that time or later stay
max     how many at most, from 1 on; a call takes time and locks in proportion

An order goes if its state has no way out in the lifecycle in force, or it is a tombstone. Orders that somebody has locked are
passed over. Triggers and foreign keys on orders are honoured, as for a DELETE of the caller''s. A notice names the
subscription that holds most back, where no order could go.
Errors: 22004 null; 22023 max is less than 1; 23503 a foreign key of yours refers to an order; 09000 a trigger of yours
suppressed a removal; 25006 read-only transaction or standby.';
COMMENT ON FUNCTION get_order IS
'An order, or no row. allowed_transitions has the states that it may go to now. Other columns as in table orders.
Errors: 22004, 22001, 22023 for a null, over-long or empty key.';
COMMENT ON FUNCTION order_history IS
'The changes of an order, oldest first, a row a version; no row where there is no such order. Columns as in type order_step.
Errors: 22004, 22001, 22023 for a null, over-long or empty key.';

-- ledger

COMMENT ON TABLE ledger IS 'one row for each movement of money of an order with an account; append-only (OI003)';
COMMENT ON COLUMN ledger.order_key IS 'the order';
COMMENT ON COLUMN ledger.version IS 'the version of the order that the movement belongs to';
COMMENT ON COLUMN ledger.effect IS 'hold, capture, release or refund';
COMMENT ON COLUMN ledger.debit_account IS 'from where: the account of the order, escrow or revenue';
COMMENT ON COLUMN ledger.credit_account IS 'to where: the account of the order, escrow or revenue';
COMMENT ON COLUMN ledger.amount IS 'minor units of the currency, zero or more';
COMMENT ON COLUMN ledger.currency IS 'three capital letters';
COMMENT ON COLUMN ledger.posted_at IS 'when the order changed';
COMMENT ON TRIGGER guard_append_only ON ledger IS 'refuses UPDATE, DELETE and TRUNCATE (OI003)';
COMMENT ON FUNCTION guard_append_only() IS 'trigger of tables ledger and outbox_0 to outbox_3, BEFORE UPDATE, DELETE or TRUNCATE: refuses (OI003)';
COMMENT ON VIEW account_balance IS 'what the ledger adds up to; all balances of a currency add up to zero';
COMMENT ON COLUMN account_balance.account IS 'an account of orders, escrow (held) or revenue (captured)';
COMMENT ON COLUMN account_balance.currency IS 'three capital letters';
COMMENT ON COLUMN account_balance.balance IS 'credits less debits, in minor units';

-- outbox

COMMENT ON SEQUENCE outbox_position IS 'positions in the log; drawn one by one (CACHE 1), after the transaction has its xid';
COMMENT ON TABLE outbox_0 IS 'the log of events, first of four tables that are used as generations; read view outbox instead';
COMMENT ON TABLE outbox_1 IS 'the log of events, second of four tables that are used as generations; read view outbox instead';
COMMENT ON TABLE outbox_2 IS 'the log of events, third of four tables that are used as generations; read view outbox instead';
COMMENT ON TABLE outbox_3 IS 'the log of events, last of four tables that are used as generations; read view outbox instead';
COMMENT ON COLUMN outbox_0.position IS 'where in the log; grows, with gaps; events of one order are in version order';
COMMENT ON COLUMN outbox_0.xid IS 'the top-level transaction that wrote it';
COMMENT ON COLUMN outbox_0.event_id IS 'a UUIDv7 (RFC 9562): the same on every delivery, never another event''s; receivers deduplicate on it';
COMMENT ON COLUMN outbox_0.key IS 'the key of the order, or the one that emit_event was given';
COMMENT ON COLUMN outbox_0.version IS 'the version of the order that the event tells of; null for emit_event';
COMMENT ON COLUMN outbox_0.type IS 'the event_type of the lifecycle, or the one that emit_event was given';
COMMENT ON COLUMN outbox_0.payload IS 'of an order: an object, see docs/reference.md; else what emit_event was given';
COMMENT ON COLUMN outbox_0.headers IS 'an object of strings, such as traceparent of W3C Trace Context, or null';
COMMENT ON COLUMN outbox_0.created_at IS 'when the order changed, or emit_event was called';
COMMENT ON INDEX outbox_0_position IS 'reads a batch in the order of the log';
COMMENT ON INDEX outbox_1_position IS 'reads a batch in the order of the log';
COMMENT ON INDEX outbox_2_position IS 'reads a batch in the order of the log';
COMMENT ON INDEX outbox_3_position IS 'reads a batch in the order of the log';
COMMENT ON INDEX outbox_0_xid IS 'finds the events of transactions that committed late';
COMMENT ON INDEX outbox_1_xid IS 'finds the events of transactions that committed late';
COMMENT ON INDEX outbox_2_xid IS 'finds the events of transactions that committed late';
COMMENT ON INDEX outbox_3_xid IS 'finds the events of transactions that committed late';
COMMENT ON TRIGGER guard_append_only ON outbox_0 IS 'refuses UPDATE, DELETE and TRUNCATE (OI003)';
COMMENT ON TRIGGER guard_append_only ON outbox_1 IS 'refuses UPDATE, DELETE and TRUNCATE (OI003)';
COMMENT ON TRIGGER guard_append_only ON outbox_2 IS 'refuses UPDATE, DELETE and TRUNCATE (OI003)';
COMMENT ON TRIGGER guard_append_only ON outbox_3 IS 'refuses UPDATE, DELETE and TRUNCATE (OI003)';
COMMENT ON VIEW outbox IS 'the log of events, of all generations; subscriptions carry it to the outside';
COMMENT ON FUNCTION log_holders IS
'The subscriptions that have not delivered, or passed over, all that is in one of the tables outbox_0 (slot 0) to outbox_3; null: none, it may
be emptied. For view outbox_store.
Errors: 22023 no such slot.';
COMMENT ON FUNCTION outbox_retention IS 'the setting order_idempotency.outbox_retention';
COMMENT ON VIEW outbox_store IS
'what the log takes, by generation; a generation that is null is a table that is off the list, which will be emptied when nobody reads or holds it';
COMMENT ON COLUMN outbox_store.generation IS 'the number of the generation; the highest is the one written to';
COMMENT ON COLUMN outbox_store.slot IS 'where it is: the table is outbox_0 for 0, and so on';
COMMENT ON COLUMN outbox_store.events IS 'how many events, as the statistics of the server have it: an estimate, and 0 after a crash until the next ANALYZE';
COMMENT ON COLUMN outbox_store.bytes IS 'how much space on disk, with indexes and TOAST';
COMMENT ON COLUMN outbox_store.started_at IS 'when writing to it began; null: not recorded yet';
COMMENT ON COLUMN outbox_store.ended_at IS 'when the last transaction that had written to it was over; null: it is written to, or such a transaction is still open';
COMMENT ON COLUMN outbox_store.kept_until IS 'until when its events are kept at least: order_idempotency.outbox_retention after its end';
COMMENT ON COLUMN outbox_store.held_by IS 'the subscriptions that need it: it is kept until they have delivered all of it; null: none';
COMMENT ON PROCEDURE rotate_outbox IS
'Does now what the maintenance process does by itself: begins a new generation of the log if the current one has events and is
older than half the retention, ends those that nobody writes to any more, and empties those whose events have been kept for long
enough and were delivered to every subscription.

retention  from 0 on; null: order_idempotency.outbox_retention
began      the number of the generation that was begun; null: none
emptied    how many tables were emptied

CALL it outside of a transaction block: it commits after each step. What is held up by an open transaction, a reader or a
subscription is left for the next time.
Errors: 25001 inside a transaction block; 22023 retention is negative; 55P03 somebody has the list of generations locked;
25006 read-only transaction or standby.';

COMMENT ON FUNCTION emit_event IS
'Writes an event of the application into the log, as part of its transaction, and returns the event''s id, a UUIDv7 (RFC 9562).

type     1 to 255 bytes without control characters; not one of the lifecycle''s
key      1 to 255 bytes: events of one key are delivered in the order of their transactions
payload  up to order_idempotency.max_payload, or null
headers  a JSON object of strings, such as traceparent of W3C Trace Context; null: order_idempotency.headers

Sinks send it as a CloudEvent 1.0: id is the event''s id, subject and partitionkey are the key, data is the payload.
Errors: 22004 type or key is null; 22001 too long; 22023 any other bad argument; 54000 over
order_idempotency.max_payload; 25006 read-only transaction or standby.';

-- subscriptions and sinks

COMMENT ON FOREIGN DATA WRAPPER order_idempotency_file IS
'sink that appends events to a file, one CloudEvent 1.0 a line; server options: path (absolute path of a directory; takes pg_write_server_files), fsync (boolean, default on), rotate_size (1kB to 1TB; default: no rotation)';
COMMENT ON FUNCTION file_sink_validator IS 'validator of order_idempotency_file: checks the options of servers when they are written';
COMMENT ON FOREIGN DATA WRAPPER order_idempotency_http IS
'sink that sends each event by a POST, as a CloudEvent 1.0 in binary mode; server options: url; allow_addresses (networks; default: public addresses), ca_file (takes pg_read_server_files), max_in_flight (1 to 256 requests, default 8), timeout (100 to 25000 ms for a request, default 10000); options of user mappings: secret (of Standard Webhooks), token (for Authorization: Bearer)';
COMMENT ON FUNCTION http_sink_validator IS 'validator of order_idempotency_http: checks the options of servers and user mappings when they are written';
COMMENT ON FOREIGN DATA WRAPPER order_idempotency_kafka IS
'sink that writes each event to a topic of Kafka, as a CloudEvent 1.0 in binary mode; server options: bootstrap.servers (required), and those that the reference names; options of user mappings: sasl.username, sasl.password, ssl.key.password';
COMMENT ON FUNCTION kafka_sink_validator IS 'validator of order_idempotency_kafka: checks the options of servers and user mappings when they are written';
COMMENT ON FOREIGN DATA WRAPPER order_idempotency_nats IS
'sink that publishes each event to a stream of NATS JetStream, as a CloudEvent 1.0 in binary mode; server options: url (required; nats:// or tls://); stream (the one that has to take the events), max_in_flight (1 to 4000 events, default 1000), timeout (100 to 25000 ms without an answer, default 10000), ca_file, cert_file, key_file (take pg_read_server_files); options of user mappings: user, password, token, nkey, nkey_seed, jwt';
COMMENT ON FUNCTION nats_sink_validator IS 'validator of order_idempotency_nats: checks the options of servers and user mappings when they are written';
COMMENT ON FOREIGN DATA WRAPPER order_idempotency_rabbitmq IS
'sink that publishes each event to an exchange of RabbitMQ, as a CloudEvent 1.0 in binary mode, with publisher confirms; server options: host (required); port (default 5672, with tls 5671), virtual_host (default /), exchange (default: the one without a name), tls (boolean, default off), auth (plain or external), heartbeat (1 to 600 s, default 10), max_in_flight (1 to 5000 events, default 1000), timeout (100 to 25000 ms without an answer, default 10000), ca_file, cert_file, key_file (take pg_read_server_files); options of user mappings: user, password';
COMMENT ON FUNCTION rabbitmq_sink_validator IS 'validator of order_idempotency_rabbitmq: checks the options of servers and user mappings when they are written';
COMMENT ON FOREIGN DATA WRAPPER order_idempotency_redis IS
'sink that adds each event to a stream of Redis, as a CloudEvent 1.0 in binary mode; server options: host (required); port (default 6379), and those that the reference names; options of user mappings: user, password';
COMMENT ON FUNCTION redis_sink_validator IS 'validator of order_idempotency_redis: checks the options of servers and user mappings when they are written';
COMMENT ON SEQUENCE subscription_id IS 'numbers of subscriptions; none is used again';
COMMENT ON TABLE subscriptions IS 'the durable readers of the log; made by create_subscription';
COMMENT ON COLUMN subscriptions.id IS 'its number, which its cursor and its worker are known by';
COMMENT ON COLUMN subscriptions.name IS 'its name, 1 to 63 bytes';
COMMENT ON COLUMN subscriptions.server IS 'the foreign server that it delivers to';
COMMENT ON COLUMN subscriptions.owner IS 'whoever made it; its worker connects as this role';
COMMENT ON COLUMN subscriptions.event_types IS 'the types of events that it wants; null: all';
COMMENT ON COLUMN subscriptions.topic IS 'where at the receiver; for a file its name';
COMMENT ON COLUMN subscriptions.options IS 'as create_subscription was given them';
COMMENT ON COLUMN subscriptions.created_at IS 'when it was made';
COMMENT ON COLUMN subscriptions.armed_for IS 'the installation that it may publish from; null: it came from 1.0';
COMMENT ON COLUMN subscriptions.armed_database IS 'the OID of the database that it may publish from';
COMMENT ON COLUMN subscriptions.environment IS 'the order_idempotency.environment that it may publish in';
COMMENT ON CONSTRAINT subscriptions_name_key ON subscriptions IS 'names are unique in a database';
COMMENT ON TABLE subscription_cursors IS
'where each subscription stands in the log: whatever behind sees is delivered or not wanted; of the rest that batch sees, all up to progress';
COMMENT ON COLUMN subscription_cursors.subscription IS 'the number of the subscription';
COMMENT ON COLUMN subscription_cursors.behind IS 'the transactions whose events the subscription has behind it';
COMMENT ON COLUMN subscription_cursors.behind_position IS 'the last position of the log, read before behind was taken';
COMMENT ON COLUMN subscription_cursors.behind_next_xid IS 'the next transaction''s xid, read after behind was taken';
COMMENT ON COLUMN subscription_cursors.batch IS 'the transactions whose events are being delivered; null: none';
COMMENT ON COLUMN subscription_cursors.batch_position IS 'the last position of the log, read before batch was taken';
COMMENT ON COLUMN subscription_cursors.batch_next_xid IS 'the next transaction''s xid, read after batch was taken';
COMMENT ON COLUMN subscription_cursors.progress IS 'all of the batch up to this position is delivered; 0: none';
COMMENT ON COLUMN subscription_cursors.delivered IS 'how many events were delivered since the subscription was made';
COMMENT ON COLUMN subscription_cursors.delivered_at IS 'when the last one was; null: none so far';
COMMENT ON COLUMN subscriptions.paused_at IS 'when pause_subscription was called; null: it is not paused';
COMMENT ON COLUMN subscriptions.invalidated_at IS 'when it held more of the log than max_retained and was given up; null: it is valid';
COMMENT ON COLUMN subscription_cursors.retried IS 'how many times a delivery of an event failed and was put off';
COMMENT ON COLUMN subscription_cursors.behind_all_above IS 'true after a seek: no event above behind_position is behind, whoever wrote it';
COMMENT ON COLUMN subscription_cursors.turn IS
'goes down by one now and then, so that the index has the newest versions of a row first';
COMMENT ON COLUMN subscription_cursors.token IS 'the number of the last delivery to a sink that refuses repeats by number; 0: none';
COMMENT ON COLUMN subscription_cursors.token_timeline IS 'the timeline of the server when it was given out';
COMMENT ON COLUMN subscription_cursors.open_log IS 'events of the log that were read and are not known to be done: pairs of a position and, of such a sink, of the index in that delivery, -1 if it is in none, plus 2^32 for each event that follows it in both; null: none';
COMMENT ON COLUMN subscription_cursors.open_upto IS 'the progress once these are done';
COMMENT ON COLUMN subscription_cursors.open_failed IS 'the same of failed_events, of that delivery';
COMMENT ON COLUMN subscription_cursors.settled IS 'the number of the last delivery to such a sink of which it is known what became of each event; 0: none';
COMMENT ON TABLE failed_events IS
'events that a subscription could not deliver, and those of the same keys behind them; views parked_events and dead_letters show them';
COMMENT ON COLUMN failed_events.subscription IS 'the number of the subscription';
COMMENT ON COLUMN failed_events.position IS 'where in the log';
COMMENT ON COLUMN failed_events.event_id IS 'the id of the event, the same on every delivery';
COMMENT ON COLUMN failed_events.key IS 'the key of the event';
COMMENT ON COLUMN failed_events.version IS 'the version of the order that the event tells of; null for emit_event';
COMMENT ON COLUMN failed_events.type IS 'the type of the event';
COMMENT ON COLUMN failed_events.payload IS 'its payload';
COMMENT ON COLUMN failed_events.headers IS 'its headers';
COMMENT ON COLUMN failed_events.created_at IS 'when the order changed, or emit_event was called';
COMMENT ON COLUMN failed_events.state IS 'parked: it failed and is tried again; waiting: it is behind one of its key that failed; dead: it is not tried again';
COMMENT ON COLUMN failed_events.attempts IS 'how many deliveries failed; while the receiver is down altogether they do not count';
COMMENT ON COLUMN failed_events.next_at IS 'when it is tried again, at the earliest; null: not parked';
COMMENT ON COLUMN failed_events.reason IS 'why the last delivery failed; null: it was not tried';
COMMENT ON COLUMN failed_events.failed_at IS 'when that was';
COMMENT ON VIEW parked_events IS 'the events that are tried again later, and those of the same keys that wait behind them';
COMMENT ON COLUMN parked_events.subscription IS 'the subscription';
COMMENT ON COLUMN parked_events.position IS 'where in the log';
COMMENT ON COLUMN parked_events.event_id IS 'the id of the event, the same on every delivery';
COMMENT ON COLUMN parked_events.key IS 'the key of the event';
COMMENT ON COLUMN parked_events.version IS 'the version of the order that the event tells of; null for emit_event';
COMMENT ON COLUMN parked_events.type IS 'the type of the event';
COMMENT ON COLUMN parked_events.payload IS 'its payload';
COMMENT ON COLUMN parked_events.headers IS 'its headers';
COMMENT ON COLUMN parked_events.created_at IS 'when the order changed, or emit_event was called';
COMMENT ON COLUMN parked_events.state IS 'parked: it failed and is tried again; waiting: it is behind one of its key that failed';
COMMENT ON COLUMN parked_events.attempts IS 'how many deliveries failed; while the receiver is down altogether they do not count';
COMMENT ON COLUMN parked_events.next_at IS 'when it is tried again, at the earliest; null: it waits';
COMMENT ON COLUMN parked_events.reason IS 'why the last delivery failed; null: it was not tried';
COMMENT ON COLUMN parked_events.failed_at IS 'when that was';
COMMENT ON VIEW dead_letters IS 'the events that the receiver rejected, or whose attempts are used up: they are not tried again before redrive()';
COMMENT ON COLUMN dead_letters.subscription IS 'the subscription';
COMMENT ON COLUMN dead_letters.position IS 'where in the log';
COMMENT ON COLUMN dead_letters.event_id IS 'the id of the event, the same on every delivery';
COMMENT ON COLUMN dead_letters.key IS 'the key of the event';
COMMENT ON COLUMN dead_letters.version IS 'the version of the order that the event tells of; null for emit_event';
COMMENT ON COLUMN dead_letters.type IS 'the type of the event';
COMMENT ON COLUMN dead_letters.payload IS 'its payload';
COMMENT ON COLUMN dead_letters.headers IS 'its headers';
COMMENT ON COLUMN dead_letters.created_at IS 'when the order changed, or emit_event was called';
COMMENT ON COLUMN dead_letters.attempts IS 'how many deliveries failed';
COMMENT ON COLUMN dead_letters.reason IS 'why the last one did';
COMMENT ON COLUMN dead_letters.failed_at IS 'when that was';

COMMENT ON FUNCTION create_subscription IS
'Makes a durable reader of the log, whose worker delivers every event at least once, those of one key in order.

name         1 to 63 of a-z, 0-9, _ and -, a letter first
server       a foreign server of a sink, such as order_idempotency_file; takes USAGE on it
event_types  the types that it wants; null: all
topic        1 to 255 letters, digits, ".", "_", "-" and "/"; null: the name. For a file: its name in the server''s
             directory, without "/" and not beginning with "."; null: the name and ".jsonl"
options      a JSON object: batch_size (1 to 5000 events in one delivery, default 500), from ("now", the
             default: what commits from here on; "start": all that the log has), max_attempts (1 to 1000000, default
             20: then an event is a dead letter), on_dead ("hold", the default: a dead letter holds up the later
             events of its key; "skip": they go on), backoff_min and backoff_max (1 to 86400000 ms between attempts,
             doubling from the first to the second, default 1000 and 3600000), max_parked_keys (0 to 100000, default
             10000: when so many keys are held, the subscription waits as a whole)

The caller becomes its owner and has to be able to log in. It is armed for this database and order_idempotency.environment:
a copy does not publish until resume_subscription. Warnings: no worker without shared_preload_libraries; no LOGIN.
Notice: order_idempotency.environment is empty.
Errors: 42710 the name is taken; 42704 no such server; 42809 the server is not a sink; 42501 no USAGE on it; 22004 name,
server or an event type is null; 22001 too long; 22023 any other bad argument; 25006 read-only transaction or standby.';
COMMENT ON FUNCTION drop_subscription IS
'Removes a subscription; its worker ends when that commits. What it has not delivered it never will.
Errors: 42704 no such subscription; 42501 it is another role''s; 22004 the name is null; 25006 read-only transaction or standby.';
COMMENT ON FUNCTION resume_subscription IS
'Has a subscription go on: one that is paused; one that was invalidated, with what the log still has; one that is disarmed, as it is in a copy of a database and where
order_idempotency.environment is another one (from when that commits it publishes from this database, beginning with what it had not
delivered when the copy was made); and one whose receiver was taken for down, which is tried at once. One whose owner was
dropped is taken over by the superuser who calls this.
Errors: 42704 no such subscription; 42501 it is another role''s; 22004 the name is null; 55000 it was restored into a database
that was in use; 25006 read-only transaction or standby.';
COMMENT ON FUNCTION alter_subscription IS
'Changes a subscription; it stays where it is in the log. What is null stays as it is.

name         the subscription
server       another server, with the right of the subscription''s owner to use it
event_types  the types that it wants from here on; an empty array: all
topic        as in create_subscription
options      those given replace those of the same name; a null takes back the default. Not from

In effect when it returns: see pause_subscription.
Errors: as in create_subscription; 42704 no such subscription; 42501 it is another role''s; 22023 option from.';
COMMENT ON FUNCTION pause_subscription IS
'Stops a subscription; it keeps its place in the log. When this returns, no delivery is under way, and none begins before the
transaction ends; then its worker ends. A delivery that a receiver does not answer within a second is broken off; it is
made again later, with the same event ids.
Errors: 42704 no such subscription; 42501 it is another role''s; 22004 the name is null; 25006 read-only transaction or standby.';
COMMENT ON FUNCTION seek_to_position IS
'Takes a subscription to another place in the log: events above that position are delivered, again if they were before. Those
at or below it are not, but for what was not committed yet. 0: all that the log has; a position behind the end: the end.
What failed before stays in parked_events and dead_letters. Returns the position. In effect when it returns: see pause_subscription.
Errors: 42704 no such subscription; 42501 it is another role''s; 22004 the name or the position is null; 25006 read-only transaction or standby; 22023 a negative position;
55000 it came with a dump: resume it first, in the same transaction if nothing is to be delivered before.';
COMMENT ON FUNCTION seek_to_time IS
'Takes a subscription to before the first event that was made at a time or later, or to the end of the log if there is none; it reads
the log to find that. Returns the position; the rest is as in seek_to_position.
Errors: 42704 no such subscription; 42501 it is another role''s; 22004 the name or the time is null; 25006 read-only transaction or standby;
55000 it came with a dump.';
COMMENT ON FUNCTION redrive IS
'Tries events that failed again, at once and with all attempts before them: those of parked_events that are parked, and
those of dead_letters. One event, those of a key, or everything => true. Returns how many. The order of a key is kept; but where
on_dead is skip, later events of it have been delivered already. In effect when it returns: see pause_subscription.
Errors: 42704 no such subscription; 42501 it is another role''s; 22004 the name is null; 25006 read-only transaction or standby; 22023 not exactly one of event_id, key and everything.';
COMMENT ON FUNCTION discard IS
'Gives events up that failed: they are never delivered. One event, those parked and dead of a key, or all parked and dead
ones (everything => true); those that only wait behind them go on. Returns how many. In effect when it returns: see
pause_subscription.
Errors: 42704 no such subscription; 42501 it is another role''s; 22004 the name is null; 25006 read-only transaction or standby; 22023 not exactly one of event_id, key and everything.';
COMMENT ON FUNCTION subscription_workers IS
'What the server knows of the workers of this database, one row a subscription; view subscription_status has it all.
state: stopped, no process (raise max_worker_processes), starting, idle, delivering, retrying (see last_error), off
(order_idempotency.publish is off).';
COMMENT ON FUNCTION subscription_lag IS
'How much the log has for a subscription that is not delivered: events, bytes about, and when the oldest was made (null: there is
none). The next 125,000 rows are looked at; what is behind them is estimated. View subscription_status has it all.
Errors: none.';
COMMENT ON FUNCTION subscription_activity IS
'How many events the sinks of this database have at this moment, one row a subscription.';
COMMENT ON VIEW subscription_status IS 'the subscriptions of this database, their workers and how far they are';
COMMENT ON COLUMN subscription_status.name IS 'the subscription';
COMMENT ON COLUMN subscription_status.server IS 'the foreign server that it delivers to';
COMMENT ON COLUMN subscription_status.owner IS 'its owner; the worker connects as this role';
COMMENT ON COLUMN subscription_status.event_types IS 'the types of events that it wants; null: all';
COMMENT ON COLUMN subscription_status.topic IS 'where at the receiver; for a file its name';
COMMENT ON COLUMN subscription_status.pid IS 'the process of its worker; null: none';
COMMENT ON COLUMN subscription_status.delivered IS 'how many events were delivered since it was made';
COMMENT ON COLUMN subscription_status.delivered_at IS 'when the last one was';
COMMENT ON COLUMN subscription_status.last_error IS 'the last error of its worker since the server started; null: none';
COMMENT ON COLUMN subscription_status.last_error_at IS 'when that was';
COMMENT ON COLUMN subscription_status.state IS
'stopped, no process (raise max_worker_processes), starting, idle, delivering, retrying (nothing goes out: see last_error), off (order_idempotency.publish is off), paused, disarmed, invalidated (see detail)';
COMMENT ON COLUMN subscription_status.lag_events IS 'how many events it wants and has not delivered, those parked or waiting included and dead ones not; 0: it is up to date; above 125,000: about';
COMMENT ON COLUMN subscription_status.detail IS 'why it is paused, disarmed, invalidated, retrying, off, without a process or without an owner, and what to do; null: it is not';
COMMENT ON COLUMN subscription_status.lag_bytes IS 'how large these events are, about';
COMMENT ON COLUMN subscription_status.lag_seconds IS 'the age of the oldest of them; 0: there is none';
COMMENT ON COLUMN subscription_status.oldest_waiting IS 'when the oldest of them was made; null: there is none';
COMMENT ON COLUMN subscription_status.retried IS 'how many times a delivery of an event failed and was put off, since it was made';
COMMENT ON COLUMN subscription_status.parked IS 'how many events are in view parked_events';
COMMENT ON COLUMN subscription_status.dead IS 'how many events are in view dead_letters';
COMMENT ON COLUMN subscription_status.in_flight IS 'how many events its sink has at the moment';

-- statistics

COMMENT ON FUNCTION claim_counts IS 'what view claim_stats shows; no row without shared_preload_libraries';
COMMENT ON FUNCTION order_counts IS 'what view order_stats shows; no row without shared_preload_libraries';
COMMENT ON FUNCTION retry_counts IS 'what view retry_ratio shows, with the minutes ending in the ten seconds of that time; no row without shared_preload_libraries';
COMMENT ON FUNCTION retried_keys IS 'what view hot_keys shows, of the hour of that time and the one before; no row without shared_preload_libraries';
COMMENT ON FUNCTION delivery_counts IS 'what view subscription_stats is made of, with the minutes ending in the ten seconds of that time; no row without shared_preload_libraries';
COMMENT ON FUNCTION reset_stats IS 'Begins all statistics of this database anew, at once, whether the transaction commits or not.';
COMMENT ON VIEW claim_stats IS
'calls of the functions of claims in this database by what they answered, whether their transactions committed or not; no row without shared_preload_libraries';
COMMENT ON COLUMN claim_stats.claimed IS 'claim_key: claimed';
COMMENT ON COLUMN claim_stats.taken_over IS 'of those, how many took over a key that an earlier attempt had not completed or had released';
COMMENT ON COLUMN claim_stats.replayed IS 'claim_key: replayed, the duplicates that were made harmless';
COMMENT ON COLUMN claim_stats.in_progress IS 'claim_key: in_progress';
COMMENT ON COLUMN claim_stats.mismatch IS 'claim_key: mismatch, keys that were used again for another request';
COMMENT ON COLUMN claim_stats.completed IS 'complete_key: completed';
COMMENT ON COLUMN claim_stats.completed_again IS 'complete_key: replayed';
COMMENT ON COLUMN claim_stats.extended IS 'extend_key: extended';
COMMENT ON COLUMN claim_stats.released IS 'release_key: released';
COMMENT ON COLUMN claim_stats.stale IS 'complete_key, extend_key, release_key: stale, holders who were too late';
COMMENT ON COLUMN claim_stats.unknown IS 'complete_key, extend_key, release_key: unknown';
COMMENT ON COLUMN claim_stats.since IS 'since when it is counted: the first call, reset_stats(), or the last start of the server after a crash; null: there was no call';
COMMENT ON VIEW order_stats IS
'calls of create_order, transition_order and cancel_order in this database by what they answered or raised, whether their transactions committed or not; no row without shared_preload_libraries';
COMMENT ON COLUMN order_stats.created IS 'create_order: created';
COMMENT ON COLUMN order_stats.applied IS 'transition_order: applied';
COMMENT ON COLUMN order_stats.cancelled IS 'cancel_order: cancelled';
COMMENT ON COLUMN order_stats.tombstoned IS 'cancel_order: tombstoned';
COMMENT ON COLUMN order_stats.replayed IS 'all three: replayed, the duplicates that were made harmless';
COMMENT ON COLUMN order_stats.ignored IS 'cancel_order: ignored';
COMMENT ON COLUMN order_stats.mismatch IS 'all three: mismatch (OI001)';
COMMENT ON COLUMN order_stats.in_progress IS 'all three: in_progress (OI002)';
COMMENT ON COLUMN order_stats.illegal IS 'transition_order: illegal (OI003)';
COMMENT ON COLUMN order_stats.missing IS 'transition_order, cancel_order: missing (OI004)';
COMMENT ON COLUMN order_stats.refused IS 'create_order: refused by a tombstone (OI005)';
COMMENT ON COLUMN order_stats.since IS 'as in claim_stats';
COMMENT ON VIEW retry_ratio IS
'how many calls of the last 1, 5 and 60 minutes, to within ten seconds, were repeats, of claim_key (source claims) and of the functions of orders (orders)';
COMMENT ON COLUMN retry_ratio.source IS 'claims or orders';
COMMENT ON COLUMN retry_ratio.minutes IS '1, 5 or 60';
COMMENT ON COLUMN retry_ratio.firsts IS 'calls that did their work: claimed; created, applied, cancelled, tombstoned';
COMMENT ON COLUMN retry_ratio.retries IS 'calls whose work was done or was being done: replayed, in_progress';
COMMENT ON COLUMN retry_ratio.ratio IS 'retries for each first; null: there were no firsts';
COMMENT ON VIEW hot_keys IS
'the most retried keys of this hour and the one before, 64 an hour at most; setting hot_keys hides them';
COMMENT ON COLUMN hot_keys.source IS 'claims or orders';
COMMENT ON COLUMN hot_keys.scope IS 'the scope of the claim, its first 63 bytes; null: an order';
COMMENT ON COLUMN hot_keys.key IS 'the key; where order_idempotency.hot_keys is hash, sha256: and the first 32 hexadecimal digits of its SHA-256';
COMMENT ON COLUMN hot_keys.retries IS 'how many calls with it were answered replayed or in_progress, at most';
COMMENT ON COLUMN hot_keys.overcount IS 'of these, how many may have been of other keys; 0: none';
COMMENT ON COLUMN hot_keys.last_retry_at IS 'when the statement of the last one began';
COMMENT ON VIEW subscription_stats IS
'what the subscriptions of this database delivered, how fast, and how long after the event; a row for each that has had a worker';
COMMENT ON COLUMN subscription_stats.name IS 'the subscription';
COMMENT ON COLUMN subscription_stats.delivered IS 'events that the receiver has';
COMMENT ON COLUMN subscription_stats.retried IS 'attempts that failed and are made again';
COMMENT ON COLUMN subscription_stats.rejected IS 'attempts that the receiver refused for good';
COMMENT ON COLUMN subscription_stats.rate_1m IS 'events delivered a second in the last minute, to within ten seconds';
COMMENT ON COLUMN subscription_stats.rate_5m IS 'in the last 5 minutes';
COMMENT ON COLUMN subscription_stats.rate_60m IS 'in the last 60 minutes';
COMMENT ON COLUMN subscription_stats.failed_1m IS 'attempts that failed or were refused in the last minute';
COMMENT ON COLUMN subscription_stats.failed_5m IS 'in the last 5 minutes';
COMMENT ON COLUMN subscription_stats.failed_60m IS 'in the last 60 minutes';
COMMENT ON COLUMN subscription_stats.latency_p50 IS 'in seconds: half of the events were delivered no longer than this after their created_at; one of latency_bounds, or Infinity; null: nothing was delivered';
COMMENT ON COLUMN subscription_stats.latency_p95 IS '95 of a hundred';
COMMENT ON COLUMN subscription_stats.latency_p99 IS '99 of a hundred';
COMMENT ON COLUMN subscription_stats.latency_bounds IS 'the bounds of the histogram of latencies, in seconds';
COMMENT ON COLUMN subscription_stats.latency_counts IS 'how many events were delivered within each bound';
COMMENT ON COLUMN subscription_stats.latency_sum IS 'the latencies of all events together, in seconds';
COMMENT ON COLUMN subscription_stats.since IS 'since when it is counted: its first worker''s start, reset_stats(), or the last start of the server after a crash';

-- roles

COMMENT ON FUNCTION grant_application IS
'Grants a role what an application needs: EXECUTE on the functions of claims and orders and on emit_event; no table. Errors: 22004 null; 42501 not the owner''s to grant.';
COMMENT ON FUNCTION grant_monitor IS
'Grants a role what monitoring needs: SELECT on abandoned_claims, account_balance, current_lifecycle, deadline_failures, subscription_status, parked_events, dead_letters, key_store, outbox_store and the views of statistics. Errors as in grant_application.';
COMMENT ON FUNCTION grant_operator IS
'Grants a role what operation needs: all of grant_monitor, SELECT on every table, get_order, order_history, create_subscription, alter_subscription, pause_subscription, resume_subscription, drop_subscription, seek_to_position, seek_to_time, redrive, discard, purge_orders, reset_stats, rotate_keys and rotate_outbox. Errors as in grant_application.';

-- columns that other relations have from the first generation
DO $$
DECLARE
	c record;
BEGIN
	FOR c IN
		SELECT r.relname, a.attname, pg_catalog.col_description(f.attrelid, f.attnum) AS comment
		FROM pg_catalog.pg_class r
			JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid
			JOIN pg_catalog.pg_attribute f ON f.attname = a.attname
		WHERE r.relnamespace = 'order_idempotency'::pg_catalog.regnamespace
		  AND (r.relname IN ('claims', 'claims_1', 'claims_2', 'claims_3')
			   AND f.attrelid = 'order_idempotency.claims_0'::pg_catalog.regclass
			   OR r.relname IN ('outbox', 'outbox_1', 'outbox_2', 'outbox_3')
			   AND f.attrelid = 'order_idempotency.outbox_0'::pg_catalog.regclass)
		  AND a.attnum > 0 AND f.attnum > 0
	LOOP
		EXECUTE pg_catalog.format('COMMENT ON COLUMN order_idempotency.%I.%I IS %L', c.relname, c.attname, c.comment);
	END LOOP;
END
$$;
