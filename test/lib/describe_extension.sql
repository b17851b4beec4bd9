-- Everything that the catalogs say of extension order_idempotency: object,
-- property, value, one a line.  U+001F is between them, U+001E stands for the end
-- of a line.
--
-- No catalog and no column is named here that need not be: which columns are
-- references, and to what, the server says itself (pg_get_catalog_foreign_keys).
-- References are shown by the object's description, expressions as SQL.  So two
-- databases, or two servers, of which one says this and the other that, differ
-- in what they have, not in how it came to be.
--
-- Left out: numbers of objects and files, statistics, and the numbers of columns,
-- which skip those that were dropped (their order is told).
SET client_min_messages = warning;
SET search_path = pg_catalog;
SET bytea_output = 'hex';

-- The extension, its members, and what is a part of them.  Tables of large
-- values are left out: they go by the number of their table.
CREATE TEMP TABLE part AS
WITH RECURSIVE p (classid, objid) AS (
	SELECT 'pg_extension'::regclass::oid, e.oid
	FROM pg_extension e WHERE e.extname = 'order_idempotency'
	UNION
	SELECT d.classid, d.objid
	FROM p JOIN pg_depend d ON d.refclassid = p.classid AND d.refobjid = p.objid
	WHERE d.deptype IN ('e', 'i', 'a')
	  AND NOT (d.classid = 'pg_class'::regclass
			   AND EXISTS (SELECT FROM pg_class c
						   WHERE c.oid = d.objid AND c.relnamespace = 'pg_toast'::regnamespace))
	  AND NOT (d.classid = 'pg_extension'::regclass)
)
SELECT p.classid, p.objid, pg_describe_object(p.classid, p.objid, 0) AS name,
	   (SELECT count(*) FROM pg_depend d
		WHERE d.classid = p.classid AND d.objid = p.objid AND d.deptype = 'e') = 1 AS member
FROM p;

CREATE TEMP TABLE told (object text, property text, value text);

-- A reference to an object, zero being none.
CREATE FUNCTION pg_temp.named(class regclass, object oid, sub int = 0) RETURNS text
	LANGUAGE sql STABLE AS $$
	SELECT CASE WHEN object = 0 THEN NULL
		WHEN class = 'pg_class'::regclass AND EXISTS (
			SELECT FROM pg_class c WHERE c.oid = object AND c.relnamespace = 'pg_toast'::regnamespace)
		THEN 'a table of large values with '
			|| coalesce((SELECT c.reloptions::text FROM pg_class c WHERE c.oid = object), 'no options')
		ELSE pg_describe_object(class, object, sub) END
	$$;

-- Privileges, those that an empty list stands for spelt out.
CREATE FUNCTION pg_temp.privileges(acl aclitem[], kind "char", owner oid) RETURNS text
	LANGUAGE sql STABLE AS $$
	SELECT coalesce(string_agg(g.line, ', ' ORDER BY g.line), 'nobody')
	FROM (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END || ' '
				 || string_agg(a.privilege_type || CASE WHEN a.is_grantable THEN ' with grant option' ELSE '' END,
							   '+' ORDER BY a.privilege_type) AS line
		  FROM aclexplode(coalesce(acl, acldefault(kind, owner))) a
		  GROUP BY a.grantee) g
	$$;

-- What the object is in SQL, where the catalog has it as a tree.
CREATE FUNCTION pg_temp.definition(class regclass, object oid) RETURNS text
	LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN CASE class::text
		WHEN 'pg_proc' THEN pg_get_functiondef(object)
		WHEN 'pg_constraint' THEN pg_get_constraintdef(object)
		WHEN 'pg_trigger' THEN pg_get_triggerdef(object)
		WHEN 'pg_rewrite' THEN pg_get_ruledef(object)
		WHEN 'pg_attrdef' THEN (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.oid = object)
		WHEN 'pg_type' THEN (SELECT pg_get_expr(t.typdefaultbin, 0) FROM pg_type t WHERE t.oid = object)
		WHEN 'pg_policy' THEN (SELECT pg_get_expr(p.polqual, p.polrelid) || ' / ' || pg_get_expr(p.polwithcheck, p.polrelid)
							   FROM pg_policy p WHERE p.oid = object)
		WHEN 'pg_class' THEN (SELECT CASE c.relkind WHEN 'i' THEN pg_get_indexdef(c.oid)
									 WHEN 'v' THEN pg_get_viewdef(c.oid) END
							  FROM pg_class c WHERE c.oid = object) END;
END
$$;

INSERT INTO told SELECT name, 'kind', CASE WHEN member THEN 'member' ELSE 'part of a member' END FROM part;
INSERT INTO told
	SELECT name, 'definition', d
	FROM part, pg_temp.definition(classid, objid) d WHERE d IS NOT NULL;

-- Every column of every catalog that has a row for a part.  A catalog without
-- numbers of its own tells of what its first column refers to.
DO $do$
DECLARE
	catalog record;
	col record;
	key text;
	value text;
BEGIN
	FOR catalog IN
		SELECT c.oid::regclass AS name, a.attname AS first,
			   coalesce(f.pktable, c.oid) AS describes
		FROM pg_class c
			JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 1
			LEFT JOIN pg_get_catalog_foreign_keys() f
				ON f.fktable = c.oid AND f.fkcols = ARRAY[a.attname::text] AND a.attname <> 'oid'
		WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND NOT c.relisshared
		  AND (a.attname = 'oid' OR f.pktable IS NOT NULL)
		  -- told below, or statistics
		  AND c.relname NOT IN ('pg_depend', 'pg_description', 'pg_init_privs', 'pg_seclabel', 'pg_statistic')
		  AND coalesce(f.pktable, c.oid) IN (SELECT classid FROM part)
	LOOP
		key := format('p.name%s', CASE
			WHEN catalog.name = 'pg_attribute'::regclass THEN $$ || ', column ' || r.attname $$
			WHEN catalog.first <> 'oid' THEN format($$ || ' (%s)' $$, catalog.name) ELSE '' END);
		FOR col IN
			SELECT a.attname AS name, a.atttypid::regtype::text AS type, f.pktable, coalesce(f.is_array, false) AS is_array
			FROM pg_attribute a
				LEFT JOIN pg_get_catalog_foreign_keys() f
					ON f.fktable = a.attrelid AND f.fkcols = ARRAY[a.attname::text]
			WHERE a.attrelid = catalog.name AND a.attnum > 0 AND NOT a.attisdropped
			  AND a.attname NOT IN ('oid', 'relfilenode', 'relpages', 'reltuples', 'relallvisible', 'relallfrozen',
									'relfrozenxid', 'relminmxid', 'relnatts', 'attnum', 'atthasmissing', 'attmissingval',
									-- may be left from what was there before
									'relhasindex', 'relhasrules', 'relhastriggers', 'relhassubclass',
									-- told below
									'extconfig', 'extcondition')
			  -- lists of column numbers, and trees: "definition" has them by name
			  AND NOT EXISTS (SELECT FROM pg_get_catalog_foreign_keys() n
							  WHERE n.fktable = a.attrelid AND array_length(n.fkcols, 1) > 1 AND n.fkcols[2] = a.attname)
			  AND a.atttypid NOT IN ('pg_node_tree'::regtype, 'anyarray'::regtype)
		LOOP
			value := CASE
				WHEN col.is_array THEN format(
					'(SELECT string_agg(pg_temp.named(%L, u.o), %L ORDER BY u.n) FROM unnest(r.%I::oid[]) WITH ORDINALITY u (o, n))',
					col.pktable, ', ', col.name)
				WHEN col.pktable IS NOT NULL THEN format('pg_temp.named(%L, r.%I)', col.pktable, col.name)
				-- now, and in the beginning, where those of a dump begin
				WHEN col.type = 'aclitem[]' THEN format(
					$$pg_temp.privileges(r.%1$I, %2$s) || ', initially ' || pg_temp.privileges(
						(SELECT i.initprivs FROM pg_init_privs i
						 WHERE i.classoid = %3$s AND i.objoid = r.%4$I AND i.objsubid = %5$s), %2$s)$$,
					col.name,
					CASE catalog.name::text
						WHEN 'pg_class' THEN $$CASE r.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, r.relowner$$
						WHEN 'pg_proc' THEN $$'f', r.proowner$$
						WHEN 'pg_type' THEN $$'T', r.typowner$$
						WHEN 'pg_namespace' THEN $$'n', r.nspowner$$
						WHEN 'pg_foreign_data_wrapper' THEN $$'F', r.fdwowner$$
						WHEN 'pg_attribute' THEN $$'c', 0::oid$$ END,
					catalog.describes::oid, catalog.first,
					CASE WHEN catalog.name = 'pg_attribute'::regclass THEN 'r.attnum' ELSE '0' END)
				WHEN col.name = 'attoptions' THEN	-- without a mark that the server keeps for itself
					$$(SELECT array_agg(o) FROM unnest(r.attoptions) o WHERE o NOT LIKE 'pg\_attver=%')::text$$
				ELSE format('r.%I::text', col.name) END;
			EXECUTE format(
				'INSERT INTO told SELECT %s, %L, %s FROM %s r JOIN part p ON p.classid = %s AND p.objid = r.%I%s',
				key, col.name, value, catalog.name, catalog.describes::oid, catalog.first,
				CASE WHEN catalog.name = 'pg_attribute'::regclass
					THEN ' WHERE r.attnum > 0 AND NOT r.attisdropped' ELSE '' END);
		END LOOP;
	END LOOP;
END
$do$;

-- the order of columns
INSERT INTO told
	SELECT p.name, 'columns in order', string_agg(a.attname, ', ' ORDER BY a.attnum)
	FROM part p JOIN pg_attribute a ON p.classid = 'pg_class'::regclass AND a.attrelid = p.objid
	WHERE a.attnum > 0 AND NOT a.attisdropped GROUP BY p.name;

-- what is dumped, in whatever order
INSERT INTO told
	SELECT p.name, 'dumps what is in ' || pg_temp.named('pg_class', c.relation), 'WHERE ' || c.condition
	FROM part p JOIN pg_extension e ON p.classid = 'pg_extension'::regclass AND e.oid = p.objid
		CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) c (relation, condition);

-- catalogs that tell of objects of any kind
INSERT INTO told
	SELECT pg_temp.named(p.classid, p.objid, d.objsubid), 'comment', d.description
	FROM part p JOIN pg_description d ON d.classoid = p.classid AND d.objoid = p.objid;
INSERT INTO told
	SELECT pg_temp.named(p.classid, p.objid, s.objsubid), 'label of ' || s.provider, s.label
	FROM part p JOIN pg_seclabel s ON s.classoid = p.classid AND s.objoid = p.objid;
INSERT INTO told
	SELECT pg_temp.named(p.classid, p.objid, d.objsubid),
		   format('depends (%s) on %s', d.deptype, pg_temp.named(d.refclassid, d.refobjid, d.refobjsubid)),
		   count(*)::text
	FROM part p JOIN pg_depend d ON d.classid = p.classid AND d.objid = p.objid
	GROUP BY 1, 2;
INSERT INTO told
	SELECT pg_temp.named(p.classid, p.objid, d.objsubid),
		   format('depends (%s) on %s', d.deptype, pg_temp.named(d.refclassid, d.refobjid)), count(*)::text
	FROM part p JOIN pg_shdepend d ON d.classid = p.classid AND d.objid = p.objid
	WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
	GROUP BY 1, 2;

SELECT concat_ws(E'\x1f', object, property, replace(coalesce(value, '(none)'), E'\n', E'\x1e'))
FROM told ORDER BY object, property, value;
