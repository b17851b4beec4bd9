/*-------------------------------------------------------------------------
 *
 * relation.c
 *		Access to the extension's tables without SPI.
 *
 * This is the only file that opens, scans and writes tables through the
 * table and executor API.  There is no name to resolve and no plan to make,
 * so neither search_path nor a shadowing object can come between, and no
 * privilege of the caller is asked for: who may call the SQL function may do
 * what it does.  Triggers run as the caller, as they would for a statement of
 * the caller's.
 *
 * What goes round the executor has to give what the executor gives.  Of that
 * this file gives triggers (row and statement level, with transition tables),
 * constraints, indexes, and the server's errors for a concurrent change under
 * an older snapshot.  Read-only transactions, recovery and parallel mode are
 * refused earlier, by oi_xact_will_write.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "relation.h"
#include "xact.h"

static const char *const relation_names[OI_REL_COUNT] = {
	[OI_REL_GENERATIONS] = "generations",
	[OI_REL_CLAIMS_0] = "claims_0",
	[OI_REL_CLAIMS_1] = "claims_1",
	[OI_REL_CLAIMS_2] = "claims_2",
	[OI_REL_CLAIMS_3] = "claims_3",
	[OI_REL_LIFECYCLE] = "lifecycle",
	[OI_REL_ORDERS] = "orders",
	[OI_REL_PAYMENT_DEADLINES] = "payment_deadlines",
	[OI_REL_LEDGER] = "ledger",
	[OI_REL_OUTBOX_POSITION] = "outbox_position",
	[OI_REL_OUTBOX_0] = "outbox_0",
	[OI_REL_OUTBOX_1] = "outbox_1",
	[OI_REL_OUTBOX_2] = "outbox_2",
	[OI_REL_OUTBOX_3] = "outbox_3",
	[OI_REL_SUBSCRIPTION_ID] = "subscription_id",
	[OI_REL_SUBSCRIPTIONS] = "subscriptions",
	[OI_REL_SUBSCRIPTION_CURSORS] = "subscription_cursors",
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

/* The OID of one of the extension's relations. */
Oid
oi_relation_oid(OiRelation which)
{
	if (!OidIsValid(relation_oids[which]))
	{
		Oid			schema = get_namespace_oid("order_idempotency", false);
		Oid			relid = get_relname_relid(relation_names[which], schema);

		if (!OidIsValid(relid))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation \"order_idempotency.%s\" does not exist",
							relation_names[which]),
					 errhint("Drop extension order_idempotency and create it again, or run ALTER EXTENSION order_idempotency UPDATE.")));
		relation_oids[which] = relid;
	}
	return relation_oids[which];
}

/* Does this database have the extension's tables? */
bool
oi_extension_present(void)
{
	Oid			schema = get_namespace_oid("order_idempotency", true);

	return OidIsValid(schema) &&
		OidIsValid(get_relname_relid("subscription_cursors", schema));
}

/* Opens a table.  The caller closes it; on an error the server does. */
void
oi_table_open(OiTable *table, OiRelation which, LOCKMODE lockmode)
{
	memset(table, 0, sizeof(OiTable));
	table->rel = table_open(oi_relation_oid(which), lockmode);
}

/* Closes a table, drops its slots, and keeps its lock. */
void
oi_table_close(OiTable *table)
{
	if (table->estate)
	{
		ExecCloseIndices(table->rri);
		ExecResetTupleTable(table->estate->es_tupleTable, false);
		FreeExecutorState(table->estate);
	}
	ExecResetTupleTable(table->slots, true);
	table_close(table->rel, NoLock);
}

/* A slot for rows of the table, gone when the table is closed. */
TupleTableSlot *
oi_table_slot(OiTable *table)
{
	return table_slot_create(table->rel, &table->slots);
}

/* The slot for what look-ups find. */
static TupleTableSlot *
row_slot(OiTable *table)
{
	if (table->row == NULL)
		table->row = oi_table_slot(table);
	return table->row;
}

/* Makes the executor state that triggers, constraints and indexes need. */
static void
prepare_to_write(OiTable *table, bool speculative)
{
	EState	   *estate;
	RangeTblEntry *rte;

	if (!table->estate)
	{
		estate = CreateExecutorState();
		rte = makeNode(RangeTblEntry);
		rte->rtekind = RTE_RELATION;
		rte->relid = RelationGetRelid(table->rel);
		rte->relkind = table->rel->rd_rel->relkind;
		rte->rellockmode = RowExclusiveLock;
		oi_compat_init_range_table(estate, rte);

		table->rri = makeNode(ResultRelInfo);
		InitResultRelInfo(table->rri, table->rel, 1, NULL, 0);
		estate->es_opened_result_relations = list_make1(table->rri);
		ExecOpenIndices(table->rri, speculative);
		table->estate = estate;
	}
	oi_xact_note_write();
	table->estate->es_output_cid = GetCurrentCommandId(true);
	table->estate->es_snapshot = GetActiveSnapshot();
}

/*
 * Before and after a write: statement-level triggers, and the queue of AFTER
 * triggers, which is a level of its own as for a nested statement.
 */
static TransitionCaptureState *
begin_statement(OiTable *table, CmdType command)
{
	TriggerDesc *triggers = table->rri->ri_TrigDesc;

	if (!triggers)
		return NULL;
	AfterTriggerBeginQuery();
	if (command == CMD_INSERT)
		ExecBSInsertTriggers(table->estate, table->rri);
	else
		ExecBSUpdateTriggers(table->estate, table->rri);
	return MakeTransitionCaptureState(triggers, RelationGetRelid(table->rel),
									  command);
}

static void
end_statement(OiTable *table, CmdType command,
			  TransitionCaptureState *transitions)
{
	if (table->rri->ri_TrigDesc)
	{
		if (command == CMD_INSERT)
			ExecASInsertTriggers(table->estate, table->rri, transitions);
		else
			ExecASUpdateTriggers(table->estate, table->rri, transitions);
		AfterTriggerEndQuery(table->estate);
	}
	CommandCounterIncrement();
}

/* A BEFORE trigger returned NULL: what was asked for did not happen. */
static void
report_suppressed(OiTable *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a trigger on table \"%s\" suppressed the change",
					RelationGetRelationName(table->rel)),
			 errhint("A trigger that wants to refuse a change has to raise an error.")));
}

/* Starts an index scan for one key.  The index is returned for closing. */
static IndexScanDesc
begin_key_scan(OiTable *table, Datum key, Snapshot snapshot, Relation *index)
{
	IndexScanDesc scan;
	ScanKeyData skey;
	Oid			type;

	*index = index_open(RelationGetPrimaryKeyIndex(table->rel),
						AccessShareLock);
	type = (*index)->rd_opcintype[0];
	Assert(type == TEXTOID || type == UUIDOID || type == INT4OID);
	ScanKeyEntryInitialize(&skey, 0, 1, BTEqualStrategyNumber, InvalidOid,
						   (*index)->rd_indcollation[0],
						   type == TEXTOID ? F_TEXTEQ :
						   type == UUIDOID ? F_UUID_EQ : F_INT4EQ,
						   key);
	scan = index_beginscan(table->rel, *index, snapshot, 1, 0);
	index_rescan(scan, &skey, 1, NULL, 0);
	return scan;
}

/* Ends what begin_key_scan began. */
static void
end_key_scan(IndexScanDesc scan, Relation index)
{
	index_endscan(scan);
	index_close(index, NoLock);
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
	Relation	index;
	IndexScanDesc scan;
	OiProbe		result = OI_PROBE_ABSENT;

	InitDirtySnapshot(dirty);
	scan = begin_key_scan(table, key, &dirty, &index);
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
	end_key_scan(scan, index);
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
	Relation	index;
	IndexScanDesc scan;
	bool		found;

	scan = begin_key_scan(table, key, snapshot, &index);
	found = index_getnext_slot(scan, ForwardScanDirection, slot);
	if (found)
		ExecMaterializeSlot(slot);
	else
		ExecClearTuple(slot);
	end_key_scan(scan, index);
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
		.table = table, .tid = table->row->tts_tid, .policy = LockWaitSkip
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

/*
 * Stores a row and its index entries.  Speculatively: returns false if the
 * primary key was there already, with nothing stored.
 */
static bool
store_row(OiTable *table, TupleTableSlot *slot, bool speculative,
		  List **recheck)
{
	bool		conflict = false;
	uint32		token;
	TransactionId xid;

	*recheck = NIL;
	if (!speculative)
	{
		table_tuple_insert(table->rel, slot, table->estate->es_output_cid, 0,
						   NULL);
		if (table->rri->ri_NumIndices > 0)
			*recheck = ExecInsertIndexTuples(table->rri, slot, table->estate,
											 false, false, NULL, NIL);
		return true;
	}

	xid = GetCurrentTransactionId();
	token = SpeculativeInsertionLockAcquire(xid);
	table_tuple_insert_speculative(table->rel, slot,
								   table->estate->es_output_cid, 0, NULL,
								   token);
	*recheck = ExecInsertIndexTuples(table->rri, slot, table->estate,
									 false, true, &conflict,
									 list_make1_oid(RelationGetPrimaryKeyIndex(table->rel)));
	table_tuple_complete_speculative(table->rel, slot, token, !conflict);
	SpeculativeInsertionLockRelease(xid);
	return !conflict;
}

/*
 * Inserts the row in the slot.  Speculatively: returns false, with nothing
 * inserted, if the primary key was there already or is being inserted.
 */
bool
oi_insert(OiTable *table, TupleTableSlot *slot, bool speculative)
{
	TransitionCaptureState *transitions;
	TriggerDesc *triggers;
	List	   *recheck;
	bool		stored;

	prepare_to_write(table, speculative);
	triggers = table->rri->ri_TrigDesc;
	transitions = begin_statement(table, CMD_INSERT);

	if (triggers && triggers->trig_insert_before_row &&
		!ExecBRInsertTriggers(table->estate, table->rri, slot))
		report_suppressed(table);

	slot->tts_tableOid = RelationGetRelid(table->rel);
	if (table->rel->rd_att->constr)
		ExecConstraints(table->rri, slot, table->estate);

	stored = store_row(table, slot, speculative, &recheck);
	if (stored)
		ExecARInsertTriggers(table->estate, table->rri, slot, recheck,
							 transitions);
	end_statement(table, CMD_INSERT, transitions);
	return stored;
}

/*
 * Updates table->row, which the caller has locked, to what newslot says.  changed has the attribute numbers that differ, offset as in
 * RangeTblEntry.
 */
void
oi_update(OiTable *table, TupleTableSlot *newslot, Bitmapset *changed)
{
	TransitionCaptureState *transitions;
	ItemPointerData tid = table->row->tts_tid;
	TM_FailureData failure;
	TM_Result	result;
	LockTupleMode lockmode;
	bool		update_indexes;
	List	   *recheck = NIL;
	EPQState	epq;

	prepare_to_write(table, false);
	oi_compat_set_updated_columns(exec_rt_fetch(1, table->estate),
								  table->estate, changed);
	transitions = begin_statement(table, CMD_UPDATE);

	EvalPlanQualInit(&epq, table->estate, NULL, NIL, -1);
	if (table->rri->ri_TrigDesc &&
		table->rri->ri_TrigDesc->trig_update_before_row &&
		!ExecBRUpdateTriggers(table->estate, &epq, table->rri, &tid, NULL,
							  newslot, NULL))
		report_suppressed(table);

	newslot->tts_tableOid = RelationGetRelid(table->rel);
	if (table->rel->rd_att->constr)
		ExecConstraints(table->rri, newslot, table->estate);

	result = table_tuple_update(table->rel, &tid, newslot,
								table->estate->es_output_cid,
								table->estate->es_snapshot, InvalidSnapshot,
								true, &failure, &lockmode, &update_indexes);
	if (result == TM_SelfModified)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("row was already modified by an operation triggered by the current command")));
	if (result != TM_Ok)
		elog(ERROR, "unexpected table_tuple_update status: %u", result);

	if (table->rri->ri_NumIndices > 0 && update_indexes)
		recheck = ExecInsertIndexTuples(table->rri, newslot, table->estate,
										true, false, NULL, NIL);
	ExecARUpdateTriggers(table->estate, table->rri, NULL, NULL, &tid, NULL,
						 newslot, recheck, transitions, false);
	EvalPlanQualEnd(&epq);
	end_statement(table, CMD_UPDATE, transitions);
}

/*
 * Deletes table->row, which the caller has locked.  For internal
 * tables: fires no triggers.
 */
void
oi_delete(OiTable *table)
{
	TM_FailureData failure;
	TM_Result	result;

	oi_xact_note_write();
	result = table_tuple_delete(table->rel, &table->row->tts_tid,
								GetCurrentCommandId(true),
								GetActiveSnapshot(), InvalidSnapshot, true,
								&failure, false);
	if (result != TM_Ok)
		elog(ERROR, "unexpected table_tuple_delete status: %u", result);
	CommandCounterIncrement();
}

/* Inserts one row, given as one value and null flag a column. */
void
oi_insert_values(OiRelation which, const Datum *values, const bool *nulls)
{
	OiTable		table;
	TupleTableSlot *slot;
	int			natts;

	oi_table_open(&table, which, RowExclusiveLock);
	slot = oi_table_slot(&table);
	natts = slot->tts_tupleDescriptor->natts;
	memcpy(slot->tts_values, values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	oi_insert(&table, slot, false);
	oi_table_close(&table);
}
