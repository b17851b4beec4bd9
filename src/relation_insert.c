/*-------------------------------------------------------------------------
 *
 * relation_insert.c
 *		Inserting rows into the extension's tables without SPI.
 *
 * Most rows go into a table that has nothing but ordinary indexes.  Those need
 * no executor state, which costs as much as storing the row, and get none.  A
 * table with triggers for INSERT, constraints of a user's, or indexes with
 * more to them than columns gets all that the executor does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "compat.h"
#include "relation_write.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "xact.h"

/*
 * Does the index judge a speculative insertion?  All unique ones on the primary
 * key's column, the first, do.  While that is rebuilt concurrently there are
 * two.
 */
static bool
is_arbiter(Relation index, const IndexInfo *info)
{
	return index->rd_index->indisunique && index->rd_index->indimmediate &&
		info->ii_NumIndexKeyAttrs == 1 && info->ii_IndexAttrNumbers[0] == 1 &&
		info->ii_Expressions == NIL && info->ii_Predicate == NIL;
}

/* The arbiters of a speculative insertion, for the executor. */
static List *
arbiter_indexes(OiTable *table)
{
	List	   *arbiters = NIL;

	for (int i = 0; i < table->nindexes; i++)
		if (is_arbiter(table->indexes[i], table->index_infos[i]))
			arbiters = lappend_oid(arbiters,
								   RelationGetRelid(table->indexes[i]));
	return arbiters;
}

/* Is a column null that must not be? */
static bool
breaks_not_null(OiTable *table, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(table->rel);

	for (int i = 0; i < desc->natts; i++)
		if (slot->tts_isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			return true;
	return false;
}

/*
 * Does the row's insertion need the executor?  For triggers, for constraints
 * but our own, and for indexes with more to them than columns.
 */
static bool
needs_executor(OiTable *table, TupleTableSlot *slot)
{
	TupleConstr *constr = table->rel->rd_att->constr;

	if (oi_has_triggers(table, CMD_INSERT) || breaks_not_null(table, slot))
		return true;
	if (constr && oi_next_foreign_check(constr, 0) < constr->num_check)
		return true;
	for (int i = 0; i < table->nindexes; i++)
	{
		IndexInfo  *info = table->index_infos[i];

		if (info->ii_Expressions != NIL || info->ii_Predicate != NIL ||
			info->ii_ExclusionOps != NULL ||
			!table->indexes[i]->rd_index->indimmediate)
			return true;
	}
	return false;
}

/*
 * Enters the row that was stored into plain indexes.  Returns false if an
 * arbiter objects.
 */
static bool
enter_row(OiTable *table, TupleTableSlot *slot, bool speculative)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < table->nindexes; i++)
	{
		Relation	index = table->indexes[i];
		IndexInfo  *info = table->index_infos[i];
		IndexUniqueCheck check = UNIQUE_CHECK_NO;

		if (!info->ii_ReadyForInserts)
			continue;
		if (index->rd_index->indisunique)
			check = speculative && is_arbiter(index, info) ?
				UNIQUE_CHECK_PARTIAL : UNIQUE_CHECK_YES;
		FormIndexDatum(info, slot, NULL, values, nulls);
		if (!index_insert(index, values, nulls, &slot->tts_tid, table->rel,
						  check, false, info) &&
			check == UNIQUE_CHECK_PARTIAL)
			return false;
	}
	return true;
}

/*
 * The same by the executor.  *recheck is for AFTER triggers: which deferred
 * constraints have to be looked at again.
 */
static bool
enter_row_by_executor(OiTable *table, TupleTableSlot *slot, bool speculative,
					  List **recheck)
{
	bool		conflict = false;

	if (table->nindexes > 0)
		*recheck = oi_compat_index_new(table->rri, slot, table->estate,
									   speculative ? &conflict : NULL,
									   speculative ? arbiter_indexes(table) : NIL);
	return !conflict;
}

/*
 * Stores a row and its index entries.  Speculatively: returns false if the
 * primary key was there already, with nothing stored.
 */
static bool
store_row(OiTable *table, TupleTableSlot *slot, bool speculative,
		  List **recheck)
{
	CommandId	cid = GetCurrentCommandId(true);
	TransactionId xid = InvalidTransactionId;
	uint32		token = 0;
	bool		entered;

	slot->tts_tableOid = RelationGetRelid(table->rel);
	if (speculative)
	{
		xid = GetCurrentTransactionId();
		token = SpeculativeInsertionLockAcquire(xid);
		table_tuple_insert_speculative(table->rel, slot, cid, 0, NULL, token);
	}
	else
		table_tuple_insert(table->rel, slot, cid, 0, NULL);

	entered = table->estate ?
		enter_row_by_executor(table, slot, speculative, recheck) :
		enter_row(table, slot, speculative);

	if (speculative)
	{
		table_tuple_complete_speculative(table->rel, slot, token, entered);
		SpeculativeInsertionLockRelease(xid);
	}
	return entered;
}

/* Inserts a row with all that the executor does. */
static bool
insert_by_executor(OiTable *table, TupleTableSlot *slot, bool speculative,
				   const OiThen *then)
{
	TransitionCaptureState *transitions;
	List	   *recheck = NIL;
	bool		stored;

	oi_prepare_executor(table);
	oi_lend_indexes(table);
	transitions = oi_begin_statement(table, CMD_INSERT);

	if (table->rri->ri_TrigDesc &&
		table->rri->ri_TrigDesc->trig_insert_before_row &&
		!ExecBRInsertTriggers(table->estate, table->rri, slot))
		oi_report_suppressed(table);

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
	oi_end_statement(table, CMD_INSERT, transitions);
	return stored;
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
	bool		stored;

	oi_xact_note_write();
	oi_open_indexes(table);
	if (table->estate || needs_executor(table, slot))
		return insert_by_executor(table, slot, speculative, then);

	stored = store_row(table, slot, speculative, NULL);
	if (stored && then)
		then->call(then->arg);
	CommandCounterIncrement();
	return stored;
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
