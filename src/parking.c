/*-------------------------------------------------------------------------
 *
 * parking.c
 *		Table failed_events: what could not be delivered, and what waits
 *		behind it.
 *
 * All of this runs in transactions of drain.c's.  What it does to the held
 * keys in memory is right only if the transaction commits; where it does not,
 * the worker ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch.h"
#include "catalog/pg_type.h"
#include "clock.h"
#include "intent.h"
#include "miscadmin.h"
#include "parking.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* columns that follow those of an event in read_key's query */
enum
{
	ROW_POSITION = 1,
	ROW_STATE = OI_EVENT_MORE + 1,
	ROW_ATTEMPTS,
	ROW_NEXT_AT,
	ROW_FAILED_AT
};

/*
 * When an event that has just got its fate may be tried, if it is the first of its key.
 */
static TimestampTz
due_time(OiFate fate, TimestampTz next_at)
{
	if (fate == OI_FATE_DEAD)
		return OI_UNDUE;
	return fate == OI_FATE_PARKED ? next_at : DT_NOBEGIN;
}

/*
 * A time column of a row, or 0.
 */
static TimestampTz
time_column(HeapTuple row, int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, SPI_tuptable->tupdesc, number, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

/*
 * The same of a row, whose columns state, next_at and failed_at are these.  One that
 * failed in the future did so before the clock was set back, and may wait for that
 * future: it is due.  So no row waits for longer than the wait that it was given.
 */
static TimestampTz
row_due(HeapTuple row, int state, int next_at, int failed_at)
{
	bool		isnull;
	Datum		value = SPI_getbinval(row, SPI_tuptable->tupdesc, state, &isnull);
	char	   *word = TextDatumGetCString(value);

	if (strcmp(word, "dead") == 0)
		return OI_UNDUE;
	if (strcmp(word, "parked") != 0 || time_column(row, failed_at) > oi_now())
		return DT_NOBEGIN;
	return time_column(row, next_at);
}

/*
 * The first row of the first key behind *after, as its head; NULL: there is
 * none.  Dead events count only where they hold their keys.
 */
static char *
next_key(const OiSubscription *sub, const char *after, OiHeld *held)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, TEXTOID, BOOLOID};
	Datum		values[lengthof(types)];
	HeapTuple	row;
	TupleDesc	desc;
	bool		isnull;
	char	   *key;

	values[0] = Int32GetDatum(sub->id);
	values[1] = CStringGetTextDatum(after);
	values[2] = BoolGetDatum(sub->hold_dead);
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT f.key, f.position, f.state, f.next_at, f.failed_at"
								   " FROM order_idempotency.failed_events f"
								   " WHERE f.subscription OPERATOR(pg_catalog.=) $1"
								   " AND f.key OPERATOR(pg_catalog.>) $2"
								   " AND ($3 OR f.state OPERATOR(pg_catalog.<>) 'dead')"
								   " ORDER BY f.key, f.position LIMIT 1",
								   lengthof(types), types),
					 values, NULL, true);
	if (SPI_processed == 0)
		return NULL;

	row = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	key = TextDatumGetCString(SPI_getbinval(row, desc, 1, &isnull));
	oi_held_put(held, key, DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull)),
				row_due(row, 3, 4, 5));
	SPI_freetuptable(SPI_tuptable);
	return key;
}

/*
 * Find the keys that are held.
 */
void
oi_parking_load(const OiSubscription *sub, OiHeld *held)
{
	char	   *key = pstrdup("");

	do
	{
		char	   *next = next_key(sub, key, held);

		CHECK_FOR_INTERRUPTS();
		pfree(key);
		key = next;
	} while (key != NULL);
}

/*
 * Run the query for the first rows of a key from its head on.
 */
static void
fetch_key(const OiSubscription *sub, const char *key, int64 head, int most)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID, TEXTOID, INT8OID, BOOLOID, INT8OID};
	Datum		values[lengthof(types)];

	values[0] = Int32GetDatum(sub->id);
	values[1] = CStringGetTextDatum(key);
	values[2] = Int64GetDatum(head);
	values[3] = BoolGetDatum(sub->hold_dead);
	values[4] = Int64GetDatum(most);
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT l.position, NULL::pg_catalog.xid8, " OI_EVENT_COLUMNS
								   ", l.state, l.attempts, l.next_at, l.failed_at"
								   " FROM order_idempotency.failed_events l"
								   " WHERE l.subscription OPERATOR(pg_catalog.=) $1"
								   " AND l.key OPERATOR(pg_catalog.=) $2"
								   " AND l.position OPERATOR(pg_catalog.>=) $3"
								   " AND ($4 OR l.state OPERATOR(pg_catalog.<>) 'dead')"
								   " ORDER BY l.key, l.position LIMIT $5",
								   lengthof(types), types),
					 values, NULL, true);
}

/*
 * When a row that fetch_key found is due.
 */
static TimestampTz
fetched_due(HeapTuple row)
{
	return row_due(row, ROW_STATE, ROW_NEXT_AT, ROW_FAILED_AT);
}

/*
 * Add a row that a query found to a batch.  False: it is full.
 */
static bool
add_failed(OiBatch *batch, const OiSubscription *sub, HeapTuple tuple, MemoryContext context)
{
	OiEventRow	row;

	oi_event_row(&row, tuple, SPI_tuptable->tupdesc);
	if (!oi_batch_add(batch, sub, &row, context))
		return false;
	batch->info[batch->n - 1].attempts = DatumGetInt32(row.values[ROW_ATTEMPTS - 1]);
	return true;
}

/*
 * Add a key's events to a batch, up to the first that is not due.
 */
static void
read_key(OiBatch *batch, const OiSubscription *sub, const OiHeldKey *key,
		 TimestampTz now, int most, MemoryContext context)
{
	fetch_key(sub, key->key, key->head, most);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];

		if (fetched_due(tuple) > now || !add_failed(batch, sub, tuple, context))
			break;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Find a key's head after what was done to its first events, or let go of it.
 */
static void
find_head(const OiSubscription *sub, const char *key, int64 from, OiHeld *held)
{
	bool		isnull;

	fetch_key(sub, key, from, 1);
	if (SPI_processed == 0)
		oi_held_drop(held, key);
	else
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		Datum		position = SPI_getbinval(row, SPI_tuptable->tupdesc, ROW_POSITION, &isnull);

		oi_held_put(held, key, DatumGetInt64(position), fetched_due(row));
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Read what is due: of each key that is, the same share of a batch.  A long
 * backlog of one key is read piece by piece.  A key that turns out not to be
 * due is looked at anew.
 */
OiBatch *
oi_parking_read(const OiSubscription *sub, OiHeld *held, TimestampTz now,
				MemoryContext context)
{
	OiBatch    *batch = oi_batch_make(sub->batch_size, context);
	int			n;
	OiHeldKey **due = oi_held_due(held, now, sub->batch_size, &n);

	batch->failed = true;
	for (int i = 0; i < n && batch->n < batch->room && batch->bytes < OI_SINK_MAX_BYTES; i++)
	{
		int			before = batch->n;

		CHECK_FOR_INTERRUPTS();
		read_key(batch, sub, due[i], now, Max(1, sub->batch_size / n), context);
		if (batch->n == before)
			find_head(sub, pstrdup(due[i]->key), PG_INT64_MIN, held);
	}
	return batch;
}

/*
 * Read certain events that failed, of those that are still there.
 */
OiBatch *
oi_parking_read_open(const OiSubscription *sub, const OiOpen *open, MemoryContext context)
{
	static SPIPlanPtr plan = NULL;
	OiBatch    *batch = oi_batch_make_again(open, context);
	Oid			types[] = {INT4OID, INT8ARRAYOID};
	Datum		values[] = {Int32GetDatum(sub->id), oi_open_positions(open)};

	batch->failed = true;
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT e.* FROM pg_catalog.unnest($2) AS t(position)"
								   " CROSS JOIN LATERAL (SELECT l.position, NULL::pg_catalog.xid8, "
								   OI_EVENT_COLUMNS
								   ", l.state, l.attempts, l.next_at"
								   " FROM order_idempotency.failed_events l"
								   " WHERE l.subscription OPERATOR(pg_catalog.=) $1"
								   " AND l.position OPERATOR(pg_catalog.=) t.position OFFSET 0) e",
								   lengthof(types), types),
					 values, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
		add_failed(batch, sub, SPI_tuptable->vals[i], context);
	SPI_freetuptable(SPI_tuptable);
	return batch;
}

/*
 * Find the heads of all keys of a batch of events that had failed.  Events of
 * a key are beside each other; the first of known fate is its head, or was.
 */
static void
find_heads(const OiSubscription *sub, const OiBatch *batch, OiHeld *held)
{
	for (int i = 0; i < batch->n; i++)
	{
		bool		first = i == 0 || strcmp(batch->info[i].key, batch->info[i - 1].key) != 0;
		int			last = i;

		if (!first || batch->info[i].fate == OI_FATE_OPEN)
			continue;
		while (last + 1 < batch->n && batch->info[last + 1].fate == OI_FATE_DELIVERED &&
			   strcmp(batch->info[last + 1].key, batch->info[i].key) == 0)
			last++;
		find_head(sub, batch->info[i].key,
				  batch->events[last].position + (batch->info[last].fate == OI_FATE_DELIVERED),
				  held);
	}
}

/*
 * Hold the keys of events of the log that failed.
 */
static void
hold_keys(const OiSubscription *sub, const OiBatch *batch, OiHeld *held)
{
	for (int i = 0; i < batch->n; i++)
	{
		const OiEventInfo *info = &batch->info[i];

		if (info->fate == OI_FATE_PARKED || info->fate == OI_FATE_WAITING ||
			(info->fate == OI_FATE_DEAD && sub->hold_dead))
			oi_held_add(held, info->key, batch->events[i].position,
						due_time(info->fate, info->next_at));
	}
}

/*
 * Write down what became of the events of a batch.
 */
void
oi_parking_record(const OiSubscription *sub, const OiBatch *batch, OiHeld *held)
{
	const int	failed = 1 << OI_FATE_PARKED | 1 << OI_FATE_DEAD;

	if (!sub->parks)
		return;
	if (batch->failed)
	{
		oi_parking_delete(sub, batch, 1 << OI_FATE_DELIVERED);
		oi_parking_update(sub, batch, failed);
		find_heads(sub, batch, held);
	}
	else
	{
		oi_parking_insert(sub, batch, failed | 1 << OI_FATE_WAITING);
		hold_keys(sub, batch, held);
	}
}
