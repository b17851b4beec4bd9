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
#include "intent.h"
#include "miscadmin.h"
#include "parking.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* columns that follow those of an event in read_key's query */
enum
{
	ROW_POSITION = 1,
	ROW_STATE = OI_EVENT_MORE + 1,
	ROW_ATTEMPTS,
	ROW_NEXT_AT
};

/* arrays of a query that is run for many events at once */
typedef struct Rows
{
	int			n;
	Datum	   *keys;
	Datum	   *positions;
	Datum	   *ids;
	Datum	   *states;
	Datum	   *attempts;
	Datum	   *next_at;
	bool	   *no_next_at;
	Datum	   *reasons;
	bool	   *no_reason;
} Rows;

/*
 * When a row may be tried, if it is the first of its key.
 */
static TimestampTz
due_time(const char *state, TimestampTz next_at)
{
	if (strcmp(state, "dead") == 0)
		return OI_UNDUE;
	return strcmp(state, "parked") == 0 ? next_at : DT_NOBEGIN;
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
								   "SELECT f.key, f.position, f.state, f.next_at"
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
				due_time(TextDatumGetCString(SPI_getbinval(row, desc, 3, &isnull)),
						 time_column(row, 4)));
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
								   ", l.state, l.attempts, l.next_at"
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
 * The state of a row that fetch_key found, and when it is due.
 */
static TimestampTz
row_due(HeapTuple row)
{
	bool		isnull;
	Datum		state = SPI_getbinval(row, SPI_tuptable->tupdesc, ROW_STATE, &isnull);

	return due_time(TextDatumGetCString(state), time_column(row, ROW_NEXT_AT));
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

		if (row_due(tuple) > now || !add_failed(batch, sub, tuple, context))
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

		oi_held_put(held, key, DatumGetInt64(position), row_due(row));
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
	OiBatch    *batch = oi_batch_make(open->n, context);
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
 * The word for a fate in column state.
 */
static const char *
state_of(OiFate fate)
{
	return fate == OI_FATE_PARKED ? "parked" : fate == OI_FATE_DEAD ? "dead" : "waiting";
}

/*
 * Add an event to the arrays.
 */
static void
add_row(Rows *rows, const OiSinkEvent *event, const OiEventInfo *info)
{
	int			i = rows->n++;

	rows->keys[i] = CStringGetTextDatum(info->key);
	rows->positions[i] = Int64GetDatum(event->position);
	rows->ids[i] = UUIDPGetDatum(&event->event_id);
	rows->states[i] = CStringGetTextDatum(state_of(info->fate));
	rows->attempts[i] = Int32GetDatum(info->attempts);
	rows->next_at[i] = TimestampTzGetDatum(info->next_at);
	rows->no_next_at[i] = info->fate != OI_FATE_PARKED;
	rows->no_reason[i] = info->fate == OI_FATE_WAITING || info->reason == NULL;
	rows->reasons[i] = rows->no_reason[i] ? (Datum) 0 : CStringGetTextDatum(info->reason);
}

/*
 * Arrays of the events of a batch that have one of the fates.
 */
static Rows *
rows_of(const OiBatch *batch, int fates)
{
	Rows	   *rows = palloc0(sizeof(Rows));
	Size		size = sizeof(Datum) * (batch->n + 1);

	rows->keys = palloc(size);
	rows->positions = palloc(size);
	rows->ids = palloc(size);
	rows->states = palloc(size);
	rows->attempts = palloc(size);
	rows->next_at = palloc(size);
	rows->reasons = palloc(size);
	rows->no_next_at = palloc(batch->n + 1);
	rows->no_reason = palloc(batch->n + 1);
	for (int i = 0; i < batch->n; i++)
		if (fates & (1 << batch->info[i].fate))
			add_row(rows, &batch->events[i], &batch->info[i]);
	return rows;
}

/*
 * A one-dimensional array as a value.
 */
static Datum
array_datum(Datum *elems, bool *nulls, int n, Oid type)
{
	int			lower = 1;

	switch (type)
	{
		case TEXTOID:
			return PointerGetDatum(construct_md_array(elems, nulls, 1, &n, &lower,
													  TEXTOID, -1, false, TYPALIGN_INT));
		case UUIDOID:
			return PointerGetDatum(construct_md_array(elems, nulls, 1, &n, &lower,
													  UUIDOID, UUID_LEN, false, TYPALIGN_CHAR));
		case INT4OID:
			return PointerGetDatum(construct_md_array(elems, nulls, 1, &n, &lower,
													  INT4OID, 4, true, TYPALIGN_INT));
		default:
			return PointerGetDatum(construct_md_array(elems, nulls, 1, &n, &lower,
													  type, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	}
}

/* parameters of the queries that insert and update */
static Oid	row_types[] = {INT4OID, TEXTARRAYOID, INT8ARRAYOID, UUIDARRAYOID,
TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID};

#define ROW_ARRAYS \
	" ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)," \
	" pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8))" \
	" AS t(key, position, event_id, state, attempts, next_at, reason)"

#define FAILED_AT \
	"CASE WHEN t.state OPERATOR(pg_catalog.<>) 'waiting' THEN pg_catalog.clock_timestamp() END"

/*
 * Run one of them.  All of the rows have to be there.
 */
static void
run_for_rows(SPIPlanPtr plan, const OiSubscription *sub, const Rows *rows)
{
	Datum		values[lengthof(row_types)];

	values[0] = Int32GetDatum(sub->id);
	values[1] = array_datum(rows->keys, NULL, rows->n, TEXTOID);
	values[2] = array_datum(rows->positions, NULL, rows->n, INT8OID);
	values[3] = array_datum(rows->ids, NULL, rows->n, UUIDOID);
	values[4] = array_datum(rows->states, NULL, rows->n, TEXTOID);
	values[5] = array_datum(rows->attempts, NULL, rows->n, INT4OID);
	values[6] = array_datum(rows->next_at, rows->no_next_at, rows->n, TIMESTAMPTZOID);
	values[7] = array_datum(rows->reasons, rows->no_reason, rows->n, TEXTOID);
	oi_drain_execute(plan, values, NULL, false);
	if (SPI_processed != (uint64) rows->n)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("%d events of subscription \"%s\" failed, and " UINT64_FORMAT " were found",
						rows->n, sub->name, SPI_processed)));
}

/*
 * Copy events of the log that failed, and those behind them.  One that has a row
 * already (it was read again, after a crash or a seek) keeps that.
 */
static void
insert_rows(const OiSubscription *sub, const Rows *rows)
{
	static SPIPlanPtr plan = NULL;

	if (rows->n == 0)
		return;
	run_for_rows(oi_drain_plan(&plan,
							   "INSERT INTO order_idempotency.failed_events AS f"
							   " SELECT $1, l.position, " OI_EVENT_COLUMNS
							   ", t.state, t.attempts, t.next_at, t.reason, " FAILED_AT
							   " FROM" ROW_ARRAYS
							   " JOIN order_idempotency.outbox l"
							   " ON l.position OPERATOR(pg_catalog.=) t.position"
							   " AND l.event_id OPERATOR(pg_catalog.=) t.event_id"
							   " ON CONFLICT (subscription, key, position)"
							   " DO UPDATE SET position = f.position",
							   lengthof(row_types), row_types),
				 sub, rows);
}

/*
 * Note another failure of events that failed before.
 */
static void
update_rows(const OiSubscription *sub, const Rows *rows)
{
	static SPIPlanPtr plan = NULL;

	if (rows->n == 0)
		return;
	run_for_rows(oi_drain_plan(&plan,
							   "UPDATE order_idempotency.failed_events AS f SET"
							   " state = t.state, attempts = t.attempts, next_at = t.next_at,"
							   " reason = t.reason, failed_at = " FAILED_AT
							   " FROM" ROW_ARRAYS
							   " WHERE f.subscription OPERATOR(pg_catalog.=) $1"
							   " AND f.key OPERATOR(pg_catalog.=) t.key"
							   " AND f.position OPERATOR(pg_catalog.=) t.position"
							   " AND f.event_id OPERATOR(pg_catalog.=) t.event_id",
							   lengthof(row_types), row_types),
				 sub, rows);
}

/*
 * Delete what was delivered in the end.
 */
static void
delete_rows(const OiSubscription *sub, const Rows *rows)
{
	static SPIPlanPtr plan = NULL;

	if (rows->n == 0)
		return;
	run_for_rows(oi_drain_plan(&plan,
							   "DELETE FROM order_idempotency.failed_events AS f"
							   " USING" ROW_ARRAYS
							   " WHERE f.subscription OPERATOR(pg_catalog.=) $1"
							   " AND f.key OPERATOR(pg_catalog.=) t.key"
							   " AND f.position OPERATOR(pg_catalog.=) t.position"
							   " AND f.event_id OPERATOR(pg_catalog.=) t.event_id",
							   lengthof(row_types), row_types),
				 sub, rows);
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
						due_time(state_of(info->fate), info->next_at));
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
		delete_rows(sub, rows_of(batch, 1 << OI_FATE_DELIVERED));
		update_rows(sub, rows_of(batch, failed));
		find_heads(sub, batch, held);
	}
	else
	{
		insert_rows(sub, rows_of(batch, failed | 1 << OI_FATE_WAITING));
		hold_keys(sub, batch, held);
	}
}
