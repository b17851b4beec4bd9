-- Promise: names, signatures and result types are what the reference says, and
-- stay so for 1.x (a changed row type breaks clients' prepared statements);
-- every object says in a comment what it is.
BEGIN;
\ir lib/tools.psql
SELECT plan(18);

SELECT is((SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
		   WHERE e.extname = 'order_idempotency'), 'order_idempotency',
		  'the extension lives in its own schema');
SELECT is((SELECT extrelocatable FROM pg_extension WHERE extname = 'order_idempotency'), false,
		  'and cannot be moved out of it');

SELECT pg_temp.rows_are($$
	SELECT p.proname::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid)
	FROM pg_proc p
	WHERE p.pronamespace = 'order_idempotency'::regnamespace
	  AND p.prorettype <> 'trigger'::regtype
	  AND p.proname NOT LIKE '%validator'
	ORDER BY p.proname
	$$, $$
	VALUES
	('alter_subscription', 'name text, server text DEFAULT NULL::text, event_types text[] DEFAULT NULL::text[], '
		'topic text DEFAULT NULL::text, options jsonb DEFAULT NULL::jsonb', 'void'),
	('cancel_order', 'key text, reason text DEFAULT NULL::text, request_key text DEFAULT NULL::text, '
		'if_missing text DEFAULT ''error''::text, headers jsonb DEFAULT NULL::jsonb, '
		'on_conflict text DEFAULT ''error''::text', 'order_idempotency.order_result'),
	('claim_counts', 'OUT claimed bigint, OUT taken_over bigint, OUT replayed bigint, OUT in_progress bigint, '
		'OUT mismatch bigint, OUT completed bigint, OUT completed_again bigint, OUT extended bigint, '
		'OUT released bigint, OUT stale bigint, OUT unknown bigint, OUT since timestamp with time zone', 'SETOF record'),
	('claim_key', 'key text, request jsonb DEFAULT NULL::jsonb, scope text DEFAULT ''default''::text, '
		'lease interval DEFAULT NULL::interval', 'order_idempotency.claim_result'),
	('complete_key', 'key text, response jsonb DEFAULT NULL::jsonb, scope text DEFAULT ''default''::text, '
		'attempt integer DEFAULT NULL::integer', 'text'),
	('copy_default_lifecycle', '', 'void'),
	('create_order', 'key text, amount bigint, currency text, account text DEFAULT NULL::text, '
		'payload jsonb DEFAULT NULL::jsonb, pay_within interval DEFAULT NULL::interval, '
		'headers jsonb DEFAULT NULL::jsonb, on_conflict text DEFAULT ''error''::text',
		'order_idempotency.order_result'),
	('create_subscription', 'name text, server text, event_types text[] DEFAULT NULL::text[], '
		'topic text DEFAULT NULL::text, options jsonb DEFAULT NULL::jsonb', 'void'),
	('default_lifecycle', 'OUT from_state text, OUT to_state text, OUT event_type text, OUT ledger_effect text',
		'SETOF record'),
	('delivery_counts', 'at timestamp with time zone, OUT subscription integer, OUT delivered bigint, OUT retried bigint, '
		'OUT rejected bigint, OUT delivered_1m bigint, OUT delivered_5m bigint, OUT delivered_60m bigint, '
		'OUT failed_1m bigint, OUT failed_5m bigint, OUT failed_60m bigint, OUT latency_bounds double precision[], '
		'OUT latency_counts bigint[], OUT latency_sum double precision, OUT since timestamp with time zone',
		'SETOF record'),
	('discard', 'name text, event_id uuid DEFAULT NULL::uuid, key text DEFAULT NULL::text, '
		'everything boolean DEFAULT false', 'bigint'),
	('drop_subscription', 'name text', 'void'),
	('emit_event', 'type text, key text, payload jsonb DEFAULT NULL::jsonb, headers jsonb DEFAULT NULL::jsonb',
		'uuid'),
	('extend_key', 'key text, lease interval, scope text, attempt integer', 'text'),
	('get_order', 'key text, OUT order_key text, OUT state text, OUT version integer, OUT amount bigint, '
		'OUT currency text, OUT account text, OUT money_status text, OUT payload jsonb, OUT tombstone boolean, '
		'OUT created_at timestamp with time zone, OUT changed_at timestamp with time zone, '
		'OUT allowed_transitions text[]', 'SETOF record'),
	('grant_application', 'role regrole', 'void'),
	('grant_monitor', 'role regrole', 'void'),
	('grant_operator', 'role regrole', 'void'),
	('key_retention', '', 'interval'),
	('library_version', '', 'text'),
	('log_holders', 'slot integer', 'text[]'),
	('order_counts', 'OUT created bigint, OUT applied bigint, OUT cancelled bigint, OUT tombstoned bigint, '
		'OUT replayed bigint, OUT ignored bigint, OUT mismatch bigint, OUT in_progress bigint, '
		'OUT illegal bigint, OUT missing bigint, OUT refused bigint, OUT since timestamp with time zone', 'SETOF record'),
	('order_history', 'key text, OUT version integer, OUT state text, OUT at timestamp with time zone, '
		'OUT event_id uuid, OUT request_key text, OUT reason text', 'SETOF record'),
	('outbox_retention', '', 'interval'),
	('pause_subscription', 'name text', 'void'),
	('purge_orders', 'before timestamp with time zone, max integer', 'bigint'),
	('redrive', 'name text, event_id uuid DEFAULT NULL::uuid, key text DEFAULT NULL::text, '
		'everything boolean DEFAULT false', 'bigint'),
	('release_key', 'key text, scope text DEFAULT ''default''::text, attempt integer DEFAULT NULL::integer', 'text'),
	('reset_stats', '', 'void'),
	('resume_subscription', 'name text', 'void'),
	('retried_keys', 'at timestamp with time zone, OUT source text, OUT scope text, OUT key text, OUT retries bigint, '
		'OUT overcount bigint, OUT last_retry_at timestamp with time zone', 'SETOF record'),
	('retry_counts', 'at timestamp with time zone, OUT source text, OUT minutes integer, OUT firsts bigint, '
		'OUT retries bigint', 'SETOF record'),
	('rotate_keys', 'IN retention interval DEFAULT NULL::interval, INOUT began bigint DEFAULT NULL::bigint, '
		'INOUT emptied integer DEFAULT NULL::integer', NULL),
	('rotate_outbox', 'IN retention interval DEFAULT NULL::interval, INOUT began bigint DEFAULT NULL::bigint, '
		'INOUT emptied integer DEFAULT NULL::integer', NULL),
	('seek_to_position', 'name text, "position" bigint', 'bigint'),
	('seek_to_time', 'name text, at timestamp with time zone', 'bigint'),
	('subscription_activity', 'OUT subscription integer, OUT in_flight integer', 'SETOF record'),
	('subscription_lag', 'subscription integer, OUT events bigint, OUT bytes bigint, '
		'OUT oldest timestamp with time zone', 'record'),
	('subscription_workers', 'OUT subscription integer, OUT pid integer, OUT state text, OUT last_error text, '
		'OUT last_error_at timestamp with time zone', 'SETOF record'),
	('transition_order', 'key text, to_state text, request_key text DEFAULT NULL::text, '
		'payload jsonb DEFAULT NULL::jsonb, headers jsonb DEFAULT NULL::jsonb, '
		'on_conflict text DEFAULT ''error''::text', 'order_idempotency.order_result')
	$$, 'every function has the signature of the reference');

SELECT is_empty($$
	SELECT p.proname FROM pg_proc p
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND p.provolatile <> 'v'
	  AND p.proname IN ('claim_key', 'complete_key', 'extend_key', 'release_key', 'create_order',
						'transition_order', 'cancel_order', 'emit_event', 'create_subscription', 'drop_subscription',
						'resume_subscription', 'purge_orders')
	$$, 'what writes is volatile');
SELECT is_empty($$
	SELECT p.proname FROM pg_proc p
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND p.provolatile = 'v' AND p.proparallel <> 'u'
	  AND p.proname NOT IN ('subscription_activity', 'subscription_workers')
	$$, 'and not to be run in a parallel worker');

-- Result types: order, names, types and collation of the columns.
CREATE FUNCTION pg_temp.columns(relation regclass) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
							 CASE WHEN a.attcollation = '"C"'::regcollation THEN ' C' ELSE '' END),
					  ', ' ORDER BY a.attnum)
	FROM pg_attribute a
	WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
SELECT is(pg_temp.columns('order_idempotency.claim_result'),
	'outcome text C, response jsonb, attempt integer, claimed_at timestamp with time zone, '
	'lease_until timestamp with time zone', 'claim_result is frozen');
SELECT is(pg_temp.columns('order_idempotency.order_result'),
	'order_key text C, outcome text C, state text C, version integer, event_id uuid, '
	'changed_at timestamp with time zone, detail text', 'order_result is frozen');
SELECT is(pg_temp.columns('order_idempotency.ledger'),
	'order_key text C, version integer, effect text C, debit_account text C, credit_account text C, '
	'amount bigint, currency text C, posted_at timestamp with time zone', 'columns of ledger');
SELECT is(pg_temp.columns('order_idempotency.outbox'),
	'position bigint, xid xid8, event_id uuid, key text C, version integer, type text C, payload jsonb, '
	'headers jsonb, created_at timestamp with time zone', 'columns of outbox');
SELECT is(pg_temp.columns('order_idempotency.lifecycle'),
	'from_state text C, to_state text C, event_type text C, ledger_effect text C', 'columns of lifecycle');
SELECT is_empty($$
	SELECT c.relname, a.attname
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
	  AND NOT a.attisdropped AND a.attcollation NOT IN (0, '"C"'::regcollation)
	$$, 'stored text is compared bytewise, so that no library update can reorder an index');
SELECT is_empty($$
	SELECT relname FROM pg_class
	WHERE relnamespace = 'order_idempotency'::regnamespace AND relkind IN ('r', 'S') AND relpersistence <> 'p'
	$$, 'nothing that is stored is unlogged');
SELECT is((SELECT seqcache FROM pg_sequence WHERE seqrelid = 'order_idempotency.outbox_position'::regclass),
		  1::bigint, 'positions are drawn one by one, so that they follow the order of the writers');

-- A dump takes all the data along, but for what tells a copy from its original.
SELECT is_empty($$
	SELECT c.relname FROM pg_class c
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind IN ('r', 'S')
	  AND c.relname NOT IN ('installation', 'in_use')	-- which copy of the database this is
	  AND c.oid NOT IN (SELECT unnest(e.extconfig) FROM pg_extension e WHERE e.extname = 'order_idempotency')
	$$, 'every table and sequence is part of a dump');
SELECT is_empty($$
	SELECT unnest(e.extcondition) FROM pg_extension e WHERE e.extname = 'order_idempotency' EXCEPT VALUES ('')
	$$, 'with all of its rows');

-- Comments.
SELECT is_empty($$
	SELECT pg_describe_object(d.classid, d.objid, 0)
	FROM pg_depend d
	WHERE d.refclassid = 'pg_extension'::regclass
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'order_idempotency')
	  AND d.deptype = 'e'
	  -- types that come with a table or another type, members in newer servers
	  AND NOT (d.classid = 'pg_type'::regclass
			   AND EXISTS (SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
						   WHERE t.oid = d.objid AND (t.typcategory = 'A' OR c.relkind <> 'c')))
	  AND obj_description(d.objid, d.classid::regclass::name) IS NULL
	UNION ALL
	SELECT 'schema' WHERE obj_description('order_idempotency'::regnamespace, 'pg_namespace') IS NULL
	UNION ALL
	SELECT 'extension'
	WHERE obj_description((SELECT oid FROM pg_extension WHERE extname = 'order_idempotency'), 'pg_extension') IS NULL
	$$, 'every object has a comment');
SELECT is_empty($$
	SELECT c.relname, a.attname
	FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind IN ('r', 'v', 'c')
	  AND a.attnum > 0 AND NOT a.attisdropped
	  -- the later generations are made like the first
	  AND c.relname !~ '_[1-3]$'
	  AND col_description(c.oid, a.attnum) IS NULL
	$$, 'and so has every column of its tables, views and types');
SELECT is(order_idempotency.library_version(),
	(SELECT extversion FROM pg_extension WHERE extname = 'order_idempotency'),
	'the library says that it is of the version of the SQL objects');

SELECT * FROM finish();
ROLLBACK;
