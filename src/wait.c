/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Waiting for another transaction, no longer than in_flight_wait.
 *
 * All waits are the server's own lock waits, so that deadlocks are found,
 * cancel and terminate work, and pg_locks shows who waits for whom.  The
 * server can end a lock wait after a time, but only by an error: a wait that
 * is to end without one runs in a subtransaction, with lock_timeout lowered
 * to the time that is left.  That is paid only by a call that has to wait.
 * Where the user's own lock_timeout is the shorter, its error goes through.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "compat.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "guc.h"
#include "wait.h"

/*
 * Milliseconds left to wait: 0 if none, -1 without limit.  The clock starts
 * with the first question.
 */
int
oi_wait_left(OiWait *wait)
{
	int64		now;
	int64		left;

	if (oi_in_flight_wait <= 0)
		return oi_in_flight_wait;

	now = oi_uptime();
	if (!wait->started)
	{
		wait->started = true;
		wait->until = now + oi_in_flight_wait * INT64CONST(1000);
	}
	left = (wait->until - now + 999) / 1000;
	return left > 0 ? (int) left : 0;
}

/* Waits for the end of the transaction in *arg. */
static void
wait_for_xid(void *arg)
{
	XactLockTableWait(((OiBusy *) arg)->xid, NULL, NULL, XLTW_None);
}

/*
 * Waits for the end of a transaction, or of its speculative insertion.
 * Returns false if the time ran out first.
 */
bool
oi_wait_for(OiWait *wait, const OiBusy *busy)
{
	if (busy->spec_token != 0)
	{
		/* takes microseconds: the other one never waits meanwhile */
		SpeculativeInsertionWait(busy->xid, busy->spec_token);
		return true;
	}
	if (oi_compat_xact_has_ended(busy->xid))
		return true;
	return oi_wait_in_callback(wait, wait_for_xid,
							   unconstify(OiBusy *, busy));
}

/*
 * Runs the callback in a subtransaction in which a lock wait fails after
 * timeout milliseconds.  Returns false if that happened.  The callback must
 * leave no pins behind.
 */
bool
oi_run_with_lock_timeout(OiWaitCallback callback, void *arg, int timeout)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			save_timeout = LockTimeout;
	volatile bool done = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);

	PG_TRY();
	{
		LockTimeout = timeout;
		callback(arg);
		LockTimeout = save_timeout;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		LockTimeout = save_timeout;
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
		done = false;
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return done;
}

/*
 * Runs a callback that waits for a lock.  Returns false if the time ran out
 * first.
 */
bool
oi_wait_in_callback(OiWait *wait, OiWaitCallback callback, void *arg)
{
	int			left = oi_wait_left(wait);

	if (left == 0)
		return false;
	if (left < 0 || (LockTimeout > 0 && LockTimeout < left))
	{
		callback(arg);
		return true;
	}
	return oi_run_with_lock_timeout(callback, arg, left);
}
