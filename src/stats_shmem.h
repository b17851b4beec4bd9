/*-------------------------------------------------------------------------
 *
 * stats_shmem.h
 *		Statistics in shared memory.  See stats.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_STATS_SHMEM_H
#define OI_STATS_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

/* of how many databases something is kept; the least recently used gives way */
#define OI_STATS_DATABASES 32

/* rates are counted in steps of ten seconds, for an hour and the current one */
#define OI_STATS_STEP (10 * USECS_PER_SEC)
#define OI_STATS_MINUTE 6		/* steps */
#define OI_STATS_STEPS (60 * OI_STATS_MINUTE + 1)

/* claims by outcome, then orders by outcome */
typedef enum OiStatsCounter
{
	OI_STATS_CLAIMED,
	OI_STATS_TAKEN_OVER,		/* of the claimed, those after an attempt */
	OI_STATS_CLAIM_REPLAYED,
	OI_STATS_CLAIM_IN_PROGRESS,
	OI_STATS_CLAIM_MISMATCH,
	OI_STATS_COMPLETED,
	OI_STATS_COMPLETED_AGAIN,
	OI_STATS_EXTENDED,
	OI_STATS_RELEASED,
	OI_STATS_STALE,
	OI_STATS_UNKNOWN,
	OI_STATS_ORDERS,			/* the first of as many as OiOutcome has */
	OI_STATS_COUNTERS = OI_STATS_ORDERS + 11
} OiStatsCounter;

/* calls by what rates are made of; OI_STATS_NO_CALL is neither */
typedef enum OiStatsCall
{
	OI_STATS_CLAIM_FIRST,
	OI_STATS_CLAIM_RETRY,
	OI_STATS_ORDER_FIRST,
	OI_STATS_ORDER_RETRY,
	OI_STATS_CALLS,
	OI_STATS_NO_CALL
} OiStatsCall;

/*
 * What one process has counted and not yet added to its database.  Only that
 * process writes to it; who reads may be late by a call.
 */
typedef struct OiStatsSession
{
	Oid			dboid;			/* InvalidOid: nobody's */
	int			database;		/* where its database is */
	uint32		epoch;			/* of the database, when step began */
	int64		step;			/* that calls are counted in */
	pg_atomic_uint64 calls[OI_STATS_CALLS];
	pg_atomic_uint64 counters[OI_STATS_COUNTERS];
} OiStatsSession;

/* the calls of ten seconds */
typedef struct OiStatsStep
{
	int64		step;
	uint32		calls[OI_STATS_CALLS];
} OiStatsStep;

/* One database.  Under the lock. */
typedef struct OiStatsDatabase
{
	Oid			dboid;			/* InvalidOid: free */
	int			sessions;		/* that count for it */
	uint32		epoch;			/* how often it was reset */
	TimestampTz since;			/* when it was, or began */
	TimestampTz used_at;		/* when a session came or went */
	uint64		counters[OI_STATS_COUNTERS];
	OiStatsStep steps[OI_STATS_STEPS];	/* step n is at n % OI_STATS_STEPS */
} OiStatsDatabase;

typedef struct OiStats
{
	LWLock	   *lock;
	int			nsessions;
	OiStatsDatabase databases[OI_STATS_DATABASES];
	OiStatsSession sessions[FLEXIBLE_ARRAY_MEMBER];
} OiStats;

extern OiStats *oi_stats;		/* NULL where the library is not preloaded */

/* stats.c */
extern int64 oi_stats_step(TimestampTz at);
extern OiStatsDatabase *oi_stats_database(Oid dboid);
extern void oi_stats_totals(const OiStatsDatabase *db, uint64 *totals);
extern void oi_stats_sum_steps(const OiStatsDatabase *db, int64 step, int minutes,
							   uint64 *calls);
extern void oi_stats_reset(OiStatsDatabase *db);
extern void oi_stats_settle_sessions(void);

/* stats_file.c */
extern void oi_stats_load(void);
extern void oi_stats_save(void);

#endif							/* OI_STATS_SHMEM_H */
