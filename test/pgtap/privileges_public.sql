-- Promise 9, least privilege: PUBLIC gets nothing; no function runs with its
-- owner's rights; no name is resolved by the caller's search_path.
BEGIN;
SELECT plan(15);

CREATE ROLE nobody_in_particular;

SELECT is_empty($$
	SELECT p.oid::regprocedure, a.privilege_type
	FROM pg_proc p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND a.grantee = 0
	$$, 'no function for PUBLIC');
SELECT is_empty($$
	SELECT c.oid::regclass, a.privilege_type
	FROM pg_class c,
		 aclexplode(COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) a
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind <> 'i' AND a.grantee = 0
	$$, 'no table, view or sequence for PUBLIC');
SELECT is_empty($$
	SELECT c.oid::regclass, t.attname, a.privilege_type
	FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND a.grantee = 0
	$$, 'no column for PUBLIC');
SELECT is_empty($$
	SELECT t.oid::regtype, a.privilege_type
	FROM pg_type t, aclexplode(COALESCE(t.typacl, acldefault('T', t.typowner))) a
	-- arrays have no privileges of their own
	WHERE t.typnamespace = 'order_idempotency'::regnamespace AND t.typelem = 0 AND a.grantee = 0
	$$, 'no type for PUBLIC, row types of tables included');
SELECT is_empty($$
	SELECT a.privilege_type
	FROM pg_namespace n, aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) a
	WHERE n.nspname = 'order_idempotency' AND a.grantee = 0
	$$, 'no schema for PUBLIC');
SELECT is_empty($$
	SELECT w.fdwname, a.privilege_type
	FROM pg_foreign_data_wrapper w, aclexplode(COALESCE(w.fdwacl, acldefault('F', w.fdwowner))) a
	WHERE w.fdwname LIKE 'order\_idempotency%' AND a.grantee = 0
	$$, 'no foreign data wrapper for PUBLIC');
SELECT isnt_empty($$SELECT FROM pg_foreign_data_wrapper WHERE fdwname LIKE 'order\_idempotency%'$$,
				  'and there is one that could have been');

-- The same, asked as the server decides it.
SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p
	WHERE p.pronamespace = 'order_idempotency'::regnamespace
	  AND has_function_privilege('nobody_in_particular', p.oid, 'EXECUTE')
	$$, 'a new role can execute nothing');
SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = 'order_idempotency'::regnamespace AND c.relkind IN ('r', 'v')
	  AND has_table_privilege('nobody_in_particular', c.oid,
							  'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
	$$, 'and touch no table or view');
SELECT is_empty($$
	SELECT s.seqrelid::regclass FROM pg_sequence s
	WHERE s.seqrelid IN (SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'order_idempotency'::regnamespace)
	  AND has_sequence_privilege('nobody_in_particular', s.seqrelid, 'SELECT, UPDATE, USAGE')
	$$, 'and no sequence');
SELECT is(has_schema_privilege('nobody_in_particular', 'order_idempotency', 'USAGE, CREATE'), false,
		  'and does not get into the schema');

SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND p.prosecdef
	  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search\_path=%')
	$$, 'no function is SECURITY DEFINER without a fixed search_path');
SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND l.lanname <> 'c'
	  AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c = 'search_path=pg_catalog, pg_temp')
	$$, 'every function that is not in C fixes its search_path, with pg_temp last');
SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	WHERE p.pronamespace = 'order_idempotency'::regnamespace AND l.lanname NOT IN ('c', 'sql', 'plpgsql')
	$$, 'and no other language is needed');
SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = 'order_idempotency'::regnamespace
	  AND c.relowner <> (SELECT extowner FROM pg_extension WHERE extname = 'order_idempotency')
	$$, 'everything belongs to the owner of the extension');

SELECT * FROM finish();
ROLLBACK;
