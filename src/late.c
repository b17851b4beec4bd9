/*-------------------------------------------------------------------------
 *
 * late.c
 *		Rows of transactions that were open when the batch before was taken.
 *
 * Their transactions are in behind's list, or have an xid from its xmax up to
 * its next_xid; batch sees them.  Those of them that have rows are found once for
 * a batch, each with the position of its first one.
 *
 * There may be thousands of such transactions, with millions of rows, and all
 * rows go out by position.  So the transactions are in a heap, the one with the
 * lowest next position on top.  Of that one rows are read up to where the next
 * transaction comes first.  That costs one look into the index for each such
 * run of rows, however many transactions there are, and memory for each
 * transaction only.
 *
 * Rows are compared as a whole, (xid, position) with (xid, position), because only the
 * index on both serves that.  With "xid = ..." the planner took the one on (position)
 * where the statistics knew of few transactions, as after a load, and each batch
 * read the log from the beginning.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch.h"
#include "catalog/pg_type.h"
#include "event.h"
#include "incarnation.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

/* transactions that are taken for late ones without a look whether they wrote */
#define FEW_XIDS 64

/* the xids of transactions that may have late rows */
typedef struct Xids
{
	Datum	   *xids;
	int			n;
	int			room;
} Xids;

/*
 * Add an xid.
 */
static void
add_xid(Xids *xids, uint64 xid)
{
	if (xids->n == xids->room)
	{
		xids->room *= 2;
		xids->xids = repalloc_huge(xids->xids, sizeof(Datum) * xids->room);
	}
	xids->xids[xids->n++] = FullTransactionIdGetDatum(FullTransactionIdFromU64(xid));
}

/*
 * The lowest xid in [from, to) that has rows in the log, or "to".
 */
static uint64
next_writer(uint64 from, uint64 to)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {XID8OID, XID8OID};
	Datum		values[2];
	bool		isnull;
	Datum		found;

	values[0] = FullTransactionIdGetDatum(FullTransactionIdFromU64(from));
	values[1] = FullTransactionIdGetDatum(FullTransactionIdFromU64(to));
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT o.xid FROM " OI_LOG_ROWS " o"
								   " WHERE o.xid OPERATOR(pg_catalog.>=) $1"
								   " AND o.xid OPERATOR(pg_catalog.<) $2"
								   " ORDER BY o.xid LIMIT 1", 2, types),
					 values, NULL, true);
	if (SPI_processed == 0)
		return to;
	found = oi_drain_column(1, &isnull);
	to = U64FromFullTransactionId(DatumGetFullTransactionId(found));
	SPI_freetuptable(SPI_tuptable);
	return to;
}

/*
 * The transactions that were open at "behind" and had ended at "batch".
 */
static void
find_xids(const OiCursor *cursor, Xids *xids)
{
	const OiSnapshot *behind = cursor->behind.snapshot;
	const OiSnapshot *batch = cursor->batch.snapshot;
	bool		few = cursor->behind.next_xid - behind->xmax <= FEW_XIDS;
	uint64		xid;

	xids->n = 0;
	xids->room = behind->nxip + 8;
	xids->xids = palloc_extended(sizeof(Datum) * xids->room, MCXT_ALLOC_HUGE);
	for (int i = 0; i < behind->nxip; i++)
		if (oi_snapshot_sees(batch, behind->xip[i]))
			add_xid(xids, behind->xip[i]);

	for (xid = behind->xmax; xid < cursor->behind.next_xid; xid++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!few)
			xid = next_writer(xid, cursor->behind.next_xid);
		if (xid < cursor->behind.next_xid && oi_snapshot_sees(batch, xid))
			add_xid(xids, xid);
	}
}

/*
 * Have the heap in order again below one of its places.
 */
static void
sift_down(OiCursor *cursor, int at)
{
	OiLate		moved = cursor->late[at];
	int			child;

	while ((child = 2 * at + 1) < cursor->nlate)
	{
		if (child + 1 < cursor->nlate &&
			cursor->late[child + 1].position < cursor->late[child].position)
			child++;
		if (cursor->late[child].position >= moved.position)
			break;
		cursor->late[at] = cursor->late[child];
		at = child;
	}
	cursor->late[at] = moved;
}

/*
 * Make the heap of what a query has found.
 */
static void
make_heap(OiCursor *cursor)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;

	cursor->nlate = (int) SPI_processed;
	cursor->late = MemoryContextAllocHuge(cursor->context, sizeof(OiLate) * (SPI_processed + 1));
	for (int i = 0; i < cursor->nlate; i++)
	{
		bool		isnull;
		Datum		xid = SPI_getbinval(SPI_tuptable->vals[i], desc, 1, &isnull);
		Datum		position = SPI_getbinval(SPI_tuptable->vals[i], desc, 2, &isnull);

		cursor->late[i].xid = U64FromFullTransactionId(DatumGetFullTransactionId(xid));
		cursor->late[i].position = DatumGetInt64(position);
	}
	for (int i = cursor->nlate / 2 - 1; i >= 0; i--)
		sift_down(cursor, i);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Find the transactions with late rows behind the cursor's progress, and the
 * first such row of each.
 */
static void
find_late(OiCursor *cursor)
{
	static SPIPlanPtr plan = NULL;
	static const char *const query =
	"SELECT t.xid, e.position FROM pg_catalog.unnest($1) AS t(xid)"
	" CROSS JOIN LATERAL (SELECT o.position FROM " OI_LOG_ROWS " o"
	" WHERE ROW(o.xid, o.position) OPERATOR(pg_catalog.>) ROW(t.xid, $2)"
	" AND ROW(o.xid, o.position) OPERATOR(pg_catalog.<=) ROW(t.xid, $3)"
	" ORDER BY o.xid, o.position LIMIT 1) e";
	Oid			types[] = {XID8ARRAYOID, INT8OID, INT8OID};
	Datum		values[lengthof(types)];
	int64		start = OI_INCARNATION_START(OI_INCARNATION(cursor->behind.position));
	Xids		xids;

	if (cursor->late != NULL)
		pfree(cursor->late);
	cursor->late = NULL;
	cursor->nlate = 0;
	if (cursor->progress >= cursor->behind.position)
		return;
	find_xids(cursor, &xids);
	if (xids.n == 0)
		return;

	values[0] = PointerGetDatum(construct_array(xids.xids, xids.n, XID8OID,
												sizeof(FullTransactionId),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = Int64GetDatum(Max(cursor->progress, start));
	values[2] = Int64GetDatum(cursor->behind.position);
	oi_drain_execute(oi_drain_plan(&plan, query, lengthof(types), types), values, NULL, true);
	make_heap(cursor);

	/* wanted or not: the cursor that has them behind is recorded in the end */
	cursor->passed += cursor->nlate;
}

/*
 * Run the query for the next rows of the transaction on top of the heap.
 */
static void
fetch_rows(const OiSubscription *sub, const OiCursor *cursor, int most)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {XID8OID, INT8OID, INT8OID, TEXTARRAYOID, INT8OID};
	Datum		values[lengthof(types)];
	char		nulls[] = "     ";

	values[0] = FullTransactionIdGetDatum(FullTransactionIdFromU64(cursor->late[0].xid));
	values[1] = Int64GetDatum(cursor->late[0].position);
	values[2] = Int64GetDatum(cursor->behind.position);
	values[3] = sub->type_array;
	if (sub->ntypes < 0)
		nulls[3] = 'n';
	values[4] = Int64GetDatum(most);
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT o.* FROM " OI_LOG_ROWS " o"
								   " WHERE ROW(o.xid, o.position) OPERATOR(pg_catalog.>=) ROW($1, $2)"
								   " AND ROW(o.xid, o.position) OPERATOR(pg_catalog.<=) ROW($1, $3)"
								   " AND ($4 IS NULL OR o.type OPERATOR(pg_catalog.=) ANY ($4))"
								   " ORDER BY o.xid, o.position LIMIT $5", lengthof(types), types),
					 values, nulls, true);
}

/*
 * The position from which on rows of the transaction on top of the heap are behind
 * one of another transaction's.
 */
static int64
next_bound(const OiCursor *cursor)
{
	int64		bound = cursor->behind.position + 1;

	for (int i = 1; i <= 2 && i < cursor->nlate; i++)
		bound = Min(bound, cursor->late[i].position);
	return bound;
}

/*
 * Take rows that were fetched of the transaction on top of the heap, up to
 * "bound", and note which is its next.  False: the batch is full.
 */
static bool
take_run(const OiSubscription *sub, OiCursor *cursor, OiBatch *batch, int64 bound,
		 int *taken, MemoryContext context)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		OiEventRow	row;

		oi_event_row(&row, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		cursor->late[0].position = DatumGetInt64(row.values[OI_EVENT_POSITION]);
		if (cursor->late[0].position >= bound)
			return true;
		if (!oi_batch_add(batch, sub, &row, context))
			return false;
		cursor->late[0].position++;
		(*taken)++;
	}
	return true;
}

/*
 * Read late rows behind the cursor's progress.  False: there may be more.
 */
bool
oi_late_read(const OiSubscription *sub, OiCursor *cursor, OiBatch *batch,
			 MemoryContext context)
{
	bool		room = true;
	int			run = batch->room;

	if (cursor->nlate < 0 || cursor->late_from != cursor->progress)
		find_late(cursor);
	while (cursor->nlate > 0 && room)
	{
		int64		bound = next_bound(cursor);
		int64		most = Min(batch->room - batch->n, bound - cursor->late[0].position);
		uint64		fetched;

		/* one more than is wanted tells where the next one is */
		CHECK_FOR_INTERRUPTS();
		most = Min(most, 2 * (int64) run + 1) + 1;
		fetch_rows(sub, cursor, (int) most);
		fetched = SPI_processed;
		run = 0;
		room = take_run(sub, cursor, batch, bound, &run, context);
		SPI_freetuptable(SPI_tuptable);
		if (room && fetched < (uint64) most && run == (int) fetched)
			cursor->late[0] = cursor->late[--cursor->nlate];
		sift_down(cursor, 0);
	}
	return room;
}
