/*-------------------------------------------------------------------------
 *
 * parking_write.c
 *		Writing down events that could not be delivered, and what became of
 *		them.
 *
 * All of this runs in transactions of drain.c's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch.h"
#include "catalog/pg_type.h"
#include "clock.h"
#include "parking.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

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
 * The word for a fate in column state.
 */
const char *
oi_parking_state(OiFate fate)
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
	rows->states[i] = CStringGetTextDatum(oi_parking_state(info->fate));
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
TEXTARRAYOID, INT4ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID};

#define ROW_ARRAYS \
	" ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4)," \
	" pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8))" \
	" AS t(key, position, event_id, state, attempts, next_at, reason)"

/* by the clock that next_at comes from, since it tells whether that is to be believed */
#define FAILED_AT \
	"CASE WHEN t.state OPERATOR(pg_catalog.<>) 'waiting' THEN $9 END"

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
	values[8] = TimestampTzGetDatum(oi_now());
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
void
oi_parking_insert(const OiSubscription *sub, const OiBatch *batch, int fates)
{
	static SPIPlanPtr plan = NULL;
	const Rows *rows = rows_of(batch, fates);

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
void
oi_parking_update(const OiSubscription *sub, const OiBatch *batch, int fates)
{
	static SPIPlanPtr plan = NULL;
	const Rows *rows = rows_of(batch, fates);

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
void
oi_parking_delete(const OiSubscription *sub, const OiBatch *batch, int fates)
{
	static SPIPlanPtr plan = NULL;
	const Rows *rows = rows_of(batch, fates);

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
