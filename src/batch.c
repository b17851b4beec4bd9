/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Which rows of the log make a batch.
 *
 * A batch is what one moment sees ("batch") and an earlier one does not
 * ("behind"), in the order of positions.  It has two parts.
 *
 * Late rows have a position up to behind's, in its incarnation of the log.  They
 * are read by the index on (xid, position): see late.c.
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
#include "intent.h"
#include "miscadmin.h"
#include "topic.h"
#include "utils/xid8.h"

/* rows looked at in one transaction, at most; and in one fetch of them */
#define SCAN_LIMIT 20000
#define FETCH_SIZE 250

/* the reading of one batch */
typedef struct Reader
{
	const OiSubscription *sub;
	OiCursor   *cursor;
	OiBatch    *batch;
	MemoryContext context;		/* of the events */
} Reader;

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
 * An empty batch for open events that are read again.  All of them are for it,
 * however large they are by now: by the topic, which may be another one, for example.
 */
OiBatch *
oi_batch_make_again(const OiOpen *open, MemoryContext context)
{
	OiBatch    *batch = oi_batch_make(open->n, context);

	batch->again = true;
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
	{
		if (batch->again)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("more than the %d open events of subscription \"%s\" were found",
							batch->room, sub->name)));
		return false;
	}

	old = MemoryContextSwitchTo(context);
	if (batch->json.data == NULL)
		initStringInfo(&batch->json);
	bytes = oi_event_fill(event, &batch->info[batch->n], row, &batch->json);
	event->topic = oi_topic_expand(sub->topic, event->type, event->key);
	if (event->topic != sub->topic)
		bytes += strlen(event->topic);
	MemoryContextSwitchTo(old);

	if (!batch->again && batch->n > 0 && batch->bytes + bytes > OI_SINK_MAX_BYTES)
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
	if (left < batch->n)
		batch->turn = 0;
	batch->n = left;
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
										   "SELECT o.* FROM " OI_LOG_ROWS " o"
										   " WHERE o.position OPERATOR(pg_catalog.>) $1"
										   " ORDER BY o.position", 1, types),
							 values, NULL, true);
	while (scanned < SCAN_LIMIT)
	{
		bool		room;

		/* one more than there is room for tells that there is more */
		int			most = Min(FETCH_SIZE, reader->batch->room - reader->batch->n + 1);

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, most);
		scanned += SPI_processed;
		room = take_rows(reader, &past);
		past = past || SPI_processed < (uint64) most;
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
 * Read certain events, which were read before, in the order of their positions.  Those
 * that the subscription does not want any more are left out, unless they have a number: what
 * became of them has to be found out.
 */
OiBatch *
oi_batch_read_open(const OiSubscription *sub, const OiOpen *open, MemoryContext context)
{
	static SPIPlanPtr plan = NULL;
	OiBatch    *batch = oi_batch_make_again(open, context);
	Oid			types[] = {INT8ARRAYOID};
	Datum		values[] = {oi_open_positions(open)};

	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT o.* FROM pg_catalog.unnest($1) AS t(position)"
								   " CROSS JOIN LATERAL (SELECT l.* FROM " OI_LOG_ROWS " l"
								   " WHERE l.position OPERATOR(pg_catalog.=) t.position) o",
								   lengthof(types), types),
					 values, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		OiEventRow	row;

		oi_event_row(&row, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		if (wants_type(sub, row.values[OI_EVENT_TYPE]) ||
			oi_open_has_number(open, DatumGetInt64(row.values[OI_EVENT_POSITION])))
			(void) oi_batch_add(batch, sub, &row, context);
	}
	SPI_freetuptable(SPI_tuptable);
	return batch;
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
	if (oi_late_read(sub, cursor, batch, context))
		read_rest(&reader);
	cursor->late_from = batch->upto;
	return batch;
}
