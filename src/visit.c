/*-------------------------------------------------------------------------
 *
 * visit.c
 *		When databases are to be visited by maintenance, and who is there now.
 *
 * See src/README, "Maintenance", for why no due time is lost.  The order of
 * things that it rests on: a visit sets the due time to "never" before it takes
 * the snapshot it looks with, and a session reads the due time after its
 * transaction has become visible.  Both have a full barrier in between.
 *
 * A place for a database is taken by the first session or visit that needs
 * one, and given up only when the database is gone.  So a session may look for
 * its own without the lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "backoff.h"
#include "clock.h"
#include "compat.h"
#include "miscadmin.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

/* ms between two starts of visits to one database that fail: first, most */
#define RESTART_FIRST 1000
#define RESTART_MOST 60000

/* who sleeps for longer than so many ms looks again by then */
#define WAKE_WITHIN 60000

/*
 * Called when shared memory is set up.
 */
void
oi_visit_init(void)
{
	for (int i = 0; i < OI_MAX_DUES; i++)
	{
		pg_atomic_init_u64(&oi_shared->dues[i].due, (uint64) OI_NEVER);
		pg_atomic_init_u32(&oi_shared->dues[i].is_full, 0);
	}
}

/*
 * The due time in a place.
 */
static TimestampTz
get_due(OiDue *place)
{
	return (TimestampTz) pg_atomic_read_u64(&place->due);
}

/*
 * The place of a database, or NULL.
 */
static OiDue *
find_place(Oid dboid)
{
	for (int i = 0; i < OI_MAX_DUES; i++)
		if (oi_shared->dues[i].dboid == dboid)
			return &oi_shared->dues[i];
	return NULL;
}

/*
 * The same, made if there is room.  The lock is held.
 */
static OiDue *
make_place(Oid dboid)
{
	OiDue	   *place = find_place(dboid);

	if (place == NULL)
		place = find_place(InvalidOid);
	if (place == NULL || OidIsValid(place->dboid))
		return place;

	pg_atomic_write_u64(&place->due, (uint64) OI_NEVER);
	place->start_after = 0;
	place->failures = 0;
	place->floor = DT_NOBEGIN;
	place->look_below = DT_NOBEGIN;
	pg_atomic_write_u32(&place->is_full, 0);
	place->dboid = dboid;
	return place;
}

/*
 * Lower the due time in a place, and say whether that changed it.  The lock
 * is held.
 */
static bool
lower(OiDue *place, TimestampTz due)
{
	if (place == NULL || get_due(place) <= due)
		return false;
	pg_atomic_write_u64(&place->due, (uint64) due);
	return true;
}

/*
 * Wake who has to hear of a due time: the visit to that database, or else the
 * launcher.  A visit that lowers it itself knows: its own latch would end the
 * very wait for that time, over and over.  The lock is held.
 */
static void
wake_for(Oid dboid)
{
	bool		visited = oi_shared->visit.dboid == dboid;
	int			proc = visited ? oi_shared->visit.pgprocno : oi_shared->launcher;

	if (proc >= 0 && !(visited && oi_shared->visit.pid == MyProcPid))
		SetLatch(&ProcGlobal->allProcs[proc].procLatch);
}

/*
 * A database is to be visited at that time, or earlier.
 */
void
oi_visit_lower_due(Oid dboid, TimestampTz due)
{
	if (oi_shared == NULL || due == OI_NEVER)
		return;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	if (lower(make_place(dboid), due) &&
		!TimestampDifferenceExceeds(GetCurrentTimestamp(), due, WAKE_WITHIN))
		wake_for(dboid);
	LWLockRelease(oi_shared->lock);
}

/*
 * A transaction of this database committed a deadline.  As a rule there is an
 * earlier one; that is found out without a lock.
 */
void
oi_visit_note_due(TimestampTz due)
{
	OiDue	   *place;

	if (oi_shared == NULL)
		return;

	pg_memory_barrier();
	place = find_place(MyDatabaseId);
	if (place != NULL ? get_due(place) > due : find_place(InvalidOid) != NULL)
		oi_visit_lower_due(MyDatabaseId, due);
}

/*
 * Ask the visit that is going on in a database to begin anew.  False: there
 * is none.
 */
bool
oi_visit_request(Oid dboid)
{
	bool		there;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	there = oi_shared->visit.dboid == dboid;
	if (there)
	{
		oi_shared->visit.requested = true;
		wake_for(dboid);
	}
	LWLockRelease(oi_shared->lock);

	return there;
}

/*
 * For the launcher: the databases whose time has come, but for the one that
 * is being visited.  "wait" is lowered to the ms until that of the next one.
 */
int
oi_visit_collect(Oid visiting, Oid *dboids, long *wait)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	LWLockAcquire(oi_shared->lock, LW_SHARED);
	for (int i = 0; i < OI_MAX_DUES; i++)
	{
		OiDue	   *place = &oi_shared->dues[i];
		TimestampTz when = get_due(place);

		if (!OidIsValid(place->dboid) || place->dboid == visiting ||
			when == OI_NEVER)
			continue;
		if (!oi_time_has_come(place->start_after, now, RESTART_MOST))
			when = Max(when, place->start_after);
		if (when <= now)
			dboids[n++] = place->dboid;
		else
			*wait = Min(*wait, TimestampDifferenceMilliseconds(now, when));
	}
	LWLockRelease(oi_shared->lock);

	return n;
}

/*
 * For the launcher: a visit to a database is about to start.  Should it never
 * take the due time, or fail, there will be another one, but not at once.
 */
void
oi_visit_plan(Oid dboid)
{
	OiDue	   *place;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	place = make_place(dboid);
	if (place != NULL)
	{
		place->failures++;
		place->start_after =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										oi_backoff(place->failures, RESTART_FIRST,
												   RESTART_MOST, 0));
		(void) lower(place, place->start_after);
	}
	LWLockRelease(oi_shared->lock);
}

/*
 * For the launcher: are databases waiting for a visit?  The one that goes on is
 * woken if it has to know.
 */
void
oi_visit_set_waiting(bool others_wait)
{
	OiVisit    *visit = &oi_shared->visit;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	if (others_wait && !visit->others_wait && OidIsValid(visit->dboid))
		wake_for(visit->dboid);
	visit->others_wait = others_wait;
	LWLockRelease(oi_shared->lock);
}

/*
 * For the launcher: a database takes no connections, or is gone.
 */
void
oi_visit_forget(Oid dboid, bool gone)
{
	OiDue	   *place;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	place = find_place(dboid);
	if (place != NULL)
	{
		pg_atomic_write_u64(&place->due, (uint64) OI_NEVER);
		if (gone)
			place->dboid = InvalidOid;
	}
	LWLockRelease(oi_shared->lock);
}

/*
 * End the visit of a database that somebody wants for himself.  There is another
 * one as soon as it can connect.  The lock is held.
 */
void
oi_visit_make_room(Oid dboid)
{
	OiDue	   *place = find_place(dboid);

	if (place != NULL)
	{
		place->failures = 0;
		place->start_after = 0;
	}
	if (oi_shared->visit.dboid == dboid)
		kill(oi_shared->visit.pid, SIGTERM);
}

/*
 * For the launcher: the databases that have a place.
 */
int
oi_visit_known(Oid *dboids)
{
	int			n = 0;

	LWLockAcquire(oi_shared->lock, LW_SHARED);
	for (int i = 0; i < OI_MAX_DUES; i++)
		if (OidIsValid(oi_shared->dues[i].dboid))
			dboids[n++] = oi_shared->dues[i].dboid;
	LWLockRelease(oi_shared->lock);

	return n;
}

/*
 * before_shmem_exit callback of a visit.  A request that came too late, and
 * all that a failed one had to do, is due now.
 */
static void
detach(int code, Datum arg)
{
	OiVisit    *visit = &oi_shared->visit;
	OiDue	   *place;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	place = find_place(visit->dboid);
	if (place != NULL && visit->succeeded)
	{
		place->failures = 0;
		place->start_after = 0;
	}
	if (visit->requested || !visit->succeeded)
		(void) lower(place, GetCurrentTimestamp());
	visit->dboid = InvalidOid;
	visit->pid = 0;
	LWLockRelease(oi_shared->lock);
}

/*
 * This process visits a database.
 */
void
oi_visit_attach(Oid dboid)
{
	OiVisit    *visit = &oi_shared->visit;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	visit->dboid = dboid;
	visit->pid = MyProcPid;
	visit->pgprocno = oi_compat_proc_number();
	visit->requested = true;
	visit->succeeded = false;
	(void) make_place(dboid);
	LWLockRelease(oi_shared->lock);

	before_shmem_exit(detach, (Datum) 0);
}

/*
 * Take over what this visit has to do: whether it was asked for, and from
 * where to look for deadlines.  Whatever was committed until now, a snapshot
 * taken after this shows.
 */
bool
oi_visit_take(TimestampTz *floor, TimestampTz *look_below)
{
	OiDue	   *place;
	bool		requested;

	*floor = *look_below = DT_NOBEGIN;
	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	requested = oi_shared->visit.requested;
	oi_shared->visit.requested = false;
	place = find_place(MyDatabaseId);
	if (place != NULL)
	{
		/* the clock went back: what was behind the floor is not */
		if (place->floor > GetCurrentTimestamp())
			place->floor = place->look_below = DT_NOBEGIN;
		place->floor = Min(place->floor, get_due(place));
		*floor = place->floor;
		*look_below = place->look_below;
		pg_atomic_write_u64(&place->due, (uint64) OI_NEVER);
	}
	LWLockRelease(oi_shared->lock);
	pg_memory_barrier();

	return requested;
}

/*
 * Nothing that the last look could see is left below the floor.
 */
void
oi_visit_keep_floor(TimestampTz floor, TimestampTz look_below)
{
	OiDue	   *place;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	place = find_place(MyDatabaseId);
	if (place != NULL)
	{
		place->floor = floor;
		place->look_below = look_below;
	}
	LWLockRelease(oi_shared->lock);
}

/*
 * Should this visit make room?
 */
bool
oi_visit_others_wait(void)
{
	bool		others_wait;

	LWLockAcquire(oi_shared->lock, LW_SHARED);
	others_wait = oi_shared->visit.others_wait;
	LWLockRelease(oi_shared->lock);

	return others_wait;
}

/*
 * This visit ends well.
 */
void
oi_visit_succeed(void)
{
	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	oi_shared->visit.succeeded = true;
	LWLockRelease(oi_shared->lock);
}

/*
 * For the visit: sessions of this database must not write events, or may again.
 */
void
oi_visit_set_full(bool is_full, int64 bytes, const char *held_by)
{
	OiDue	   *place;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	place = find_place(MyDatabaseId);
	if (place != NULL)
	{
		place->full.bytes = bytes;
		strlcpy(place->full.held_by, held_by, OI_HELD_BY_LEN);
		pg_atomic_write_u32(&place->is_full, is_full);
	}
	LWLockRelease(oi_shared->lock);
}

/*
 * Must this session not write events?  As a rule that is found out by a look at
 * a place that is known.
 */
bool
oi_visit_is_full(OiFull *full)
{
	static OiDue *known = NULL;

	if (oi_shared == NULL)
		return false;
	if (known == NULL || known->dboid != MyDatabaseId)
		known = find_place(MyDatabaseId);
	if (known == NULL || pg_atomic_read_u32(&known->is_full) == 0)
		return false;

	LWLockAcquire(oi_shared->lock, LW_SHARED);
	*full = known->full;
	LWLockRelease(oi_shared->lock);
	return true;
}
