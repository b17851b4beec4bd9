/*-------------------------------------------------------------------------
 *
 * deadline_row.c
 *		Rows of table payment_deadlines.
 *
 * They are read by the index on due_at, in its order, and never waited for:
 * where somebody else is at a row, it is left to him.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "compat.h"
#include "deadline_row.h"
#include "miscadmin.h"
#include "order.h"
#include "shmem.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "xact.h"

/* the columns */
enum
{
	DEADLINE_ORDER_KEY = 1,
	DEADLINE_DUE_AT
};

/*
 * Is this an index that has all rows by due_at, the earliest first?
 */
static bool
is_by_due(Relation index)
{
	return index->rd_rel->relam == BTREE_AM_OID &&
		index->rd_index->indisvalid &&
		index->rd_index->indkey.values[0] == DEADLINE_DUE_AT &&
		index->rd_indoption[0] == 0 &&
		RelationGetIndexPredicate(index) == NIL;
}

/*
 * Open the index on due_at, by whatever name.
 */
static Relation
open_index(OiTable *table)
{
	List	   *indexes = RelationGetIndexList(table->rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (is_by_due(index))
			return index;
		index_close(index, AccessShareLock);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"%s\" has no index on column \"due_at\"",
					RelationGetRelationName(table->rel)),
			 errhint("Use CREATE INDEX ON order_idempotency.payment_deadlines (due_at).")));
}

/*
 * The row in a slot, with a copy of its key.
 */
OiDeadline
oi_deadline_from_slot(TupleTableSlot *slot)
{
	OiDeadline	row;
	bool		isnull;

	row.tid = slot->tts_tid;
	row.due_at = DatumGetTimestampTz(slot_getattr(slot, DEADLINE_DUE_AT, &isnull));
	row.key = DatumGetTextPCopy(slot_getattr(slot, DEADLINE_ORDER_KEY, &isnull));
	return row;
}

/*
 * Read the rows that are due from one time up to another, not more than the
 * limit, the earliest first.
 */
OiDueRows *
oi_deadline_read(OiTable *table, TimestampTz from, TimestampTz upto, int limit)
{
	OiDueRows  *due = palloc(offsetof(OiDueRows, rows) + limit * sizeof(OiDeadline));
	TupleTableSlot *slot = oi_table_slot(table);
	Relation	index = open_index(table);
	IndexScanDesc scan;
	ScanKeyData key;
	bool		isnull;

	due->n = 0;
	due->next = OI_NEVER;
	ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
				TimestampTzGetDatum(from));
	scan = oi_compat_index_scan(table->rel, index, GetActiveSnapshot());
	index_rescan(scan, &key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		due->next = DatumGetTimestampTz(slot_getattr(slot, DEADLINE_DUE_AT, &isnull));
		if (due->next > upto || due->n == limit)
			break;
		due->rows[due->n++] = oi_deadline_from_slot(slot);
		due->next = OI_NEVER;
	}
	index_endscan(scan);
	index_close(index, AccessShareLock);

	return due;
}

/*
 * Delete a row.  False: somebody else is deleting it, or has.
 */
bool
oi_deadline_remove(OiTable *table, const OiDeadline *row)
{
	TM_FailureData failure;
	TM_Result	result;

	oi_xact_note_write();
	result = table_tuple_delete(table->rel, unconstify(ItemPointerData *, &row->tid),
								GetCurrentCommandId(true), GetActiveSnapshot(),
								InvalidSnapshot, false, &failure, false);
	if (result != TM_Ok)
		return false;
	CommandCounterIncrement();
	return true;
}

/*
 * Let a row be due at another time.  False: it is somebody else's.
 */
bool
oi_deadline_put_off(OiTable *table, const OiDeadline *row, TimestampTz due_at)
{
	Datum		values[] = {PointerGetDatum(row->key), TimestampTzGetDatum(due_at)};
	bool		nulls[] = {false, false};

	if (!oi_deadline_remove(table, row))
		return false;
	oi_insert_values(OI_REL_PAYMENT_DEADLINES, values, nulls);
	return true;
}

/*
 * Find a row of an earlier transaction again.  Its place may be another's by
 * now.
 */
bool
oi_deadline_again(OiTable *table, OiDeadline *row)
{
	TupleTableSlot *slot = oi_table_slot(table);
	OiDeadline	now;

	if (!table_tuple_fetch_row_version(table->rel, &row->tid, GetActiveSnapshot(), slot))
		return false;
	now = oi_deadline_from_slot(slot);
	return now.due_at == row->due_at && oi_text_equal(now.key, row->key);
}
