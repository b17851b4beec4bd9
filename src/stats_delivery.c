/*-------------------------------------------------------------------------
 *
 * stats_delivery.c
 *		Statistics of deliveries: by subscription, in shared memory.
 *
 * A subscription has one worker, and that alone writes to its numbers, so
 * they take no lock.  To reset them is to remember what they were.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "stats_delivery.h"
#include "stats_shmem.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

/* in microseconds, for the histogram of latencies */
const int64 oi_stats_bounds[OI_STATS_BOUNDS] = {
	1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000,
	INT64CONST(1000000), INT64CONST(2500000), INT64CONST(5000000), INT64CONST(10000000),
	INT64CONST(60000000), INT64CONST(600000000)
};

/* of the subscription that this process serves */
static OiStatsReader *my_reader = NULL;

/*
 * What is kept of a subscription, made if there is none, in the place of the
 * one that was served the longest ago.  NULL: all are served.  The lock is held.
 */
static OiStatsReader *
make_reader(int32 subscription)
{
	OiStatsReader *reader = NULL;

	for (int i = 0; i < oi_stats->nreaders; i++)
	{
		OiStatsReader *other = &oi_stats->readers[i];

		if (other->dboid == MyDatabaseId && other->subscription == subscription)
			return other;
		if (!other->served && (reader == NULL || other->used_at < reader->used_at))
			reader = other;
	}
	if (reader != NULL)
	{
		memset(reader, 0, sizeof(OiStatsReader));
		reader->dboid = MyDatabaseId;
		reader->subscription = subscription;
		reader->since = GetCurrentTimestamp();
	}
	return reader;
}

/* before_shmem_exit callback of a worker. */
static void
leave(int code, Datum arg)
{
	LWLockAcquire(oi_stats->lock, LW_EXCLUSIVE);
	my_reader->served = false;
	my_reader->used_at = GetCurrentTimestamp();
	LWLockRelease(oi_stats->lock);
	my_reader = NULL;
}

/* This process delivers for a subscription, from now to its end. */
void
oi_stats_serve(int32 subscription)
{
	OiStatsReader *reader;

	if (oi_stats == NULL || my_reader != NULL)
		return;

	LWLockAcquire(oi_stats->lock, LW_EXCLUSIVE);
	reader = make_reader(subscription);
	if (reader != NULL)
		reader->served = true;
	LWLockRelease(oi_stats->lock);

	if (reader == NULL)
		return;
	my_reader = reader;
	before_shmem_exit(leave, (Datum) 0);
}

/* So many more; nobody else writes there. */
static inline void
add(pg_atomic_uint64 *number, uint64 n)
{
	pg_atomic_write_u64(number, pg_atomic_read_u64(number) + n);
}

/* So many more in this step. */
static void
add_to_step(int64 step, bool delivered, uint32 n)
{
	pg_atomic_uint64 *number = &my_reader->steps[step % OI_STATS_STEPS][!delivered];
	uint64		old = pg_atomic_read_u64(number);

	if (n > 0)
		pg_atomic_write_u64(number, ((int64) (old >> 32) == step ? old : (uint64) step << 32) + n);
}

/* An event took so many microseconds to be delivered. */
static void
add_latency(int64 latency)
{
	int			i = 0;

	latency = Max(latency, 0);
	while (i < OI_STATS_BOUNDS && latency > oi_stats_bounds[i])
		i++;
	add(&my_reader->numbers[OI_STATS_BY_LATENCY + i], 1);
	add(&my_reader->numbers[OI_STATS_LATENCY], latency);
}

/*
 * The sink has said what became of these events, or failed as a whole.  One
 * without a reason that is to be sent again was not tried.
 */
void
oi_stats_note_delivery(const OiSinkEvent *events, int n, bool failed)
{
	TimestampTz now = GetCurrentTimestamp();
	uint32		counts[OI_SINK_REJECTED + 1] = {0};

	if (my_reader == NULL)
		return;
	for (int i = 0; i < n; i++)
	{
		OiSinkOutcome outcome = failed ? OI_SINK_RETRY : events[i].outcome;

		if (outcome == OI_SINK_DELIVERED)
			add_latency(now - events[i].created_at);
		if (failed || outcome != OI_SINK_RETRY || events[i].reason != NULL)
			counts[outcome]++;
	}
	for (int i = 0; i <= OI_SINK_REJECTED; i++)
		add(&my_reader->numbers[OI_STATS_BY_OUTCOME + i], counts[i]);
	add_to_step(oi_stats_step(now), true, counts[OI_SINK_DELIVERED]);
	add_to_step(oi_stats_step(now), false, counts[OI_SINK_RETRY] + counts[OI_SINK_REJECTED]);
}

/* The deliveries of that many minutes, of which "step" is the last step. */
uint64
oi_stats_sum_deliveries(OiStatsReader *reader, int64 step, int minutes,
						bool delivered)
{
	int64		before = Max(step - minutes * OI_STATS_MINUTE, reader->floor);
	uint64		sum = 0;

	for (int i = 0; i < OI_STATS_STEPS; i++)
	{
		uint64		number = pg_atomic_read_u64(&reader->steps[i][!delivered]);

		if ((int64) (number >> 32) > before && (int64) (number >> 32) <= step)
			sum += number & PG_UINT32_MAX;
	}
	return sum;
}

/* Begin anew for the subscriptions of a database.  The lock is held. */
void
oi_stats_reset_readers(Oid dboid)
{
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < oi_stats->nreaders; i++)
	{
		OiStatsReader *reader = &oi_stats->readers[i];

		if (reader->dboid != dboid)
			continue;
		for (int j = 0; j < OI_STATS_NUMBERS; j++)
			reader->before[j] = pg_atomic_read_u64(&reader->numbers[j]);
		reader->floor = oi_stats_step(now);
		reader->since = now;
	}
}
