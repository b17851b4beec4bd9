/*-------------------------------------------------------------------------
 *
 * drain.c
 *		Reading the log for a subscription, and recording what went out.
 *
 * A cycle of the worker is: read events in one short transaction, make sure
 * that what was read is durable, deliver with no transaction open, record
 * in another short transaction.  batch.c decides which rows are read.
 *
 * The worker is connected as the subscription's owner, who may have no
 * right to the tables, so here it acts for the owner of the tables.  Every
 * name in a query is qualified, operators included, and nothing in them is
 * of a user's making.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "batch.h"
#include "catalog/pg_type.h"
#include "drain.h"
#include "durable.h"
#include "executor/spi.h"
#include "fault.h"
#include "incarnation.h"
#include "intent.h"
#include "miscadmin.h"
#include "owner.h"
#include "parking.h"
#include "relation.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

/*
 * Start a transaction as the owner of the tables, with SPI.  False, and no
 * transaction: the extension is gone, or is not the one that was there at
 * first (relid is InvalidOid until then).
 */
bool
oi_drain_begin(Oid relid, OiIdentity *was)
{
	return oi_owner_begin(OI_REL_SUBSCRIPTIONS, relid,
						  SECURITY_RESTRICTED_OPERATION, was);
}

/*
 * Prepare a query once in the life of the worker.
 */
SPIPlanPtr
oi_drain_plan(SPIPlanPtr *plan, const char *query, int nargs, Oid *types)
{
	if (*plan == NULL)
	{
		*plan = SPI_prepare_cursor(query, nargs, types,
								   CURSOR_OPT_FAST_PLAN | CURSOR_OPT_NO_SCROLL);
		if (*plan == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not prepare a query: %s",
							SPI_result_code_string(SPI_result))));
		SPI_keepplan(*plan);
	}
	return *plan;
}

/*
 * Run one that returns rows, or updates.
 */
void
oi_drain_execute(SPIPlanPtr plan, Datum *values, const char *nulls, bool read_only)
{
	int			result = SPI_execute_plan(plan, values, nulls, read_only, 0);

	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not execute a query: %s",
						SPI_result_code_string(result))));
}

/*
 * A column of the first row found.
 */
Datum
oi_drain_column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

/*
 * Read a moment from three columns of the first row found.
 */
static void
moment_columns(OiMoment *moment, int first, MemoryContext context)
{
	MemoryContext old;
	OiMoment	found;
	bool		isnull;
	Datum		value = oi_drain_column(first, &isnull);

	moment->snapshot = NULL;
	if (isnull)
		return;
	found.snapshot = oi_snapshot_from_datum(value);
	found.position = DatumGetInt64(oi_drain_column(first + 1, &isnull));
	found.next_xid = U64FromFullTransactionId(DatumGetFullTransactionId(oi_drain_column(first + 2,
																						&isnull)));
	old = MemoryContextSwitchTo(context);
	oi_moment_copy(moment, &found);
	MemoryContextSwitchTo(old);
}

/*
 * No row of the cursor's batch, if there is one, has a position above the last
 * that was drawn by now, nor one of another incarnation of the log.
 */
static void
set_end(OiCursor *cursor)
{
	int64		incarnation = OI_INCARNATION(cursor->batch.position);

	cursor->end = Min(oi_log_position(), OI_INCARNATION_END(incarnation));
}

/* with the SQL objects of 1.0, and what came with 1.1 */
#define CURSOR_COLUMNS_1_0 \
	"c.ctid, c.xmin, c.behind, c.behind_position, c.behind_next_xid," \
	" c.batch, c.batch_position, c.batch_next_xid, c.progress"
#define CURSOR_WHERE \
	" FROM order_idempotency.subscription_cursors c" \
	" WHERE c.subscription OPERATOR(pg_catalog.=) $1"

/*
 * A column with open events of the first row found.
 */
static void
open_column(OiOpen *open, int number, MemoryContext context)
{
	bool		isnull;
	Datum		value = oi_drain_column(number, &isnull);

	oi_open_from_datum(open, isnull ? (Datum) 0 : value, context);
}

/*
 * Fill what a cursor knows of the last delivery.
 */
static void
fill_open(OiCursor *cursor)
{
	bool		isnull;

	cursor->token.number = DatumGetInt64(oi_drain_column(11, &isnull));
	cursor->token.timeline = DatumGetInt32(oi_drain_column(12, &isnull));
	cursor->repeated = true;
	cursor->numbered = true;	/* until the sink says otherwise */
	cursor->open_upto = DatumGetInt64(oi_drain_column(14, &isnull));
	open_column(&cursor->open_log, 13, cursor->context);
	open_column(&cursor->open_failed, 15, cursor->context);
}

/*
 * Fill a cursor from the first row found.
 */
static void
fill_cursor(OiCursor *cursor)
{
	bool		isnull;

	cursor->tid = *(ItemPointer) DatumGetPointer(oi_drain_column(1, &isnull));
	cursor->xmin = DatumGetTransactionId(oi_drain_column(2, &isnull));
	oi_moment_clear(&cursor->behind);
	oi_moment_clear(&cursor->batch);
	moment_columns(&cursor->behind, 3, cursor->context);
	moment_columns(&cursor->batch, 6, cursor->context);
	cursor->progress = DatumGetInt64(oi_drain_column(9, &isnull));
	cursor->above = DatumGetBool(oi_drain_column(10, &isnull));
	fill_open(cursor);
	set_end(cursor);
	cursor->batch_lsn = oi_wal_end();
	cursor->nlate = -1;
	cursor->moved = false;
	cursor->passed = 0;
	cursor->recorded_at = GetCurrentTimestamp();
}

/*
 * Load a subscription's cursor, and the keys that are held.  False: it is
 * gone.
 */
bool
oi_drain_load(const OiSubscription *sub, OiCursor *cursor, OiHeld *held)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr old_plan = NULL;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sub->id)};
	OiIdentity	was;
	bool		there = false;

	oi_held_reset(held);
	if (oi_drain_begin(sub->relid, &was))
	{
		oi_drain_execute(sub->parks ?
						 oi_drain_plan(&plan, "SELECT " CURSOR_COLUMNS_1_0
									   ", c.behind_all_above, c.token, c.token_timeline,"
									   " c.open_log, c.open_upto, c.open_failed" CURSOR_WHERE
									   " ORDER BY c.subscription, c.turn LIMIT 1", 1, types) :
						 oi_drain_plan(&old_plan, "SELECT " CURSOR_COLUMNS_1_0
									   ", false, 0::pg_catalog.int8, 0, NULL::pg_catalog.int8[],"
									   " 0::pg_catalog.int8, NULL::pg_catalog.int8[]"
									   CURSOR_WHERE, 1, types),
						 values, NULL, true);
		there = SPI_processed > 0;
		if (there)
			fill_cursor(cursor);
		if (there && sub->parks)
			oi_parking_load(sub, held);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return there;
}

/*
 * Is the cursor's row still the one that was read or written last?  Whoever
 * changes anything of a subscription makes a new version of that row.  It is
 * looked at by its place, so that versions that somebody's old snapshot
 * keeps alive need not be walked through.
 *
 * The table is looked at once more, since the invalidation of one that was
 * dropped and created anew may come as late as with the lock on it, which is
 * then kept.
 */
static bool
row_is_current(const OiSubscription *sub, const OiCursor *cursor)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {TIDOID, XIDOID, INT4OID};
	Datum		values[lengthof(types)];

	values[0] = PointerGetDatum(&cursor->tid);
	values[1] = TransactionIdGetDatum(cursor->xmin);
	values[2] = Int32GetDatum(sub->id);
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT 1 FROM order_idempotency.subscription_cursors c"
								   " WHERE c.ctid OPERATOR(pg_catalog.=) $1"
								   " AND c.xmin OPERATOR(pg_catalog.=) $2"
								   " AND c.subscription OPERATOR(pg_catalog.=) $3",
								   lengthof(types), types),
					 values, NULL, true);
	return SPI_processed > 0 && oi_relation_oid(OI_REL_SUBSCRIPTIONS) == sub->relid;
}

/*
 * Is what the worker knows of its subscription still so?
 */
bool
oi_drain_current(const OiSubscription *sub, const OiCursor *cursor)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		current = false;

	if (oi_drain_begin(sub->relid, &was))
	{
		current = row_is_current(sub, cursor);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return current;
}

/*
 * Open a batch: what is there now and was not there at "behind".  Of an
 * incarnation of the log that has ended, all is there.
 */
static void
open_batch(OiCursor *cursor)
{
	int64		incarnation = OI_INCARNATION(cursor->behind.position);
	OiMoment	now;
	MemoryContext old;

	if (incarnation < OI_INCARNATION(oi_log_position()))
		oi_moment_end(&now, incarnation);
	else
		oi_moment_now(&now);
	old = MemoryContextSwitchTo(cursor->context);
	oi_moment_copy(&cursor->batch, &now);
	MemoryContextSwitchTo(old);

	set_end(cursor);
	cursor->batch_lsn = oi_wal_end();
	cursor->progress = 0;
	cursor->nlate = -1;
	cursor->moved = true;
}

/*
 * Read the next events of the cursor's batch, opening one if need be, into
 * the current context.  NULL: what the worker knows is no longer so.
 */
OiBatch *
oi_drain_read(const OiSubscription *sub, OiCursor *cursor)
{
	MemoryContext context = CurrentMemoryContext;
	OiBatch    *batch = NULL;
	OiIdentity	was;

	if (!oi_drain_begin(sub->relid, &was))
	{
		MemoryContextSwitchTo(context);
		return NULL;
	}
	if (row_is_current(sub, cursor))
	{
		if (cursor->batch.snapshot == NULL)
			open_batch(cursor);
		PushActiveSnapshot(GetLatestSnapshot());
		batch = oi_batch_read(sub, cursor, context);
		PopActiveSnapshot();
		/* what is still being restored may come into sight at any time */
		batch->lsn = oi_moment_is_end(&cursor->batch) ? oi_wal_end() : cursor->batch_lsn;
	}
	oi_owner_end(&was, context);

	return batch;
}

/*
 * Read again the open events of a batch of the log, or of failed ones.  Failed
 * ones that somebody discarded are not there any more.  NULL: what the worker
 * knows is no longer so.
 */
OiBatch *
oi_drain_read_open(const OiSubscription *sub, const OiCursor *cursor, bool failed)
{
	MemoryContext context = CurrentMemoryContext;
	const OiOpen *open = failed ? &cursor->open_failed : &cursor->open_log;
	OiBatch    *batch = NULL;
	OiIdentity	was;

	if (oi_drain_begin(sub->relid, &was))
	{
		if (row_is_current(sub, cursor))
		{
			batch = failed ? oi_parking_read_open(sub, open, context) :
				oi_batch_read_open(sub, open, context);
			batch->upto = cursor->open_upto;
			batch->lsn = oi_wal_end();
		}
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);
	if (batch != NULL)
		oi_open_apply(open, batch);

	return batch;
}

/*
 * Read events that failed and are due, into the current context.  NULL: what
 * the worker knows is no longer so.
 */
OiBatch *
oi_drain_read_failed(const OiSubscription *sub, const OiCursor *cursor,
					 OiHeld *held, TimestampTz now)
{
	MemoryContext context = CurrentMemoryContext;
	OiBatch    *batch = NULL;
	OiIdentity	was;

	if (oi_drain_begin(sub->relid, &was))
	{
		if (row_is_current(sub, cursor))
			batch = oi_parking_read(sub, held, now, context);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return batch;
}

/*
 * Nothing is left in the cursor's batch: have it behind.  At the end of an
 * incarnation of the log, that is where the next one starts.
 */
static void
end_batch(OiCursor *cursor)
{
	oi_moment_clear(&cursor->behind);
	if (oi_moment_is_end(&cursor->batch))
	{
		MemoryContext old = MemoryContextSwitchTo(cursor->context);

		oi_moment_start(&cursor->behind, OI_INCARNATION(cursor->batch.position) + 1);
		MemoryContextSwitchTo(old);
		oi_moment_clear(&cursor->batch);
	}
	else
		cursor->behind = cursor->batch;
	cursor->batch.snapshot = NULL;
	cursor->moved = true;
	cursor->progress = 0;
	cursor->above = false;
}

/*
 * Move the cursor past the events of a batch whose fate is known.
 */
void
oi_drain_advance(OiCursor *cursor, const OiBatch *batch)
{
	int			i = 0;

	while (i < batch->n && batch->info[i].fate != OI_FATE_OPEN)
		i++;
	if (i < batch->n)
		cursor->progress = Max(cursor->progress, batch->events[i].position - 1);
	else if (!batch->exhausted)
		cursor->progress = Max(cursor->progress, batch->upto);
	else
		end_batch(cursor);
}

/*
 * A moment as three values of a query.
 */
static void
moment_values(const OiMoment *moment, Datum *values, char *nulls)
{
	if (moment->snapshot == NULL)
	{
		memset(nulls, 'n', 3);
		return;
	}
	values[0] = oi_snapshot_to_datum(moment->snapshot);
	values[1] = Int64GetDatum(moment->position);
	values[2] = FullTransactionIdGetDatum(FullTransactionIdFromU64(moment->next_xid));
}

/*
 * What is open of a numbered sink's events, as five values of a query.
 */
static void
open_values(const OiCursor *cursor, Datum *values, char *nulls)
{
	values[0] = Int64GetDatum(cursor->token.number);
	values[1] = Int32GetDatum((int32) cursor->token.timeline);
	values[2] = oi_open_to_datum(&cursor->open_log, false);
	values[3] = Int64GetDatum(cursor->open_upto);
	values[4] = oi_open_to_datum(&cursor->open_failed, false);
	for (int i = 2; i < 5; i++)
		nulls[i] = values[i] == 0 ? 'n' : ' ';
	if (values[2] == 0)
		nulls[3] = 'n';
}

/* records in one turn of the cursor's row */
#define TURN 500

#define UPDATE_CURSOR \
	"UPDATE order_idempotency.subscription_cursors AS c SET"
#define SET_MOMENTS \
	" behind = $4, behind_position = $5, behind_next_xid = $6," \
	" batch = $7, batch_position = $8, batch_next_xid = $9,"
#define SET_PROGRESS \
	" progress = $10," \
	" delivered = c.delivered OPERATOR(pg_catalog.+) $11," \
	" delivered_at = CASE WHEN $11 OPERATOR(pg_catalog.>) 0" \
	" THEN pg_catalog.clock_timestamp() ELSE c.delivered_at END"
#define SET_MORE \
	", retried = c.retried OPERATOR(pg_catalog.+) $12, behind_all_above = $13," \
	" turn = c.turn OPERATOR(pg_catalog.-) $14, token = $15, token_timeline = $16," \
	" open_log = $17, open_upto = $18, open_failed = $19"
#define WHERE_CURSOR \
	" WHERE c.ctid OPERATOR(pg_catalog.=) $1 AND c.xmin OPERATOR(pg_catalog.=) $2" \
	" AND c.subscription OPERATOR(pg_catalog.=) $3 RETURNING c.ctid, c.xmin"

/*
 * The query that updates the cursor's row.  Moments that the row has already are
 * left alone: while many transactions are open they are long.
 */
static SPIPlanPtr
update_plan(const OiSubscription *sub, const OiCursor *cursor)
{
	static SPIPlanPtr old_plan = NULL;
	static SPIPlanPtr plans[2] = {NULL, NULL};
	Oid			types[] = {TIDOID, XIDOID, INT4OID, PG_SNAPSHOTOID, INT8OID, XID8OID,
		PG_SNAPSHOTOID, INT8OID, XID8OID, INT8OID, INT8OID, INT8OID, BOOLOID, INT8OID,
	INT8OID, INT4OID, INT8ARRAYOID, INT8OID, INT8ARRAYOID};

	if (!sub->parks)
		return oi_drain_plan(&old_plan, UPDATE_CURSOR SET_MOMENTS SET_PROGRESS WHERE_CURSOR,
							 lengthof(types) - 8, types);
	return oi_drain_plan(&plans[cursor->moved],
						 cursor->moved ?
						 UPDATE_CURSOR SET_MOMENTS SET_PROGRESS SET_MORE WHERE_CURSOR :
						 UPDATE_CURSOR SET_PROGRESS SET_MORE WHERE_CURSOR,
						 lengthof(types), types);
}

/*
 * Update the cursor's row.  False: it is not the one that was read.
 */
static bool
update_cursor(const OiSubscription *sub, OiCursor *cursor, const OiTally *tally)
{
	Datum		values[19] = {0};
	char		nulls[] = "                   ";
	bool		isnull;

	values[0] = PointerGetDatum(&cursor->tid);
	values[1] = TransactionIdGetDatum(cursor->xmin);
	values[2] = Int32GetDatum(sub->id);
	if (cursor->moved || !sub->parks)
	{
		moment_values(&cursor->behind, &values[3], &nulls[3]);
		moment_values(&cursor->batch, &values[6], &nulls[6]);
	}
	else
		memset(&nulls[3], 'n', 6);
	values[9] = Int64GetDatum(cursor->progress);
	values[10] = Int64GetDatum(tally->delivered);
	values[11] = Int64GetDatum(tally->retried);
	values[12] = BoolGetDatum(cursor->above);
	cursor->recorded = (cursor->recorded + 1) % TURN;
	values[13] = Int64GetDatum(cursor->recorded == 0);
	open_values(cursor, &values[14], &nulls[14]);
	oi_drain_execute(update_plan(sub, cursor), values, nulls, false);
	if (SPI_processed == 0)
		return false;

	cursor->tid = *(ItemPointer) DatumGetPointer(oi_drain_column(1, &isnull));
	cursor->xmin = DatumGetTransactionId(oi_drain_column(2, &isnull));
	cursor->moved = false;
	return true;
}

/*
 * Record where the cursor is and what became of the events of a batch (NULL:
 * none), all in one transaction.  Those of known fate leave the batch.  False:
 * nothing was recorded, since what the worker knows is no longer so.
 *
 * The commit is asynchronous.  What comes next waits for it: see cycle.c.
 */
bool
oi_drain_record(const OiSubscription *sub, OiCursor *cursor, const OiTally *tally,
				OiBatch *batch, OiHeld *held)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		there = false;

	if (oi_drain_begin(sub->relid, &was))
	{
		there = update_cursor(sub, cursor, tally);
		OI_FAULT_POINT("drain:recording");
		if (there && batch != NULL)
			oi_parking_record(sub, batch, held);
		oi_owner_end(&was, context);
		if (there)
			cursor->lsn = XactLastCommitEnd;
		cursor->passed = 0;
		cursor->recorded_at = GetCurrentTimestamp();
	}
	MemoryContextSwitchTo(context);
	if (there && batch != NULL)
		oi_batch_keep_open(batch);

	return there;
}
