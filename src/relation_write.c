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

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/nodes.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "relation_write.h"
#include "xact.h"

/* our own constraints, which every write through here satisfies, by name */
static const char *const own_checks[] = {
	"guard_amount", "guard_complete", "guard_currency", "guard_key",
	"guard_money_status", "guard_version",
};

/*
 * The first constraint, from the i-th on, that is enforced and not the
 * extension's own.  The server has them by name, too.
 */
int
oi_next_foreign_check(const TupleConstr *constr, int i)
{
	int			own = 0;

	for (; i < constr->num_check; i++)
	{
		int			order = 1;

		if (!oi_compat_is_enforced(&constr->check[i]))
			continue;
		while (own < (int) lengthof(own_checks) &&
			   (order = strcmp(constr->check[i].ccname, own_checks[own])) > 0)
			own++;
		if (order != 0)
			break;
	}
	return i;
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
	for (int i = oi_next_foreign_check(constr, 0); i < constr->num_check;
		 i = oi_next_foreign_check(constr, i + 1))
	{
		Expr	   *expr = stringToNode(constr->check[i].ccbin);

		checks[i] = ExecPrepareExpr(expr, table->estate);	/* NULL is true */
	}
	oi_compat_set_checks(table->rri, checks);
}

/* Makes the executor state that triggers, constraints and odd indexes need. */
void
oi_prepare_executor(OiTable *table)
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
		table->estate = estate;
		prepare_checks(table);
	}
	table->estate->es_output_cid = GetCurrentCommandId(true);
	table->estate->es_snapshot = GetActiveSnapshot();
}

/* Opens the table's indexes, for rows to be entered. */
void
oi_open_indexes(OiTable *table)
{
	List	   *oids;
	ListCell   *lc;

	if (table->indexes)
		return;
	oids = RelationGetIndexList(table->rel);
	table->indexes = palloc(sizeof(Relation) * (list_length(oids) + 1));
	table->index_infos = palloc(sizeof(IndexInfo *) * (list_length(oids) + 1));
	foreach(lc, oids)
	{
		Relation	index = table->key_index;
		int			i = table->nindexes++;

		if (index && RelationGetRelid(index) == lfirst_oid(lc) &&
			table->lockmode == RowExclusiveLock)
			table->key_index = NULL;	/* now one of these */
		else
			index = index_open(lfirst_oid(lc), RowExclusiveLock);
		table->indexes[i] = index;
		table->index_infos[i] = BuildIndexInfo(index);
	}
	list_free(oids);
}

/* Has the executor use the indexes that are open. */
void
oi_lend_indexes(OiTable *table)
{
	oi_open_indexes(table);
	table->rri->ri_NumIndices = table->nindexes;
	table->rri->ri_IndexRelationDescs = table->indexes;
	table->rri->ri_IndexRelationInfo = table->index_infos;
}

/*
 * Closes the tables of others whose triggers were fired from here: what a foreign
 * key does in another table is queued with the triggers of our own statement.  Not
 * ExecCloseResultRelations(), which would close our table's indexes as well.
 */
static void
close_trigger_targets(EState *estate)
{
	ListCell   *lc;

	foreach(lc, estate->es_trig_target_relations)
		table_close(((ResultRelInfo *) lfirst(lc))->ri_RelationDesc, NoLock);
	estate->es_trig_target_relations = NIL;
}

/* Frees what writing needed, and is in the memory context of the first write. */
void
oi_write_end(OiTable *table)
{
	for (int i = 0; i < table->nindexes; i++)
	{
		oi_compat_index_done(table->indexes[i], table->index_infos[i]);
		index_close(table->indexes[i], RowExclusiveLock);
	}
	if (table->estate)
	{
		ExecResetTupleTable(table->estate->es_tupleTable, false);
		close_trigger_targets(table->estate);
		FreeExecutorState(table->estate);
	}
	table->indexes = NULL;
	table->index_infos = NULL;
	table->nindexes = 0;
	table->estate = NULL;
	table->rri = NULL;
}

/* Has the table triggers for this command? */
bool
oi_has_triggers(OiTable *table, CmdType command)
{
	TriggerDesc *t = table->rel->trigdesc;

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
TransitionCaptureState *
oi_begin_statement(OiTable *table, CmdType command)
{
	if (!oi_has_triggers(table, command))
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

void
oi_end_statement(OiTable *table, CmdType command,
				 TransitionCaptureState *transitions)
{
	if (oi_has_triggers(table, command))
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
void
oi_report_suppressed(OiTable *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
			 errmsg("a trigger on table \"%s\" suppressed the change",
					RelationGetRelationName(table->rel)),
			 errhint("A trigger that wants to refuse a change has to raise an error.")));
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

	oi_xact_note_write();
	oi_prepare_executor(table);
	oi_compat_set_updated_columns(exec_rt_fetch(1, table->estate),
								  table->estate, changed);
	transitions = oi_begin_statement(table, CMD_UPDATE);

	oi_compat_init_epq(&epq, table->estate);
	if (table->rri->ri_TrigDesc &&
		table->rri->ri_TrigDesc->trig_update_before_row &&
		!oi_compat_before_update(table->estate, &epq, table->rri, &tid,
								 newslot))
		oi_report_suppressed(table);

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

	if (update_indexes)
		oi_lend_indexes(table);
	recheck = oi_compat_index_updated(table->rri, newslot, table->estate,
									  update_indexes);
	ExecARUpdateTriggers(table->estate, table->rri, NULL, NULL, &tid, NULL,
						 newslot, recheck, transitions, false);
	EvalPlanQualEnd(&epq);
	oi_end_statement(table, CMD_UPDATE, transitions);
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

	oi_xact_note_write();
	oi_prepare_executor(table);
	transitions = oi_begin_statement(table, CMD_DELETE);

	oi_compat_init_epq(&epq, table->estate);
	if (table->rri->ri_TrigDesc &&
		table->rri->ri_TrigDesc->trig_delete_before_row &&
		!oi_compat_before_delete(table->estate, &epq, table->rri, tid))
		oi_report_suppressed(table);

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
	oi_end_statement(table, CMD_DELETE, transitions);
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
