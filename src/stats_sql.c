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

#include "funcapi.h"
#include "miscadmin.h"
#include "stats_shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(oi_claim_counts);
PG_FUNCTION_INFO_V1(oi_order_counts);
PG_FUNCTION_INFO_V1(oi_reset_stats);

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
		LWLockRelease(oi_stats->lock);
	}
	PG_RETURN_VOID();
}
