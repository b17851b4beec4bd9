/*-------------------------------------------------------------------------
 *
 * intent.c
 *		Deliveries that are recorded before they are made.
 *
 * A receiver that refuses repeats does so by number, so a delivery that is made
 * again has to have the same events under the same numbers.  See src/README,
 * "Numbered deliveries".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "intent.h"
#include "log_hold.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* milliseconds from the Unix epoch to PostgreSQL's */
#define EPOCH_OFFSET_MS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000)

/*
 * Note the open events of a batch (NULL: there is none).  Of events that had
 * failed only those that have a number: all are in their table anyway.
 */
void
oi_open_note(OiOpen *open, const OiBatch *batch, MemoryContext context)
{
	int			n = 0;

	if (open->pairs != NULL)
		pfree(open->pairs);
	open->pairs = NULL;
	open->n = 0;
	if (batch == NULL)
		return;

	open->pairs = MemoryContextAlloc(context, sizeof(int64) * 2 * (batch->n + 1));
	for (int i = 0; i < batch->n; i++)
	{
		if (batch->info[i].fate != OI_FATE_OPEN ||
			(batch->failed && batch->info[i].index == OI_NO_INDEX))
			continue;
		open->pairs[2 * n] = batch->events[i].position;
		open->pairs[2 * n + 1] = batch->info[i].index;
		n++;
	}
	open->n = n;
}

/*
 * Every so many numbers of an array, as one of the server's.
 */
static Datum
int8_array(const int64 *numbers, int n, int step)
{
	Datum	   *elems = palloc(sizeof(Datum) * (n + 1));

	for (int i = 0; i < n; i++)
		elems[i] = Int64GetDatum(numbers[i * step]);
	return PointerGetDatum(construct_array(elems, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Does an event follow a run of others, in the log and in the delivery?
 */
static bool
continues(const int64 *run, int64 count, const int64 *pair)
{
	return pair[0] == run[0] + count &&
		pair[1] == (run[1] == OI_NO_INDEX ? OI_NO_INDEX : run[1] + count);
}

/*
 * Open events as the value of a column, all of them or those with a number; 0 for
 * null, if there are none.  Events that follow each other are one pair, with how many
 * others there are in the upper half of the second number: thousands of pairs would have to
 * be compressed, and written to a table of their own, twice for each delivery.
 */
Datum
oi_open_to_datum(const OiOpen *open, bool numbered_only)
{
	int64	   *pairs = palloc(sizeof(int64) * 2 * (open->n + 1));
	int64	   *runs = palloc(sizeof(int64) * 2 * (open->n + 1));
	int			n = 0;
	int			nruns = 0;

	for (int i = 0; i < open->n; i++)
	{
		if (numbered_only && open->pairs[2 * i + 1] == OI_NO_INDEX)
			continue;
		pairs[2 * n] = open->pairs[2 * i];
		pairs[2 * n + 1] = open->pairs[2 * i + 1];
		n++;
	}
	for (int i = 0, next; i < n; i = next)
	{
		for (next = i + 1; next < n && continues(&pairs[2 * i], next - i, &pairs[2 * next]); next++)
			;
		runs[2 * nruns] = pairs[2 * i];
		runs[2 * nruns + 1] = pairs[2 * i + 1] + ((int64) (next - i - 1) << OI_OPEN_SHIFT);
		nruns++;
	}
	return nruns == 0 ? (Datum) 0 : int8_array(runs, 2 * nruns, 1);
}

/*
 * How many events there are in a run besides the first, by its second number, which
 * is -1 at least.
 */
static int64
others_of(int64 second)
{
	return (second + 1) >> OI_OPEN_SHIFT;
}

/*
 * The same back; from 0, none.
 */
void
oi_open_from_datum(OiOpen *open, Datum value, MemoryContext context)
{
	Datum	   *elems;
	int64		most = 0;
	int			n;

	if (open->pairs != NULL)
		pfree(open->pairs);
	open->pairs = NULL;
	open->n = 0;
	if (value == 0)
		return;

	deconstruct_array(DatumGetArrayTypeP(value), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &elems, NULL, &n);
	for (int i = 0; i + 1 < n; i += 2)
		most += 1 + others_of(DatumGetInt64(elems[i + 1]));
	open->pairs = MemoryContextAlloc(context, sizeof(int64) * 2 * (most + 1));
	for (int i = 0; i + 1 < n; i += 2)
	{
		int64		second = DatumGetInt64(elems[i + 1]);
		int64		others = others_of(second);
		int64		index = second - (others << OI_OPEN_SHIFT);

		for (int64 k = 0; k <= others; k++, open->n++)
		{
			open->pairs[2 * open->n] = DatumGetInt64(elems[i]) + k;
			open->pairs[2 * open->n + 1] = index == OI_NO_INDEX ? OI_NO_INDEX : index + k;
		}
	}
}

/*
 * The positions of open events.
 */
Datum
oi_open_positions(const OiOpen *open)
{
	return int8_array(open->pairs, open->n, 2);
}

/*
 * Has an open event a number?
 */
bool
oi_open_has_number(const OiOpen *open, int64 position)
{
	for (int i = 0; i < open->n; i++)
		if (open->pairs[2 * i] == position)
			return open->pairs[2 * i + 1] != OI_NO_INDEX;
	return false;
}

/*
 * Take their numbers away from open events.
 */
void
oi_open_withdraw(OiOpen *open)
{
	for (int i = 0; i < open->n; i++)
		open->pairs[2 * i + 1] = OI_NO_INDEX;
}

/* an event that was read anew, with its info */
typedef struct Pair
{
	OiSinkEvent event;
	OiEventInfo info;
} Pair;

/*
 * By index in the delivery.
 */
static int
compare_indexes(const void *a, const void *b)
{
	return ((const Pair *) a)->info.index - ((const Pair *) b)->info.index;
}

/*
 * By position, the first of a pair.
 */
static int
compare_positions(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return left < right ? -1 : left > right;
}

/*
 * Give the events of a batch that was read anew the indexes that they have.  Those of the
 * log are in the order of both; others are put into that of their indexes.
 */
void
oi_open_apply(const OiOpen *open, OiBatch *batch)
{
	Size		size = sizeof(int64) * 2;
	int64	   *sorted = palloc(size * (open->n + 1));
	Pair	   *pairs = palloc(sizeof(Pair) * (batch->n + 1));

	memcpy(sorted, open->pairs, size * open->n);
	qsort(sorted, open->n, size, compare_positions);
	for (int i = 0; i < batch->n; i++)
	{
		int64	   *found = bsearch(&batch->events[i].position, sorted, open->n, size,
									compare_positions);

		if (found != NULL)
			batch->info[i].index = (int) found[1];
		pairs[i].event = batch->events[i];
		pairs[i].info = batch->info[i];
	}
	if (batch->failed)
		qsort(pairs, batch->n, sizeof(Pair), compare_indexes);
	for (int i = 0; i < batch->n; i++)
	{
		batch->events[i] = pairs[i].event;
		batch->info[i] = pairs[i].info;
	}
	pfree(pairs);
	pfree(sorted);
}

/*
 * Has a batch events of a delivery that is not known to be done?
 */
bool
oi_intent_has(const OiBatch *batch)
{
	for (int i = 0; i < batch->n; i++)
		if (batch->info[i].fate == OI_FATE_OPEN && batch->info[i].index != OI_NO_INDEX)
			return true;
	return false;
}

/*
 * A delivery was judged.  Is it known of each of its events what became of it, where they
 * are numbered?  Then the receiver has to have the delivery, from now on.
 */
void
oi_intent_note_settled(OiCursor *cursor, const OiBatch *batch)
{
	if (cursor->numbered && !oi_intent_has(batch))
		cursor->settled = cursor->token.number;
}

/*
 * Give a delivery a number that is higher than all before, and its events their
 * indexes.
 */
void
oi_intent_make(OiCursor *cursor, OiBatch *batch, const OiDelivery *delivery)
{
	int64		now = GetCurrentTimestamp() / 1000 + EPOCH_OFFSET_MS;

	cursor->token.number = Max(cursor->token.number + 1, now);
	cursor->token.timeline = GetWALInsertionTimeLine();
	cursor->repeated = false;
	for (int i = 0; i < delivery->n; i++)
		batch->info[delivery->which[i]].index = i;
}

/*
 * Take the number away from all events of a batch.
 */
void
oi_intent_withdraw(OiBatch *batch)
{
	for (int i = 0; i < batch->n; i++)
		batch->info[i].index = OI_NO_INDEX;
}

/*
 * What to hand to the sink: the events that have a number.
 */
OiDelivery *
oi_intent_choose(const OiBatch *batch)
{
	OiDelivery *delivery = palloc0(sizeof(OiDelivery));

	delivery->events = palloc(sizeof(OiSinkEvent) * (batch->n + 1));
	delivery->which = palloc(sizeof(int) * (batch->n + 1));
	for (int i = 0; i < batch->n; i++)
	{
		if (batch->info[i].fate != OI_FATE_OPEN || batch->info[i].index == OI_NO_INDEX)
			continue;
		delivery->events[delivery->n] = batch->events[i];
		delivery->events[delivery->n].index = batch->info[i].index;
		delivery->which[delivery->n++] = i;
	}
	return delivery;
}

/*
 * Compare what a sink that was just started says of its receiver.  A number that
 * is higher, or the same of another timeline, is of a delivery that a failover lost
 * here.
 */
OiReceiver
oi_intent_compare(const OiCursor *cursor, const OiSinkState *state)
{
	if (!state->numbered || !state->knows_receiver ||
		state->receiver.number < cursor->token.number)
		return OI_RECEIVER_SILENT;
	if (state->receiver.number == cursor->token.number &&
		state->receiver.timeline == cursor->token.timeline)
		return OI_RECEIVER_HAS_IT;
	return OI_RECEIVER_AHEAD;
}
