/*-------------------------------------------------------------------------
 *
 * maintenance.c
 *		The process that visits a database.
 *
 * It fills the slots of the database's subscriptions, rotates generations,
 * and acts on payment deadlines, as long as there is something to do and
 * nobody else waits; see src/README, "Maintenance".
 *
 * Exit code 0: the visit is over.  1: an error, or SIGTERM; whatever was left to
 * do is due again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "clock.h"
#include "compat.h"
#include "deadline.h"
#include "incarnation.h"
#include "maintenance.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "relation.h"
#include "rotation.h"
#include "session.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "subscription.h"
#include "tcop/tcopprot.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* ms that a visit has for itself where others wait */
#define SLICE 2000

/* ms that a visit waits for what is going to be due */
#define LINGER 5000

/*
 * Fill the slots of the database's subscriptions.
 */
static void
fill_slots(void)
{
	OiFound    *found = NULL;
	int			n = 0;

	pgstat_report_activity(STATE_RUNNING, "looking for subscriptions");
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (oi_extension_present())
		found = oi_subscriptions_found(&n);
	oi_shmem_sync_database(MyDatabaseId, found, n);
	PopActiveSnapshot();
	CommitTransactionCommand();

	oi_shmem_wake_launcher();
}

/*
 * Is the database one that may be worked on?
 */
static bool
in_use(void)
{
	bool		result;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	result = oi_extension_present() && oi_in_use();
	PopActiveSnapshot();
	CommitTransactionCommand();

	return result;
}

/*
 * Do what there is to do.  Returns when there is going to be more: in the past
 * if there is more at once.
 */
static TimestampTz
work(TimestampTz now)
{
	static TimestampTz next_rotation;
	OiDeadlines deadlines;
	TimestampTz next = OI_NEVER;
	bool		requested = oi_visit_take(&deadlines.floor, &deadlines.look_below);

	if (requested)
		fill_slots();
	if (in_use())
	{
		if (requested || now >= next_rotation)
		{
			pgstat_report_activity(STATE_RUNNING, "rotating generations");
			next_rotation = oi_rotation_run();
		}
		next = oi_deadlines_run(&deadlines, oi_uptime() + SLICE * 1000);
		oi_visit_keep_floor(deadlines.floor, deadlines.look_below);
		next = Min(next, next_rotation);
	}
	oi_visit_lower_due(MyDatabaseId, next);

	return next;
}

/*
 * Wait for what is going to be due, if the visit is to go on.
 */
static bool
go_on(TimestampTz next, int64 began)
{
	static uint32 event = 0;
	TimestampTz now = GetCurrentTimestamp();
	long		wait = TimestampDifferenceMilliseconds(now, next);

	if (wait == 0)
		return !oi_visit_others_wait() ||
			oi_uptime() - began < SLICE * 1000;
	if (wait > LINGER || oi_visit_others_wait())
		return false;

	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(true);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 wait, oi_compat_wait_event(&event, "OrderIdempotencyMaintenance"));
	ResetLatch(MyLatch);
	return true;
}

/*
 * Visit the database.
 */
static void
visit(void)
{
	int64		began = oi_uptime();
	TimestampTz next;

	do
	{
		(void) oi_session_interrupts();
		next = work(GetCurrentTimestamp());
	} while (go_on(next, began));
}

/*
 * Entry point.
 */
void
oi_maintenance_main(Datum arg)
{
	Oid			dboid = DatumGetObjectId(arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	oi_visit_attach(dboid);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	oi_session_settle();
	visit();
	oi_visit_succeed();
	proc_exit(0);
}
