/*-------------------------------------------------------------------------
 *
 * stats.c
 *		Statistics of calls: counted in shared memory, by database.
 *
 * A call counts when it is answered, whatever becomes of its transaction: a
 * retry is a retry even if it is rolled back, and a call that raises the
 * error of its outcome (a mismatch) would never count otherwise.  How many
 * orders there are is for the tables to say.
 *
 * Each process counts in a place of its own, so a call costs a few stores
 * and takes no lock.  What the place has is added to the database's numbers
 * when the process ends; readers add up both.  Calls of the last ten seconds
 * go on the same way, when the process counts again after the ten seconds
 * are over.  The time is that of the statement, which costs nothing to know.
 *
 * To reset a database cannot set other processes' places to zero, so it
 * subtracts from the database's counters what those have (numbers without
 * sign may go below zero and come back), and its epoch tells the processes
 * to forget the calls of the current step.
 *
 * Locks: a database's lock for keys may be taken with the lock of all held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "guc.h"
#include "miscadmin.h"
#include "stats.h"
#include "stats_shmem.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#define TRANCHE "order_idempotency_stats"

OiStats    *oi_stats = NULL;

/* this process's place; the step in which there was none to be had */
static OiStatsSession *my_session = NULL;
static int64 refused_step = -1;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* The size of the shared structure without what is behind the sessions. */
static Size
sessions_size(void)
{
	return MAXALIGN(add_size(offsetof(OiStats, sessions),
							 mul_size(sizeof(OiStatsSession), MaxBackends)));
}

/* The size of the shared structure. */
static Size
stats_size(void)
{
	return add_size(sessions_size(), mul_size(sizeof(OiStatsReader), oi_max_subscriptions));
}

/* Hook: ask for the memory and the lock. */
static void
stats_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();

	RequestAddinShmemSpace(stats_size());
	RequestNamedLWLockTranche(TRANCHE, 1 + OI_STATS_DATABASES);
}

/* The postmaster ends, after all its children, or begins anew after a crash. */
static void
stats_shutdown(int code, Datum arg)
{
	if (code == 0)
		oi_stats_save();
}

/* Nobody's place, with nothing counted. */
static void
clear_session(OiStatsSession *session)
{
	session->dboid = InvalidOid;
	for (int i = 0; i < OI_STATS_CALLS; i++)
		pg_atomic_init_u64(&session->calls[i], 0);
	for (int i = 0; i < OI_STATS_COUNTERS; i++)
		pg_atomic_init_u64(&session->counters[i], 0);
}

/* Hook: find or initialise the structure, with what the last server left. */
static void
stats_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	oi_stats = ShmemInitStruct("order_idempotency statistics", stats_size(), &found);
	if (!found)
	{
		memset(oi_stats, 0, stats_size());
		oi_stats->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
		oi_stats->key_locks = GetNamedLWLockTranche(TRANCHE) + 1;
		oi_stats_limit_init(&oi_stats->limit);
		oi_stats->nreaders = oi_max_subscriptions;
		oi_stats->readers = (OiStatsReader *) ((char *) oi_stats + sessions_size());
		oi_stats->nsessions = MaxBackends;
		for (int i = 0; i < oi_stats->nsessions; i++)
			clear_session(&oi_stats->sessions[i]);
	}
	LWLockRelease(AddinShmemInitLock);

	if (!found && !IsUnderPostmaster)
	{
		oi_stats_load();
		on_shmem_exit(stats_shutdown, (Datum) 0);
	}
}

/* Called when the library is loaded.  Without preloading nothing is counted. */
void
oi_stats_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = stats_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = stats_startup;
}

/* The step that a time is in. */
int64
oi_stats_step(TimestampTz at)
{
	return at / OI_STATS_STEP;
}

/* What is kept of a database, or NULL.  The lock is held. */
OiStatsDatabase *
oi_stats_database(Oid dboid)
{
	for (int i = 0; i < OI_STATS_DATABASES; i++)
		if (oi_stats->databases[i].dboid == dboid)
			return &oi_stats->databases[i];
	return NULL;
}

/*
 * The same, made if there is none, in the place of the one that nobody has
 * counted for the longest.  NULL: sessions count for all of them.
 */
static OiStatsDatabase *
make_database(Oid dboid)
{
	OiStatsDatabase *db = oi_stats_database(dboid);

	if (db != NULL)
		return db;
	for (int i = 0; i < OI_STATS_DATABASES; i++)
	{
		OiStatsDatabase *other = &oi_stats->databases[i];

		if (other->sessions == 0 &&
			(db == NULL || other->used_at < db->used_at))
			db = other;
	}
	if (db != NULL)
	{
		memset(db, 0, sizeof(OiStatsDatabase));
		db->dboid = dboid;
		db->since = GetCurrentTimestamp();
	}
	return db;
}

/*
 * Add the calls of a session's step to its database, and have it begin
 * another one.  Those of before a reset are forgotten, and so are those whose place
 * another step has by now, unless the clock went back behind that.  The lock is held.
 */
static void
end_step(OiStatsSession *session, OiStatsDatabase *db, int64 next)
{
	OiStatsStep *step = &db->steps[session->step % OI_STATS_STEPS];
	bool		later = step->step > session->step &&
	step->step <= oi_stats_step(GetCurrentTimestamp());
	bool		counts = session->epoch == db->epoch && !later;

	if (counts && step->step != session->step)
	{
		memset(step, 0, sizeof(OiStatsStep));
		step->step = session->step;
	}
	for (int i = 0; i < OI_STATS_CALLS; i++)
	{
		if (counts)
			step->calls[i] += pg_atomic_read_u64(&session->calls[i]);
		pg_atomic_write_u64(&session->calls[i], 0);
	}
	session->step = next;
	session->epoch = db->epoch;
}

/* Add to its database all that a session counted.  The lock is held. */
static void
settle_session(OiStatsSession *session)
{
	OiStatsDatabase *db = &oi_stats->databases[session->database];

	end_step(session, db, 0);
	for (int i = 0; i < OI_STATS_COUNTERS; i++)
		db->counters[i] += pg_atomic_read_u64(&session->counters[i]);
	db->sessions--;
	db->used_at = GetCurrentTimestamp();
	clear_session(session);
}

/* Settle sessions that still stand when the server ends. */
void
oi_stats_settle_sessions(void)
{
	for (int i = 0; i < oi_stats->nsessions; i++)
		if (OidIsValid(oi_stats->sessions[i].dboid))
			settle_session(&oi_stats->sessions[i]);
}

/* before_shmem_exit callback of who has counted. */
static void
leave(int code, Datum arg)
{
	LWLockAcquire(oi_stats->lock, LW_EXCLUSIVE);
	settle_session(my_session);
	LWLockRelease(oi_stats->lock);
	my_session = NULL;
}

/* Take this process's place.  False: there is no room for its database. */
static bool
enter(int64 step)
{
	OiStatsSession *session = &oi_stats->sessions[oi_compat_proc_number()];
	OiStatsDatabase *db;

	LWLockAcquire(oi_stats->lock, LW_EXCLUSIVE);
	db = make_database(MyDatabaseId);
	if (db != NULL)
	{
		session->database = db - oi_stats->databases;
		session->dboid = MyDatabaseId;
		session->step = step;
		session->epoch = db->epoch;
		db->sessions++;
		db->used_at = GetCurrentTimestamp();
	}
	LWLockRelease(oi_stats->lock);

	if (db == NULL)
	{
		refused_step = step;
		return false;
	}
	my_session = session;
	before_shmem_exit(leave, (Datum) 0);
	return true;
}

/* See to it that this process can count in a step. */
static bool
begin_step(int64 step)
{
	if (my_session == NULL)
		return refused_step != step && enter(step);

	LWLockAcquire(oi_stats->lock, LW_EXCLUSIVE);
	end_step(my_session, &oi_stats->databases[my_session->database], step);
	LWLockRelease(oi_stats->lock);
	return true;
}

/* One more; nobody else writes there. */
static inline void
add_one(pg_atomic_uint64 *counter)
{
	pg_atomic_write_u64(counter, pg_atomic_read_u64(counter) + 1);
}

/* The database that this process counts for, or NULL. */
OiStatsDatabase *
oi_stats_my_database(void)
{
	return my_session ? &oi_stats->databases[my_session->database] : NULL;
}

/* Counts a call. */
static void
count(OiStatsCounter counter, OiStatsCall call)
{
	OiStatsSession *session = my_session;
	int64		step = oi_stats_step(GetCurrentStatementStartTimestamp());

	if (oi_stats == NULL)
		return;
	if (session == NULL || session->step != step ||
		session->epoch != oi_stats->databases[session->database].epoch)
	{
		if (!begin_step(step))
			return;
		session = my_session;
	}
	add_one(&session->counters[counter]);
	if (call != OI_STATS_NO_CALL)
		add_one(&session->calls[call]);
}

/* A call whose key was known already: its first one, or another request, was. */
static void
note_duplicate(const OiStatsDuplicate *duplicate, bool retry)
{
	if (retry && oi_hot_keys != OI_HOT_KEYS_OFF)
		oi_stats_note_key(duplicate);
	if (oi_log_duplicates > 0)
		oi_stats_log(duplicate);
}

/* claim_key has its answer. */
void
oi_stats_note_claim(const OiClaimCall *call, const OiClaimAnswer *answer)
{
	OiStatsDuplicate duplicate;

	switch (answer->outcome)
	{
		case OI_CLAIM_CLAIMED:
			count(OI_STATS_CLAIMED, OI_STATS_CLAIM_FIRST);
			if (answer->attempt > 1)
				count(OI_STATS_TAKEN_OVER, OI_STATS_NO_CALL);
			return;
		case OI_CLAIM_REPLAYED:
			count(OI_STATS_CLAIM_REPLAYED, OI_STATS_CLAIM_RETRY);
			break;
		case OI_CLAIM_IN_PROGRESS:
			count(OI_STATS_CLAIM_IN_PROGRESS, OI_STATS_CLAIM_RETRY);
			break;
		default:
			count(OI_STATS_CLAIM_MISMATCH, OI_STATS_NO_CALL);
			break;
	}

	duplicate.function = "claim_key";
	duplicate.outcome = oi_claim_outcome_name(answer->outcome);
	duplicate.scope = call->scope;
	duplicate.key = call->key;
	note_duplicate(&duplicate, answer->outcome != OI_CLAIM_MISMATCH);
}

/* complete_key, extend_key or release_key has its answer. */
void
oi_stats_note_settled(OiClaimOutcome outcome)
{
	static const OiStatsCounter counters[] = {
		[OI_CLAIM_REPLAYED] = OI_STATS_COMPLETED_AGAIN,
		[OI_CLAIM_COMPLETED] = OI_STATS_COMPLETED,
		[OI_CLAIM_EXTENDED] = OI_STATS_EXTENDED,
		[OI_CLAIM_RELEASED] = OI_STATS_RELEASED,
		[OI_CLAIM_STALE] = OI_STATS_STALE,
		[OI_CLAIM_UNKNOWN] = OI_STATS_UNKNOWN,
	};

	count(counters[outcome], OI_STATS_NO_CALL);
}

/* create_order, transition_order or cancel_order has its answer. */
void
oi_stats_note_order(const OiOrderCall *call, const OiOrderAnswer *answer)
{
	static const char *const functions[] = {
		[OI_VERB_CREATE] = "create_order",
		[OI_VERB_TRANSITION] = "transition_order",
		[OI_VERB_CANCEL] = "cancel_order",
	};
	bool		first = answer->outcome <= OI_TOMBSTONED;
	bool		retry = answer->outcome == OI_REPLAYED ||
	answer->outcome == OI_IN_PROGRESS;

	count(OI_STATS_ORDERS + answer->outcome,
		  first ? OI_STATS_ORDER_FIRST :
		  retry ? OI_STATS_ORDER_RETRY : OI_STATS_NO_CALL);
	if (retry || answer->outcome == OI_MISMATCH)
	{
		OiStatsDuplicate duplicate;

		duplicate.function = functions[call->verb];
		duplicate.outcome = oi_outcome_name(answer->outcome);
		duplicate.scope = NULL;
		duplicate.key = call->key;
		note_duplicate(&duplicate, retry);
	}
}

/* All that was counted for a database.  The lock is held. */
void
oi_stats_totals(const OiStatsDatabase *db, uint64 *totals)
{
	memcpy(totals, db->counters, sizeof(db->counters));
	for (int i = 0; i < oi_stats->nsessions; i++)
	{
		OiStatsSession *session = &oi_stats->sessions[i];

		if (session->dboid == db->dboid)
			for (int j = 0; j < OI_STATS_COUNTERS; j++)
				totals[j] += pg_atomic_read_u64(&session->counters[j]);
	}
}

/*
 * The calls of that many minutes, of which "step" is the last step.  The lock
 * is held.
 */
void
oi_stats_sum_steps(const OiStatsDatabase *db, int64 step, int minutes,
				   uint64 *calls)
{
	int64		before = step - minutes * OI_STATS_MINUTE;

	memset(calls, 0, sizeof(uint64) * OI_STATS_CALLS);
	for (int i = 0; i < OI_STATS_STEPS; i++)
		if (db->steps[i].step > before && db->steps[i].step <= step)
			for (int j = 0; j < OI_STATS_CALLS; j++)
				calls[j] += db->steps[i].calls[j];
	for (int i = 0; i < oi_stats->nsessions; i++)
	{
		OiStatsSession *session = &oi_stats->sessions[i];

		if (session->dboid == db->dboid && session->epoch == db->epoch &&
			session->step > before && session->step <= step)
			for (int j = 0; j < OI_STATS_CALLS; j++)
				calls[j] += pg_atomic_read_u64(&session->calls[j]);
	}
}

/* Begin anew for a database.  The lock is held. */
void
oi_stats_reset(OiStatsDatabase *db)
{
	uint64		totals[OI_STATS_COUNTERS];

	oi_stats_totals(db, totals);
	for (int i = 0; i < OI_STATS_COUNTERS; i++)
		db->counters[i] -= totals[i];
	memset(db->steps, 0, sizeof(db->steps));
	LWLockAcquire(oi_stats_key_lock(db), LW_EXCLUSIVE);
	memset(db->hours, 0, sizeof(db->hours));
	LWLockRelease(oi_stats_key_lock(db));
	db->epoch++;
	db->since = GetCurrentTimestamp();
}
