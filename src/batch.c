/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Which rows of the log make a batch.
 *
 * A batch is what one moment sees ("batch") and an earlier one does not
 * ("behind"), in the order of positions.  It has two parts.
 *
 * Late rows have a position up to behind's, in its incarnation of the log.
 * Their transactions are in
 * behind's list, or have an xid from its xmax up to its next_xid; those of
 * them that have rows are found once for a batch, and their rows are read by
 * the index on (xid, position).
 *
 * The rest have a higher position.  They are read by the index on
 * (position), and what behind saw of them, or batch does not see, is
 * left out.
 *
 * So neither part reads again what was read before, however long some
 * transaction stays open: a row that no snapshot of ours could see is passed
 * over once, and found through its xid when its transaction has ended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch.h"
#include "catalog/pg_type.h"
#include "incarnation.h"
#include "miscadmin.h"
#include "topic.h"
#include "utils/array.h"
#include "utils/xid8.h"

/* transactions that are taken for late ones without a look whether they wrote */
#define FEW_XIDS 64

/* rows looked at in one transaction, at most; and in one fetch of them */
#define SCAN_LIMIT 20000
#define FETCH_SIZE 200

/* the log's tables; each query adds its own conditions */
#define LOG_COLUMNS "l.position, l.xid, " OI_EVENT_COLUMNS
#define LOG_ROWS \
	"(SELECT " LOG_COLUMNS " FROM order_idempotency.outbox_0 l" \
	" UNION ALL SELECT " LOG_COLUMNS " FROM order_idempotency.outbox_1 l" \
	" UNION ALL SELECT " LOG_COLUMNS " FROM order_idempotency.outbox_2 l" \
	" UNION ALL SELECT " LOG_COLUMNS " FROM order_idempotency.outbox_3 l)"

/* the reading of one batch */
typedef struct Reader
{
	const OiSubscription *sub;
	OiCursor   *cursor;
	OiBatch    *batch;
	MemoryContext context;		/* of the events */
} Reader;

/*
 * Add a transaction to the cursor's late ones, which have room for "size".
 */
static void
add_late(OiCursor *cursor, uint64 xid, int *size)
{
	if (cursor->nlate == *size)
	{
		*size *= 2;
		cursor->late = repalloc(cursor->late, sizeof(uint64) * *size);
	}
	cursor->late[cursor->nlate++] = xid;
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

	values[0] = FullTransactionIdGetDatum(FullTransactionIdFromU64(from));
	values[1] = FullTransactionIdGetDatum(FullTransactionIdFromU64(to));
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT o.xid FROM " LOG_ROWS " o"
								   " WHERE o.xid OPERATOR(pg_catalog.>=) $1"
								   " AND o.xid OPERATOR(pg_catalog.<) $2"
								   " ORDER BY o.xid LIMIT 1", 2, types),
					 values, NULL, true);
	if (SPI_processed == 0)
		return to;
	return U64FromFullTransactionId(DatumGetFullTransactionId(SPI_getbinval(SPI_tuptable->vals[0],
																			SPI_tuptable->tupdesc,
																			1, &isnull)));
}

/*
 * Find the transactions that were open at "behind" and had ended at "batch".
 */
static void
find_late(OiCursor *cursor)
{
	const OiSnapshot *behind = cursor->behind.snapshot;
	const OiSnapshot *batch = cursor->batch.snapshot;
	int			size = behind->nxip + 8;
	uint64		xid;
	bool		few;

	if (cursor->late != NULL)
		pfree(cursor->late);
	cursor->late = MemoryContextAlloc(cursor->context, sizeof(uint64) * size);
	cursor->nlate = 0;

	for (int i = 0; i < behind->nxip; i++)
		if (oi_snapshot_sees(batch, behind->xip[i]))
			add_late(cursor, behind->xip[i], &size);

	few = cursor->behind.next_xid - behind->xmax <= FEW_XIDS;
	for (xid = behind->xmax; xid < cursor->behind.next_xid; xid++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!few)
			xid = next_writer(xid, cursor->behind.next_xid);
		if (xid < cursor->behind.next_xid && oi_snapshot_sees(batch, xid))
			add_late(cursor, xid, &size);
	}
}

/*
 * An empty batch with room for so many events.
 */
OiBatch *
oi_batch_make(int room, MemoryContext context)
{
	OiBatch    *batch = MemoryContextAllocZero(context, sizeof(OiBatch));

	batch->room = room;
	batch->events = MemoryContextAlloc(context, sizeof(OiSinkEvent) * room);
	batch->info = MemoryContextAlloc(context, sizeof(OiEventInfo) * room);
	return batch;
}

/*
 * Add a row to a batch, in the given context.  False: it is full without it.
 */
bool
oi_batch_add(OiBatch *batch, const OiSubscription *sub, const OiEventRow *row,
			 MemoryContext context)
{
	OiSinkEvent *event = &batch->events[batch->n];
	MemoryContext old;
	int64		bytes;

	if (batch->n == batch->room)
		return false;

	old = MemoryContextSwitchTo(context);
	if (batch->json.data == NULL)
		initStringInfo(&batch->json);
	bytes = oi_event_fill(event, &batch->info[batch->n], row, &batch->json);
	event->topic = oi_topic_expand(sub->topic, event->type, event->key);
	if (event->topic != sub->topic)
		bytes += strlen(event->topic);
	MemoryContextSwitchTo(old);

	if (batch->n > 0 && batch->bytes + bytes > OI_SINK_MAX_BYTES)
		return false;
	batch->bytes += bytes;
	batch->upto = event->position;
	batch->n++;
	return true;
}

/*
 * Take the events out of a batch whose fate was recorded.
 */
void
oi_batch_keep_open(OiBatch *batch)
{
	int			left = 0;

	for (int i = 0; i < batch->n; i++)
	{
		if (batch->info[i].fate != OI_FATE_OPEN)
			continue;
		batch->events[left] = batch->events[i];
		batch->info[left++] = batch->info[i];
	}
	batch->n = left;
	batch->turn = 0;
}

/*
 * Read late rows behind the cursor's progress.  False: there may be more.
 */
static bool
read_late(Reader *reader)
{
	static SPIPlanPtr plan = NULL;
	static const char *const query =
	"SELECT e.* FROM pg_catalog.unnest($1) AS t(xid)"
	" CROSS JOIN LATERAL (SELECT o.* FROM " LOG_ROWS " o"
	" WHERE o.xid OPERATOR(pg_catalog.=) t.xid"
	" AND o.position OPERATOR(pg_catalog.>) $2"
	" AND o.position OPERATOR(pg_catalog.<=) $3"
	" AND ($4 IS NULL OR o.type OPERATOR(pg_catalog.=) ANY ($4))"
	" ORDER BY o.position LIMIT $5) e"
	" ORDER BY e.position LIMIT $5";
	Oid			types[] = {XID8ARRAYOID, INT8OID, INT8OID, TEXTARRAYOID, INT8OID};
	Datum		values[lengthof(types)];
	char		nulls[] = "     ";
	OiCursor   *cursor = reader->cursor;
	Datum	   *xids = palloc(sizeof(Datum) * (cursor->nlate + 1));
	int64		start = OI_INCARNATION_START(OI_INCARNATION(cursor->behind.position));

	for (int i = 0; i < cursor->nlate; i++)
		xids[i] = FullTransactionIdGetDatum(FullTransactionIdFromU64(cursor->late[i]));
	values[0] = PointerGetDatum(construct_array(xids, cursor->nlate, XID8OID,
												sizeof(FullTransactionId),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[1] = Int64GetDatum(Max(cursor->progress, start));
	values[2] = Int64GetDatum(cursor->behind.position);
	values[3] = reader->sub->type_array;
	if (reader->sub->ntypes < 0)
		nulls[3] = 'n';
	values[4] = Int64GetDatum(reader->sub->batch_size);
	oi_drain_execute(oi_drain_plan(&plan, query, lengthof(types), types),
					 values, nulls, true);

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		OiEventRow	row;

		oi_event_row(&row, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		if (!oi_batch_add(reader->batch, reader->sub, &row, reader->context))
			return false;
	}
	return SPI_processed < (uint64) reader->sub->batch_size;
}

/*
 * Does the subscription want events of a type?
 */
static bool
wants_type(const OiSubscription *sub, Datum type)
{
	text	   *value;

	if (sub->ntypes < 0)
		return true;
	value = DatumGetTextPP(type);
	for (int i = 0; i < sub->ntypes; i++)
		if (VARSIZE_ANY_EXHDR(sub->types[i]) == VARSIZE_ANY_EXHDR(value) &&
			memcmp(VARDATA_ANY(sub->types[i]), VARDATA_ANY(value),
				   VARSIZE_ANY_EXHDR(value)) == 0)
			return true;
	return false;
}

/*
 * Is a row one of the batch that the subscription wants?
 */
static bool
wants_row(const Reader *reader, const OiEventRow *row)
{
	Datum		value = row->values[OI_EVENT_XID];
	uint64		xid = U64FromFullTransactionId(DatumGetFullTransactionId(value));

	return (reader->cursor->above || !oi_snapshot_sees(reader->cursor->behind.snapshot, xid)) &&
		oi_snapshot_sees(reader->cursor->batch.snapshot, xid) &&
		wants_type(reader->sub, row->values[OI_EVENT_TYPE]);
}

/*
 * Take the rows that were fetched.  False: the batch is full.  *past is set
 * at the first row that batch cannot see for its position.
 */
static bool
take_rows(Reader *reader, bool *past)
{
	for (uint64 i = 0; i < SPI_processed && !*past; i++)
	{
		OiEventRow	row;
		int64		position;

		oi_event_row(&row, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		position = DatumGetInt64(row.values[OI_EVENT_POSITION]);
		*past = position > reader->cursor->end;
		if (*past)
			break;
		if (wants_row(reader, &row))
		{
			if (!oi_batch_add(reader->batch, reader->sub, &row, reader->context))
				return false;
		}
		else
			reader->cursor->passed++;
		reader->batch->upto = position;
	}
	return true;
}

/*
 * Read the rows above behind's position.
 */
static void
read_rest(Reader *reader)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT8OID};
	Datum		values[1];
	Portal		portal;
	int			scanned = 0;
	bool		past = false;

	values[0] = Int64GetDatum(Max(reader->cursor->progress, reader->cursor->behind.position));
	portal = SPI_cursor_open(NULL,
							 oi_drain_plan(&plan,
										   "SELECT o.* FROM " LOG_ROWS " o"
										   " WHERE o.position OPERATOR(pg_catalog.>) $1"
										   " ORDER BY o.position", 1, types),
							 values, NULL, true);
	while (scanned < SCAN_LIMIT)
	{
		bool		room;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_SIZE);
		scanned += SPI_processed;
		room = take_rows(reader, &past);
		past = past || SPI_processed < FETCH_SIZE;
		SPI_freetuptable(SPI_tuptable);
		if (!room || past)
		{
			reader->batch->exhausted = room;
			break;
		}
	}
	SPI_cursor_close(portal);
}

/*
 * Read the next events of the cursor's batch, as many as fit.
 */
OiBatch *
oi_batch_read(const OiSubscription *sub, OiCursor *cursor, MemoryContext context)
{
	OiBatch    *batch = oi_batch_make(sub->batch_size, context);
	Reader		reader = {sub, cursor, batch, context};

	batch->upto = cursor->progress;
	if (cursor->nlate < 0)
		find_late(cursor);
	if (cursor->nlate == 0 || cursor->progress >= cursor->behind.position ||
		read_late(&reader))
		read_rest(&reader);
	return batch;
}
