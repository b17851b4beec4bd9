/*-------------------------------------------------------------------------
 *
 * sink_guard.c
 *		Undoing what a sink's callback leaves behind.
 *
 * Callbacks run outside of transactions, so there is no end of a transaction
 * that would clean up after them, and they are written by others.  After each
 * the worker is put back into the state it was in before: signals, interrupts,
 * locks, user, memory context, and no transaction.  What belongs to the server's
 * bookkeeping of resources has an owner of its own, without which functions such
 * as pg_hmac_create() crash.
 *
 * Files and hash table scans that are left open are closed at the end of the
 * worker's next transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "sink_guard.h"
#include "storage/condition_variable.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

/* owner of what callbacks take, one at a time, and its parent: locks need one */
static ResourceOwner sink_owner = NULL;
static ResourceOwner parent = NULL;

/* signals that the server has a use for, and what it does at them */
static const int signals[] = {
	SIGALRM, SIGCHLD, SIGFPE, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGURG,
	SIGUSR1, SIGUSR2
};
static struct sigaction handlers[lengthof(signals)];

/*
 * Before the first callback of all.
 */
static void
prepare(void)
{
	parent = ResourceOwnerCreate(NULL, "order_idempotency worker");
	for (int i = 0; i < (int) lengthof(signals); i++)
		(void) sigaction(signals[i], NULL, &handlers[i]);
}

/*
 * Before a callback.
 */
void
oi_guard_enter(OiGuard *guard)
{
	if (parent == NULL)
		prepare();
	if (sink_owner == NULL)
		sink_owner = ResourceOwnerCreate(parent, "order_idempotency sink");
	guard->context = CurrentMemoryContext;
	guard->exception_stack = PG_exception_stack;
	guard->error_context = error_context_stack;
	guard->interrupt_holdoff = InterruptHoldoffCount;
	guard->cancel_holdoff = QueryCancelHoldoffCount;
	GetUserIdAndSecContext(&guard->userid, &guard->security);
	CurrentResourceOwner = sink_owner;
}

/*
 * Release what the server keeps account of.
 */
static void
release_resources(bool ok)
{
	ResourceOwner owner = sink_owner;

	CurrentResourceOwner = NULL;
	if (owner == NULL)
		return;
	sink_owner = NULL;
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, ok, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_LOCKS, false, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_AFTER_LOCKS, ok, false);
	ResourceOwnerDelete(owner);
}

/*
 * Have signals arrive where they should.  True: something was to be changed.
 */
static bool
restore_signals(void)
{
	sigset_t	blocked;
	bool		changed = false;

	for (int i = 0; i < (int) lengthof(signals); i++)
	{
		struct sigaction now;

		if (sigaction(signals[i], NULL, &now) == 0 &&
			now.sa_handler != handlers[i].sa_handler)
		{
			(void) sigaction(signals[i], &handlers[i], NULL);
			changed = true;
		}
	}

	sigprocmask(SIG_SETMASK, &UnBlockSig, &blocked);
	for (int i = 0; i < (int) lengthof(signals); i++)
		changed |= sigismember(&blocked, signals[i]) == 1 &&
			sigismember(&UnBlockSig, signals[i]) == 0;

	return changed;
}

/*
 * Let go of locks of the lightest kind, and take interrupts again.  True:
 * something was to be done.
 */
static bool
restore_interrupts(const OiGuard *guard)
{
	bool		changed = InterruptHoldoffCount != guard->interrupt_holdoff ||
	QueryCancelHoldoffCount != guard->cancel_holdoff || CritSectionCount != 0;

	LWLockReleaseAll();
	InterruptHoldoffCount = guard->interrupt_holdoff;
	QueryCancelHoldoffCount = guard->cancel_holdoff;
	CritSectionCount = 0;

	return changed;
}

/*
 * Be who we were.  True: somebody else was.
 */
static bool
restore_user(const OiGuard *guard)
{
	Oid			userid;
	int			security;

	GetUserIdAndSecContext(&userid, &security);
	if (userid == guard->userid && security == guard->security)
		return false;
	SetUserIdAndSecContext(guard->userid, guard->security);

	return true;
}

/*
 * After a callback that returned.  Returns what it left behind that it should
 * not have, for its author to read, or NULL.
 */
const char *
oi_guard_leave(const OiGuard *guard)
{
	const char *left = NULL;

	/* these may point into a stack frame that is gone: before all else */
	PG_exception_stack = guard->exception_stack;
	error_context_stack = guard->error_context;

	if (restore_interrupts(guard))
		left = "lightweight locks held, or interrupts held off";
	if (restore_signals())
		left = "signals blocked or handled in another way";
	if (IsTransactionOrTransactionBlock())
	{
		AbortOutOfAnyTransaction();
		left = "a transaction open";
	}
	if (restore_user(guard))
		left = "another user set";
	release_resources(true);
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	MemoryContextSwitchTo(guard->context);

	return left;
}

/*
 * After one that raised an ERROR: what was said, in the context from before.
 */
ErrorData *
oi_guard_recover(const OiGuard *guard)
{
	ErrorData  *edata;

	/* the error reset the count; nothing may be interrupted before the end */
	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(guard->context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	release_resources(false);
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	AtEOXact_Files(false);
	AtEOXact_HashTables(false);
	(void) restore_signals();
	(void) restore_user(guard);
	(void) restore_interrupts(guard);
	MemoryContextSwitchTo(guard->context);

	return edata;
}
