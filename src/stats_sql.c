/*-------------------------------------------------------------------------
 *
 * stats_sql.c
 *		SQL functions that read and reset statistics, of this database.
 *
 * Without preloading they return no row, and do nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "stats_shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(oi_claim_counts);
PG_FUNCTION_INFO_V1(oi_delivery_counts);
PG_FUNCTION_INFO_V1(oi_order_counts);
PG_FUNCTION_INFO_V1(oi_reset_stats);
PG_FUNCTION_INFO_V1(oi_retried_keys);
PG_FUNCTION_INFO_V1(oi_retry_counts);

/*
 * Returns one row: n counters, and since when they count.  Who has not counted
 * anything has zeros, since nothing that is known.
 */
static Datum
counters_row(FunctionCallInfo fcinfo, int first, int n)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		totals[OI_STATS_COUNTERS] = {0};
	Datum		values[OI_STATS_COUNTERS + 1];
	bool		nulls[OI_STATS_COUNTERS + 1] = {0};
	OiStatsDatabase *db;

	InitMaterializedSRF(fcinfo, 0);
	if (oi_stats == NULL)
		return (Datum) 0;

	LWLockAcquire(oi_stats->lock, LW_SHARED);
	db = oi_stats_database(MyDatabaseId);
	nulls[n] = db == NULL;
	if (db != NULL)
	{
		oi_stats_totals(db, totals);
		values[n] = TimestampTzGetDatum(db->since);
	}
	LWLockRelease(oi_stats->lock);

	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum((int64) totals[first + i]);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	return (Datum) 0;
}

/* claim_counts(): calls of the functions of claims by outcome. */
Datum
oi_claim_counts(PG_FUNCTION_ARGS)
{
	return counters_row(fcinfo, 0, OI_STATS_ORDERS);
}

/* order_counts(): calls of the functions of orders by outcome. */
Datum
oi_order_counts(PG_FUNCTION_ARGS)
{
	return counters_row(fcinfo, OI_STATS_ORDERS, OI_STATS_COUNTERS - OI_STATS_ORDERS);
}

/* reset_stats(): begins all statistics of this database anew. */
Datum
oi_reset_stats(PG_FUNCTION_ARGS)
{
	OiStatsDatabase *db;

	if (oi_stats != NULL)
	{
		LWLockAcquire(oi_stats->lock, LW_EXCLUSIVE);
		db = oi_stats_database(MyDatabaseId);
		if (db != NULL)
			oi_stats_reset(db);
		oi_stats_reset_readers(MyDatabaseId);
		LWLockRelease(oi_stats->lock);
	}
	PG_RETURN_VOID();
}

/*
 * retry_counts(at timestamptz): firsts and retries, of claims and of orders,
 * in the 1, 5 and 60 minutes before then.
 */
Datum
oi_retry_counts(PG_FUNCTION_ARGS)
{
	static const int minutes[] = {1, 5, 60};
	static const char *const sources[] = {"claims", "orders"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		calls[lengthof(minutes)][OI_STATS_CALLS] = {0};
	OiStatsDatabase *db;

	InitMaterializedSRF(fcinfo, 0);
	if (oi_stats == NULL || PG_ARGISNULL(0))
		return (Datum) 0;

	LWLockAcquire(oi_stats->lock, LW_SHARED);
	db = oi_stats_database(MyDatabaseId);
	for (int i = 0; db && i < (int) lengthof(minutes); i++)
		oi_stats_sum_steps(db, oi_stats_step(PG_GETARG_TIMESTAMPTZ(0)),
						   minutes[i], calls[i]);
	LWLockRelease(oi_stats->lock);

	for (int source = 0; source < (int) lengthof(sources); source++)
		for (int i = 0; i < (int) lengthof(minutes); i++)
		{
			Datum		values[4];
			bool		nulls[4] = {0};

			values[0] = CStringGetTextDatum(sources[source]);
			values[1] = Int32GetDatum(minutes[i]);
			values[2] = Int64GetDatum((int64) calls[i][OI_STATS_CLAIM_FIRST + 2 * source]);
			values[3] = Int64GetDatum((int64) calls[i][OI_STATS_CLAIM_RETRY + 2 * source]);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	return (Datum) 0;
}

/* One retried key as a row. */
static void
put_key(ReturnSetInfo *rsinfo, const OiStatsKeyCount *count)
{
	const OiStatsKey *key = &count->key;
	const char *name = key->text +key->scope_len;
	Datum		values[6];
	bool		nulls[6] = {0};

	nulls[1] = key->order;
	values[0] = CStringGetTextDatum(key->order ? "orders" : "claims");
	values[1] = PointerGetDatum(cstring_to_text_with_len(key->text, key->scope_len));
	values[2] = key->hashed ?
		CStringGetTextDatum(psprintf("sha256:%.*s", key->key_len, name)) :
		PointerGetDatum(cstring_to_text_with_len(name, key->key_len));
	values[3] = Int64GetDatum((int64) count->retries);
	values[4] = Int64GetDatum((int64) count->over);
	values[5] = TimestampTzGetDatum(key->last_at);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * retried_keys(at timestamptz): the most retried keys of the hour that this
 * is in and of the one before, as far as setting hot_keys lets them be seen.
 */
Datum
oi_retried_keys(PG_FUNCTION_ARGS)
{
	OiStatsKeyCount *found = palloc(sizeof(OiStatsKeyCount) * 2 * OI_STATS_KEYS);
	OiStatsDatabase *db;
	int			n = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (oi_stats == NULL || PG_ARGISNULL(0) || oi_hot_keys == OI_HOT_KEYS_OFF)
		return (Datum) 0;

	LWLockAcquire(oi_stats->lock, LW_SHARED);
	db = oi_stats_database(MyDatabaseId);
	if (db != NULL)
		n = oi_stats_keys(db, PG_GETARG_TIMESTAMPTZ(0), found);
	LWLockRelease(oi_stats->lock);

	for (int i = 0; i < n; i++)
		if (found[i].key.hashed == (oi_hot_keys == OI_HOT_KEYS_HASH))
			put_key((ReturnSetInfo *) fcinfo->resultinfo, &found[i]);
	return (Datum) 0;
}

/* The histogram of latencies: its bounds in seconds, and how many up to each. */
static void
histogram(const uint64 *numbers, Datum *bounds, Datum *counts)
{
	Datum		seconds[OI_STATS_BOUNDS];
	Datum		upto[OI_STATS_BOUNDS];
	int64		sum = 0;

	for (int i = 0; i < OI_STATS_BOUNDS; i++)
	{
		sum += numbers[OI_STATS_BY_LATENCY + i];
		seconds[i] = Float8GetDatum((double) oi_stats_bounds[i] / USECS_PER_SEC);
		upto[i] = Int64GetDatum(sum);
	}
	*bounds = PointerGetDatum(construct_array(seconds, OI_STATS_BOUNDS, FLOAT8OID,
											  sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	*counts = PointerGetDatum(construct_array(upto, OI_STATS_BOUNDS, INT8OID,
											  sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* One subscription as a row.  The lock is held. */
static void
put_reader(ReturnSetInfo *rsinfo, OiStatsReader *reader, int64 step)
{
	static const int minutes[] = {1, 5, 60};
	uint64		numbers[OI_STATS_NUMBERS];
	Datum		values[14];
	bool		nulls[14] = {0};
	int			n = 0;

	for (int i = 0; i < OI_STATS_NUMBERS; i++)
		numbers[i] = pg_atomic_read_u64(&reader->numbers[i]) - reader->before[i];
	values[n++] = Int32GetDatum(reader->subscription);
	values[n++] = Int64GetDatum((int64) numbers[OI_STATS_BY_OUTCOME + OI_SINK_DELIVERED]);
	values[n++] = Int64GetDatum((int64) numbers[OI_STATS_BY_OUTCOME + OI_SINK_RETRY]);
	values[n++] = Int64GetDatum((int64) numbers[OI_STATS_BY_OUTCOME + OI_SINK_REJECTED]);
	for (int i = 0; i < (int) lengthof(minutes); i++)
		values[n++] = Int64GetDatum((int64) oi_stats_sum_deliveries(reader, step, minutes[i], true));
	for (int i = 0; i < (int) lengthof(minutes); i++)
		values[n++] = Int64GetDatum((int64) oi_stats_sum_deliveries(reader, step, minutes[i], false));
	histogram(numbers, &values[n], &values[n + 1]);
	n += 2;
	values[n++] = Float8GetDatum((double) numbers[OI_STATS_LATENCY] / USECS_PER_SEC);
	values[n++] = TimestampTzGetDatum(reader->since);
	Assert(n == lengthof(values));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * delivery_counts(at timestamptz): what was delivered for each subscription,
 * with the 1, 5 and 60 minutes before then.
 */
Datum
oi_delivery_counts(PG_FUNCTION_ARGS)
{
	InitMaterializedSRF(fcinfo, 0);
	if (oi_stats == NULL || PG_ARGISNULL(0))
		return (Datum) 0;

	LWLockAcquire(oi_stats->lock, LW_SHARED);
	for (int i = 0; i < oi_stats->nreaders; i++)
		if (oi_stats->readers[i].dboid == MyDatabaseId)
			put_reader((ReturnSetInfo *) fcinfo->resultinfo, &oi_stats->readers[i],
					   oi_stats_step(PG_GETARG_TIMESTAMPTZ(0)));
	LWLockRelease(oi_stats->lock);
	return (Datum) 0;
}
