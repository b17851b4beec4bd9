/*-------------------------------------------------------------------------
 *
 * relation_write.c
 *		Changing rows of the extension's tables without SPI.
 *
 * What goes round the executor has to give what the executor gives.  That is
 * triggers (row and statement level, with transition tables), constraints,
 * indexes, and the server's own errors.  Triggers run as the caller, as they
 * would for a statement of the caller's.  Read-only transactions, recovery and
 * parallel mode are refused earlier, by oi_xact_check_writable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/nodes.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "relation.h"
#include "xact.h"

/* our own constraints, which every write through here satisfies */
static const char *const own_checks[] = {
	"guard_amount", "guard_complete", "guard_currency", "guard_key",
	"guard_money_status", "guard_version",
};

/* Is this a constraint of the extension's own? */
static bool
is_own_check(const char *name)
{
	for (int i = 0; i < (int) lengthof(own_checks); i++)
		if (strcmp(own_checks[i], name) == 0)
			return true;
	return false;
}

/*
 * Prepares the table's CHECK constraints, but for those of the extension's own
 * that every write through here satisfies: reading their expressions costs as
 * much as the rest of an insertion.
 */
static void
prepare_checks(OiTable *table)
{
	TupleConstr *constr = table->rel->rd_att->constr;
	ExprState **checks;

	if (constr == NULL || constr->num_check == 0)
		return;
	checks = MemoryContextAllocZero(table->estate->es_query_cxt,
									constr->num_check * sizeof(ExprState *));
	for (int i = 0; i < constr->num_check; i++)
	{
		Expr	   *expr;

		if (is_own_check(constr->check[i].ccname) ||
			!oi_compat_is_enforced(&constr->check[i]))
			continue;			/* NULL is true */
		expr = stringToNode(constr->check[i].ccbin);
		checks[i] = ExecPrepareExpr(expr, table->estate);
	}
	oi_compat_set_checks(table->rri, checks);
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
		prepare_checks(table);
	}
	oi_xact_note_write();
	table->estate->es_output_cid = GetCurrentCommandId(true);
	table->estate->es_snapshot = GetActiveSnapshot();
}

/* Frees what writing needed. */
void
oi_write_end(OiTable *table)
{
	ExecCloseIndices(table->rri);
	ExecResetTupleTable(table->estate->es_tupleTable, false);
	FreeExecutorState(table->estate);
}

/* Has the table triggers for this command? */
static bool
has_triggers(OiTable *table, CmdType command)
{
	TriggerDesc *t = table->rri->ri_TrigDesc;

	if (t == NULL)
		return false;
	if (command == CMD_INSERT)
		return t->trig_insert_before_statement || t->trig_insert_after_statement ||
			t->trig_insert_before_row || t->trig_insert_after_row ||
			t->trig_insert_new_table;
	if (command == CMD_UPDATE)
		return t->trig_update_before_statement || t->trig_update_after_statement ||
			t->trig_update_before_row || t->trig_update_after_row ||
			t->trig_update_old_table || t->trig_update_new_table;
	return t->trig_delete_before_statement || t->trig_delete_after_statement ||
		t->trig_delete_before_row || t->trig_delete_after_row ||
		t->trig_delete_old_table;
}

/*
 * Before and after a write: statement-level triggers, and the queue of AFTER
 * triggers, which is a level of its own as for a nested statement.
 */
static TransitionCaptureState *
begin_statement(OiTable *table, CmdType command)
{
	if (!has_triggers(table, command))
		return NULL;
	AfterTriggerBeginQuery();
	if (command == CMD_INSERT)
		ExecBSInsertTriggers(table->estate, table->rri);
	else if (command == CMD_UPDATE)
		ExecBSUpdateTriggers(table->estate, table->rri);
	else
		ExecBSDeleteTriggers(table->estate, table->rri);
	return MakeTransitionCaptureState(table->rri->ri_TrigDesc,
									  RelationGetRelid(table->rel), command);
}

static void
end_statement(OiTable *table, CmdType command,
			  TransitionCaptureState *transitions)
{
	if (has_triggers(table, command))
	{
		if (command == CMD_INSERT)
			ExecASInsertTriggers(table->estate, table->rri, transitions);
		else if (command == CMD_UPDATE)
			ExecASUpdateTriggers(table->estate, table->rri, transitions);
		else
			ExecASDeleteTriggers(table->estate, table->rri, transitions);
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

/*
 * The indexes that judge a speculative insertion: all unique ones on the
 * primary key's column, the first.  While that is rebuilt concurrently there are two.
 */
static List *
arbiter_indexes(OiTable *table)
{
	Oid			primary = oi_compat_primary_key(table->rel);
	List	   *arbiters = list_make1_oid(primary);

	for (int i = 0; i < table->rri->ri_NumIndices; i++)
	{
		Relation	index = table->rri->ri_IndexRelationDescs[i];
		IndexInfo  *info = table->rri->ri_IndexRelationInfo[i];

		if (RelationGetRelid(index) != primary &&
			index->rd_index->indisunique && index->rd_index->indimmediate &&
			info->ii_NumIndexKeyAttrs == 1 &&
			info->ii_IndexAttrNumbers[0] == 1 &&
			info->ii_Expressions == NIL && info->ii_Predicate == NIL)
			arbiters = lappend_oid(arbiters, RelationGetRelid(index));
	}
	return arbiters;
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
			*recheck = oi_compat_index_new(table->rri, slot, table->estate,
										   NULL, NIL);
		return true;
	}

	xid = GetCurrentTransactionId();
	token = SpeculativeInsertionLockAcquire(xid);
	table_tuple_insert_speculative(table->rel, slot,
								   table->estate->es_output_cid, 0, NULL,
								   token);
	*recheck = oi_compat_index_new(table->rri, slot, table->estate, &conflict,
								   arbiter_indexes(table));
	table_tuple_complete_speculative(table->rel, slot, token, !conflict);
	SpeculativeInsertionLockRelease(xid);
	return !conflict;
}

/*
 * Inserts the row in the slot.  Speculatively: returns false, with nothing
 * inserted, if the primary key was there already or is being inserted.  If
 * the row is stored, "then" is done before AFTER triggers fire; it may be NULL.
 */
bool
oi_insert(OiTable *table, TupleTableSlot *slot, bool speculative,
		  const OiThen *then)
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
	{
		ExecARInsertTriggers(table->estate, table->rri, slot, recheck,
							 transitions);
		if (then)
			then->call(then->arg);
	}
	end_statement(table, CMD_INSERT, transitions);
	return stored;
}

/*
 * Updates table->row, which the caller has locked, to what newslot says.
 * changed has the attribute numbers that differ, offset as in RangeTblEntry.
 */
void
oi_update(OiTable *table, TupleTableSlot *newslot, Bitmapset *changed)
{
	TransitionCaptureState *transitions;
	ItemPointerData tid = table->row->tts_tid;
	TM_FailureData failure;
	TM_Result	result;
	LockTupleMode lockmode;
	OiUpdateIndexes update_indexes;
	List	   *recheck;
	EPQState	epq;

	prepare_to_write(table, false);
	oi_compat_set_updated_columns(exec_rt_fetch(1, table->estate),
								  table->estate, changed);
	transitions = begin_statement(table, CMD_UPDATE);

	oi_compat_init_epq(&epq, table->estate);
	if (table->rri->ri_TrigDesc &&
		table->rri->ri_TrigDesc->trig_update_before_row &&
		!oi_compat_before_update(table->estate, &epq, table->rri, &tid,
								 newslot))
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

	recheck = oi_compat_index_updated(table->rri, newslot, table->estate,
									  update_indexes);
	ExecARUpdateTriggers(table->estate, table->rri, NULL, NULL, &tid, NULL,
						 newslot, recheck, transitions, false);
	EvalPlanQualEnd(&epq);
	end_statement(table, CMD_UPDATE, transitions);
}

/*
 * Deletes table->row, which the caller has locked, with triggers and foreign
 * keys.  May be called for one row after the other.
 */
void
oi_remove(OiTable *table)
{
	TransitionCaptureState *transitions;
	ItemPointer tid = &table->row->tts_tid;
	TM_FailureData failure;
	TM_Result	result;
	EPQState	epq;

	prepare_to_write(table, false);
	transitions = begin_statement(table, CMD_DELETE);

	oi_compat_init_epq(&epq, table->estate);
	if (table->rri->ri_TrigDesc &&
		table->rri->ri_TrigDesc->trig_delete_before_row &&
		!oi_compat_before_delete(table->estate, &epq, table->rri, tid))
		report_suppressed(table);

	result = table_tuple_delete(table->rel, tid, table->estate->es_output_cid,
								table->estate->es_snapshot, InvalidSnapshot,
								true, &failure, false);
	if (result == TM_SelfModified)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("row was already modified by an operation triggered by the current command")));
	if (result != TM_Ok)
		elog(ERROR, "unexpected table_tuple_delete status: %u", result);

	ExecARDeleteTriggers(table->estate, table->rri, tid, NULL, transitions, false);
	EvalPlanQualEnd(&epq);
	end_statement(table, CMD_DELETE, transitions);
	ResetPerTupleExprContext(table->estate);
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
	int			columns = oi_relation_columns(which);

	oi_table_open(&table, which, RowExclusiveLock);
	slot = oi_table_slot(&table);
	memcpy(slot->tts_values, values, columns * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, columns * sizeof(bool));
	ExecStoreVirtualTuple(slot);
	oi_insert(&table, slot, false, NULL);
	oi_table_close(&table);
}
