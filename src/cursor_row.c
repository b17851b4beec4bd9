/*-------------------------------------------------------------------------
 *
 * cursor_row.c
 *		The row that a subscription's cursor is kept in.
 *
 * All of this runs in transactions of drain.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch.h"
#include "catalog/pg_type.h"
#include "clock.h"
#include "cursor_row.h"
#include "durable.h"
#include "executor/spi.h"
#include "incarnation.h"
#include "intent.h"
#include "relation.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

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
void
oi_cursor_set_end(OiCursor *cursor)
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
	cursor->settled = DatumGetInt64(oi_drain_column(16, &isnull));
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
	oi_cursor_set_end(cursor);
	cursor->batch_lsn = oi_wal_end();
	cursor->lsn = cursor->batch_lsn;	/* its writer may not have flushed */
	cursor->nlate = -1;
	cursor->moved = false;
	cursor->passed = 0;
	cursor->recorded_at = oi_uptime();
}

/*
 * Read the cursor's row.  False: it is gone.
 */
bool
oi_cursor_row_read(const OiSubscription *sub, OiCursor *cursor)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr old_plan = NULL;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sub->id)};

	oi_drain_execute(sub->parks ?
					 oi_drain_plan(&plan, "SELECT " CURSOR_COLUMNS_1_0
								   ", c.behind_all_above, c.token, c.token_timeline,"
								   " c.open_log, c.open_upto, c.open_failed, c.settled" CURSOR_WHERE
								   " ORDER BY c.subscription, c.turn LIMIT 1", 1, types) :
					 oi_drain_plan(&old_plan, "SELECT " CURSOR_COLUMNS_1_0
								   ", false, 0::pg_catalog.int8, 0, NULL::pg_catalog.int8[],"
								   " 0::pg_catalog.int8, NULL::pg_catalog.int8[], 0::pg_catalog.int8"
								   CURSOR_WHERE, 1, types),
					 values, NULL, true);
	if (SPI_processed == 0)
		return false;
	fill_cursor(cursor);
	return true;
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
bool
oi_cursor_row_is_current(const OiSubscription *sub, const OiCursor *cursor)
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
 * What is known of a numbered sink's deliveries, as six values of a query.
 */
static void
open_values(const OiCursor *cursor, Datum *values, char *nulls)
{
	values[0] = Int64GetDatum(cursor->token.number);
	values[1] = Int32GetDatum((int32) cursor->token.timeline);
	values[2] = oi_open_to_datum(&cursor->open_log, false);
	values[3] = Int64GetDatum(cursor->open_upto);
	values[4] = oi_open_to_datum(&cursor->open_failed, false);
	values[5] = Int64GetDatum(cursor->settled);
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
	" open_log = $17, open_upto = $18, open_failed = $19, settled = $20"
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
	INT8OID, INT4OID, INT8ARRAYOID, INT8OID, INT8ARRAYOID, INT8OID};

	if (!sub->parks)
		return oi_drain_plan(&old_plan, UPDATE_CURSOR SET_MOMENTS SET_PROGRESS WHERE_CURSOR,
							 lengthof(types) - 9, types);
	return oi_drain_plan(&plans[cursor->moved],
						 cursor->moved ?
						 UPDATE_CURSOR SET_MOMENTS SET_PROGRESS SET_MORE WHERE_CURSOR :
						 UPDATE_CURSOR SET_PROGRESS SET_MORE WHERE_CURSOR,
						 lengthof(types), types);
}

/*
 * Update the cursor's row.  False: it is not the one that was read.
 */
bool
oi_cursor_row_update(const OiSubscription *sub, OiCursor *cursor, const OiTally *tally)
{
	Datum		values[20] = {0};
	char		nulls[] = "                    ";
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
