/*-------------------------------------------------------------------------
 *
 * relation.c
 *		Access to the extension's tables without SPI.
 *
 * This file and relation_write.c are the only ones that open, scan and write
 * tables through the table and executor API: this one finds and locks rows,
 * that one changes them.  There is no name to resolve and no plan to make, so
 * neither search_path nor a shadowing object can come between, and no
 * privilege of the caller is asked for: who may call the SQL function may do
 * what it does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "compat.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "relation_write.h"

/* each relation's name, and how many columns the code knows (0: no table) */
static const struct
{
	const char *name;
	int			columns;
}			relations[OI_REL_COUNT] = {
	[OI_REL_GENERATIONS] = {"generations", 5},
	[OI_REL_CLAIMS_0] = {"claims_0", 9},
	[OI_REL_CLAIMS_1] = {"claims_1", 9},
	[OI_REL_CLAIMS_2] = {"claims_2", 9},
	[OI_REL_CLAIMS_3] = {"claims_3", 9},
	[OI_REL_LIFECYCLE] = {"lifecycle", 4},
	[OI_REL_ORDERS] = {"orders", 12},
	[OI_REL_PAYMENT_DEADLINES] = {"payment_deadlines", 2},
	[OI_REL_DEADLINE_FAILURES] = {"deadline_failures", 5},
	[OI_REL_LEDGER] = {"ledger", 8},
	[OI_REL_OUTBOX_POSITION] = {"outbox_position", 0},
	[OI_REL_OUTBOX_0] = {"outbox_0", 9},
	[OI_REL_OUTBOX_1] = {"outbox_1", 9},
	[OI_REL_OUTBOX_2] = {"outbox_2", 9},
	[OI_REL_OUTBOX_3] = {"outbox_3", 9},
	[OI_REL_SUBSCRIPTION_ID] = {"subscription_id", 0},
	[OI_REL_SUBSCRIPTIONS] = {"subscriptions", 13},
	[OI_REL_SUBSCRIPTION_CURSORS] = {"subscription_cursors", 19},
	[OI_REL_FAILED_EVENTS] = {"failed_events", 14},
	[OI_REL_INSTALLATION] = {"installation", 1},
	[OI_REL_IN_USE] = {"in_use", 0},
	[OI_REL_LONGEST_LEASE] = {"longest_lease", 0},
	[OI_REL_TIME_ORDERED_FROM] = {"time_ordered_from", 0},
};

/* what the relations' OIDs are in this database; InvalidOid: look it up */
static Oid	relation_oids[OI_REL_COUNT];

/* Forgets the OIDs when one of the relations changes, or may have. */
static void
forget_oids(Datum arg, Oid relid)
{
	bool		ours = !OidIsValid(relid);

	for (int i = 0; i < OI_REL_COUNT && !ours; i++)
		ours = relation_oids[i] == relid;
	if (ours)
		memset(relation_oids, 0, sizeof(relation_oids));
}

/* Called once, when the library is loaded. */
void
oi_relation_init(void)
{
	CacheRegisterRelcacheCallback(forget_oids, (Datum) 0);
}

/*
 * The OID of one of the extension's relations, or InvalidOid: an older version
 * of its SQL objects has not got them all.  One of that name that is no member
 * of the extension is somebody else's, and may be of any kind.
 */
Oid
oi_relation_oid_if_any(OiRelation which)
{
	if (!OidIsValid(relation_oids[which]))
	{
		Oid			schema = get_namespace_oid("order_idempotency", false);
		Oid			relid = get_relname_relid(relations[which].name, schema);

		if (OidIsValid(relid) &&
			getExtensionOfObject(RelationRelationId, relid) ==
			get_extension_oid("order_idempotency", false))
			relation_oids[which] = relid;
	}
	return relation_oids[which];
}

/* The OID of one of the extension's relations. */
Oid
oi_relation_oid(OiRelation which)
{
	Oid			relid = oi_relation_oid_if_any(which);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("extension order_idempotency must be updated"),
				 errdetail("Relation \"order_idempotency.%s\" does not exist.",
						   relations[which].name),
				 errhint("Use ALTER EXTENSION order_idempotency UPDATE.")));
	return relid;
}

/* The owner of a relation. */
Oid
oi_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	return owner;
}

/* How many columns the code knows of a table; others are null. */
int
oi_relation_columns(OiRelation which)
{
	return relations[which].columns;
}

/*
 * Does this database have the extension's tables?  A schema of its name anybody
 * can have made who may create one.
 */
bool
oi_extension_present(void)
{
	return OidIsValid(get_extension_oid("order_idempotency", true)) &&
		OidIsValid(get_namespace_oid("order_idempotency", true)) &&
		OidIsValid(oi_relation_oid_if_any(OI_REL_SUBSCRIPTION_CURSORS));
}

/*
 * Raises 42P16 for a table that somebody gave other columns, 55000 for one of an
 * older version.  Dropped ones at the end do no harm: slots have nulls there.
 */
void
oi_relation_check(Relation rel, OiRelation which)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			columns = relations[which].columns;
	bool		good = true;

	if (desc->natts < columns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension order_idempotency must be updated"),
				 errdetail("Table \"order_idempotency.%s\" has %d columns, and %d are needed.",
						   relations[which].name, desc->natts, columns),
				 errhint("Use ALTER EXTENSION order_idempotency UPDATE.")));
	for (int i = 0; i < desc->natts && good; i++)
		good = TupleDescAttr(desc, i)->attisdropped == (i >= columns);
	if (!good && columns > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("table \"order_idempotency.%s\" has other columns than it should",
						relations[which].name),
				 errhint("Columns cannot be added to the extension's tables; drop what was added.")));
}

/* Opens a table.  The caller closes it; on an error the server does. */
void
oi_table_open(OiTable *table, OiRelation which, LOCKMODE lockmode)
{
	memset(table, 0, sizeof(OiTable));
	table->lockmode = lockmode;
	table->rel = table_open(oi_relation_oid(which), lockmode);
	oi_relation_check(table->rel, which);
}

/*
 * Closes a table, drops its slots, and keeps its lock.  Those of its indexes
 * go, so that who merely looked does not hold up the emptying of a generation.
 */
void
oi_table_close(OiTable *table)
{
	if (table->key_index)
		index_close(table->key_index, table->lockmode);
	oi_write_end(table);
	ExecResetTupleTable(table->slots, true);
	table_close(table->rel, NoLock);
}

/* A slot for rows of the table, gone when the table is closed. */
TupleTableSlot *
oi_table_slot(OiTable *table)
{
	TupleTableSlot *slot = table_slot_create(table->rel, &table->slots);

	memset(slot->tts_isnull, true,
		   slot->tts_tupleDescriptor->natts * sizeof(bool));
	return slot;
}

/* The slot for what look-ups find. */
static TupleTableSlot *
row_slot(OiTable *table)
{
	if (table->row == NULL)
		table->row = oi_table_slot(table);
	return table->row;
}

/*
 * The slot of look-ups, without a row, for one to be inserted.  All columns are
 * null.
 */
TupleTableSlot *
oi_table_new_row(OiTable *table)
{
	TupleTableSlot *slot = row_slot(table);

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true,
		   slot->tts_tupleDescriptor->natts * sizeof(bool));
	return slot;
}

/* Starts an index scan for one key. */
static IndexScanDesc
begin_key_scan(OiTable *table, Datum key, Snapshot snapshot)
{
	Relation	index = table->key_index;
	IndexScanDesc scan;
	ScanKeyData skey;
	Oid			type;

	if (index == NULL)
		index = table->key_index =
			index_open(oi_compat_primary_key(table->rel), table->lockmode);
	type = index->rd_opcintype[0];
	Assert(type == TEXTOID || type == UUIDOID || type == INT4OID);
	ScanKeyEntryInitialize(&skey, 0, 1, BTEqualStrategyNumber, InvalidOid,
						   index->rd_indcollation[0],
						   type == TEXTOID ? F_TEXTEQ :
						   type == UUIDOID ? F_UUID_EQ : F_INT4EQ,
						   key);
	scan = oi_compat_index_scan(table->rel, index, snapshot);
	index_rescan(scan, &skey, 1, NULL, 0);
	return scan;
}

/*
 * Looks a key up with a dirty snapshot, which sees what others have not
 * committed yet.  A row that another transaction is changing or deleting
 * counts as present, in its old version, unless mind_updaters says that its
 * end has to be waited for.
 *
 * A scan like this can miss a row whose new version gets its index entry
 * behind the scan's back.  Callers either insert next, where the unique index
 * is the judge, or confirm an absence with an MVCC snapshot.
 */
OiProbe
oi_probe_dirty(OiTable *table, Datum key, bool mind_updaters, OiBusy *busy)
{
	TupleTableSlot *slot = row_slot(table);
	SnapshotData dirty;
	IndexScanDesc scan;
	OiProbe		result = OI_PROBE_ABSENT;

	InitDirtySnapshot(dirty);
	scan = begin_key_scan(table, key, &dirty);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (!TransactionIdIsValid(dirty.xmin) &&
			!(mind_updaters && TransactionIdIsValid(dirty.xmax)))
		{
			ExecMaterializeSlot(slot);
			busy->quiet = !TransactionIdIsValid(dirty.xmax);
			result = OI_PROBE_PRESENT;
			break;
		}
		result = OI_PROBE_BUSY;
		if (TransactionIdIsValid(dirty.xmin))
		{
			busy->xid = dirty.xmin;
			busy->spec_token = dirty.speculativeToken;
		}
		else
		{
			busy->xid = dirty.xmax;
			busy->spec_token = 0;
		}
	}
	if (result != OI_PROBE_PRESENT)
		ExecClearTuple(slot);
	index_endscan(scan);
	return result;
}

/*
 * Looks a key up with an MVCC snapshot, and takes the predicate locks that
 * SERIALIZABLE needs.
 */
bool
oi_find(OiTable *table, Datum key, Snapshot snapshot)
{
	TupleTableSlot *slot = row_slot(table);
	IndexScanDesc scan;
	bool		found;

	scan = begin_key_scan(table, key, snapshot);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	if (found)
		ExecMaterializeSlot(slot);
	else
		ExecClearTuple(slot);
	index_endscan(scan);
	return found;
}

/* what lock_row and its callback form need */
typedef struct LockRequest
{
	OiTable    *table;
	ItemPointerData tid;
	LockWaitPolicy policy;
	TM_Result	result;
	TM_FailureData failure;
} LockRequest;

/* Tries to lock a row for an update that keeps its key. */
static void
lock_row(void *arg)
{
	LockRequest *request = arg;
	uint8		flags = 0;

	if (!IsolationUsesXactSnapshot())
		flags |= TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
	request->result = table_tuple_lock(request->table->rel, &request->tid,
									   GetActiveSnapshot(),
									   request->table->row,
									   GetCurrentCommandId(true),
									   LockTupleNoKeyExclusive,
									   request->policy, flags,
									   &request->failure);
	if (!TTS_EMPTY(request->table->row))
		ExecMaterializeSlot(request->table->row);
}

/* 40001, in the server's words. */
void
oi_serialization_failure(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent %s", what),
			 errhint("The transaction might succeed if retried.")));
}

/*
 * Locks the newest version of table->row, and puts that version there.  Under an older snapshot a changed row is a serialization failure.
 */
OiLockResult
oi_lock(OiTable *table, OiWait *wait)
{
	LockRequest request = {
		.table = table,.tid = table->row->tts_tid,.policy = LockWaitSkip
	};

	lock_row(&request);
	if (request.result == TM_WouldBlock)
	{
		request.policy = LockWaitBlock;
		if (!oi_wait_in_callback(wait, lock_row, &request))
			return OI_LOCK_TIMEOUT;
	}

	switch (request.result)
	{
		case TM_Ok:
			return OI_LOCK_OK;
		case TM_Updated:
			if (IsolationUsesXactSnapshot())
				oi_serialization_failure("update");
			return OI_LOCK_GONE;
		case TM_Deleted:
			if (IsolationUsesXactSnapshot())
				oi_serialization_failure("delete");
			return OI_LOCK_GONE;
		case TM_SelfModified:
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("row was already modified by an operation triggered by the current command")));
			break;
		default:
			elog(ERROR, "unexpected table_tuple_lock status: %u",
				 request.result);
	}
	return OI_LOCK_GONE;		/* keep compiler quiet */
}
