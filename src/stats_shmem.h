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

#include "args.h"
#include "order_sink.h"

/* of how many databases something is kept; the least recently used gives way */
#define OI_STATS_DATABASES 32

/* rates are counted in steps of ten seconds, for an hour and the current one */
#define OI_STATS_STEP (10 * USECS_PER_SEC)
#define OI_STATS_MINUTE 6		/* steps */
#define OI_STATS_STEPS (60 * OI_STATS_MINUTE + 1)

/* how many retried keys are kept of an hour; a scope may be cut */
#define OI_STATS_KEYS 64
#define OI_STATS_SCOPE_LEN 63

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

/* a retried key; the text is scope, key */
typedef struct OiStatsKey
{
	bool		order;			/* of an order, not a claim */
	bool		hashed;			/* the key is a hash in hexadecimal */
	uint8		scope_len;
	uint8		key_len;
	TimestampTz last_at;
	char text[	OI_STATS_SCOPE_LEN + OI_MAX_KEY];
} OiStatsKey;

/* The most retried keys of an hour.  See stats_keys.c. */
typedef struct OiStatsKeys
{
	int64		hour;
	int			n;
	uint32		least;			/* no key has fewer retries */
	int			next;			/* keys before it have more */
	uint8		heads[OI_STATS_KEYS];	/* chains of places, by hash */
	uint8		links[OI_STATS_KEYS];
	uint64		hashes[OI_STATS_KEYS];
	uint32		retries[OI_STATS_KEYS];
	uint32		over[OI_STATS_KEYS];	/* of these, what may be others' */
	OiStatsKey	keys[OI_STATS_KEYS];
} OiStatsKeys;

/* One database.  Under the lock, but for hours, which has one of its own. */
typedef struct OiStatsDatabase
{
	Oid			dboid;			/* InvalidOid: free */
	int			sessions;		/* that count for it */
	uint32		epoch;			/* how often it was reset */
	TimestampTz since;			/* when it was, or began */
	TimestampTz used_at;		/* when a session came or went */
	uint64		counters[OI_STATS_COUNTERS];
	OiStatsStep steps[OI_STATS_STEPS];	/* step n is at n % OI_STATS_STEPS */
	OiStatsKeys hours[2];		/* hour n is at n & 1 */
} OiStatsDatabase;

/* a key, and what was counted of it */
typedef struct OiStatsKeyCount
{
	OiStatsKey	key;
	uint64		hash;
	uint64		retries;
	uint64		over;
} OiStatsKeyCount;

/* a call whose key was known already */
typedef struct OiStatsDuplicate
{
	const char *function;
	const char *outcome;
	const text *scope;			/* NULL: an order */
	const text *key;
} OiStatsDuplicate;

/*
 * What was counted of a subscription: deliveries by outcome, microseconds from
 * an event to its delivery, and how many deliveries took no longer than each of
 * oi_stats_bounds; the last place is for all others.
 */
#define OI_STATS_BOUNDS 15

enum
{
	OI_STATS_BY_OUTCOME,
	OI_STATS_LATENCY = OI_STATS_BY_OUTCOME + OI_SINK_REJECTED + 1,
	OI_STATS_BY_LATENCY,
	OI_STATS_NUMBERS = OI_STATS_BY_LATENCY + OI_STATS_BOUNDS + 1
};

/*
 * One subscription.  The numbers and the steps are written to by its worker
 * only, without a lock; the rest is under the lock.
 */
typedef struct OiStatsReader
{
	Oid			dboid;			/* InvalidOid: free */
	int32		subscription;
	bool		served;			/* a worker counts here */
	TimestampTz since;
	TimestampTz used_at;
	int64		floor;			/* a reset was in this step */
	uint64		before[OI_STATS_NUMBERS];	/* and there were so many */
	pg_atomic_uint64 numbers[OI_STATS_NUMBERS];
	/* step in the upper half, and how many; 0: delivered, 1: not */
	pg_atomic_uint64 steps[OI_STATS_STEPS][2];
} OiStatsReader;

/* how many lines were logged in the current second, and not logged since */
typedef struct OiStatsLimit
{
	pg_atomic_uint64 lines;		/* the second, and how many */
	pg_atomic_uint32 suppressed;
} OiStatsLimit;

typedef struct OiStats
{
	LWLock	   *lock;
	LWLockPadded *key_locks;	/* one a database */
	OiStatsLimit limit;
	int			nreaders;
	OiStatsReader *readers;
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
extern OiStatsDatabase *oi_stats_my_database(void);

/* stats_delivery.c */
extern const int64 oi_stats_bounds[OI_STATS_BOUNDS];
extern void oi_stats_reset_readers(Oid dboid);
extern uint64 oi_stats_sum_deliveries(OiStatsReader *reader, int64 step,
									  int minutes, bool delivered);

/* stats_keys.c */
/* a hash in hexadecimal, with its end */
#define OI_STATS_HEX_LEN 33

extern void oi_stats_hash_key(const text *key, char *hex);
extern LWLock *oi_stats_key_lock(const OiStatsDatabase *db);
extern void oi_stats_note_key(const OiStatsDuplicate *duplicate);
extern int	oi_stats_keys(OiStatsDatabase *db, TimestampTz at, OiStatsKeyCount *found);

/* stats_log.c */
extern void oi_stats_limit_init(OiStatsLimit *limit);
extern void oi_stats_log(const OiStatsDuplicate *duplicate);

/* stats_file.c */
extern void oi_stats_load(void);
extern void oi_stats_save(void);

#endif							/* OI_STATS_SHMEM_H */
