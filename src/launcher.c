/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The process that starts a worker for each subscription.
 *
 * One launcher for the server, connected to no database; it starts when
 * recovery has ended, so not in a standby, and at once at its promotion.
 *
 * A process can read the tables of one database only, so the launcher has
 * databases visited (maintenance.c), one at a time.  All are visited when the
 * launcher starts and then once a minute, which finds what a restore brought
 * in, or what was prepared and committed later; a database whose
 * subscriptions were changed by our functions, or where something is due, is
 * visited as soon as it is its turn.
 *
 * For each slot without a process the launcher starts a worker.  Every start
 * puts off the next one by a second, doubling to a minute while workers keep
 * failing, so a worker that ends after a long run is replaced at once.
 *
 * Exit codes: 1 for whatever went wrong (the server starts the launcher again,
 * the launcher the workers), 0 for work that is over.  Any other would
 * restart the whole server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "backoff.h"
#include "clock.h"
#include "compat.h"
#include "database_commands.h"
#include "databases.h"
#include "guc.h"
#include "launcher.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "worker.h"

/* ms between two visits to all databases */
#define SCAN_INTERVAL 60000

/* ms between two starts of a worker for one slot: the first, and the most */
#define RESTART_FIRST 1000
#define RESTART_MOST 60000

/* ms until another try where the server has no process for a worker */
#define NO_PROCESS_INTERVAL 5000

/* ms until another look at a database that is locked against connections */
#define LOCKED_INTERVAL 500

/* s until the server starts the launcher again */
#define LAUNCHER_RESTART 5

/* what the launcher knows beyond shared memory; gone with it */
typedef struct Launcher
{
	MemoryContext context;
	BackgroundWorkerHandle **workers;	/* by slot; NULL: none started */
	BackgroundWorkerHandle *visit;	/* NULL: none is going on */
	Oid			visiting;		/* where that is */
	List	   *queue;			/* databases to visit, as OIDs */
	TimestampTz next_scan;		/* when all join it */
	bool		no_process;		/* the last start failed */
} Launcher;

/*
 * What all our processes have in common.
 */
static void
describe_worker(BackgroundWorker *worker, const char *type, const char *function)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "order_idempotency", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	snprintf(worker->bgw_type, BGW_MAXLEN, "order_idempotency %s", type);
	strlcpy(worker->bgw_name, worker->bgw_type, BGW_MAXLEN);
}

/*
 * Called when the library is preloaded.
 */
void
oi_launcher_register(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress ||
		IsBinaryUpgrade || oi_max_subscriptions == 0)
		return;

	oi_database_commands_init();

	describe_worker(&worker, "launcher", "oi_launcher_main");
	worker.bgw_restart_time = LAUNCHER_RESTART;
	RegisterBackgroundWorker(&worker);
}

/*
 * Let a database join the queue, unless it stands there.
 */
static void
enqueue(Launcher *launcher, Oid dboid)
{
	MemoryContext old = MemoryContextSwitchTo(launcher->context);

	launcher->queue = list_append_unique_oid(launcher->queue, dboid);
	MemoryContextSwitchTo(old);
}

/*
 * Let all databases join the queue.  The one that is being visited begins anew.
 */
static void
enqueue_all(Launcher *launcher)
{
	List	   *databases;
	ListCell   *lc;

	oi_forget_dropped_databases();
	databases = oi_databases(false, CurrentMemoryContext);
	foreach(lc, databases)
		if (!oi_visit_request(lfirst_oid(lc)))
		enqueue(launcher, lfirst_oid(lc));
	list_free(databases);
	launcher->next_scan = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  SCAN_INTERVAL);
}

/*
 * Take over what sessions asked for, and what is due.  Returns the time until
 * more is, in ms.
 */
static long
collect_visits(Launcher *launcher)
{
	Oid			dboid;
	Oid			dboids[OI_MAX_DUES];
	bool		all;
	int			n;
	long		wait = SCAN_INTERVAL;

	while (oi_shmem_next_scan(&dboid, &all))
	{
		if (all)
			launcher->next_scan = 0;
		else
			enqueue(launcher, dboid);
	}
	if (oi_time_has_come(launcher->next_scan, GetCurrentTimestamp(), SCAN_INTERVAL))
		enqueue_all(launcher);

	n = oi_visit_collect(launcher->visiting, dboids, &wait);
	for (int i = 0; i < n; i++)
		enqueue(launcher, dboids[i]);

	return Min(wait, TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
													 launcher->next_scan));
}

/*
 * Has a process that was started come to its end?  Then forget it.
 */
static bool
has_ended(BackgroundWorkerHandle **handle)
{
	pid_t		pid;
	BgwHandleStatus status = GetBackgroundWorkerPid(*handle, &pid);

	if (status == BGWH_STARTED || status == BGWH_NOT_YET_STARTED)
		return false;
	pfree(*handle);
	*handle = NULL;
	return true;
}

/*
 * Start a process.  False: the server has none to spare, which is said in the
 * log when it begins.
 */
static bool
start_process(Launcher *launcher, BackgroundWorker *worker,
			  BackgroundWorkerHandle **handle)
{
	MemoryContext old = MemoryContextSwitchTo(launcher->context);
	bool		ok;

	worker->bgw_notify_pid = MyProcPid;
	ok = RegisterDynamicBackgroundWorker(worker, handle);
	MemoryContextSwitchTo(old);
	if (!ok)
	{
		*handle = NULL;
		if (!launcher->no_process)
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("out of background worker slots"),
					 errhint("Raise max_worker_processes.")));
	}
	launcher->no_process = !ok;

	return ok;
}

/*
 * Take databases from the head of the queue that cannot be visited, or cannot
 * be now.
 */
static void
drop_unreachable(Launcher *launcher)
{
	while (launcher->queue != NIL)
	{
		Oid			dboid = linitial_oid(launcher->queue);
		OiAccess	access = oi_database_access(dboid);

		if (access == OI_ACCESS_OPEN)
			return;
		oi_visit_forget(dboid, false);
		if (access == OI_ACCESS_LOCKED)
			oi_visit_lower_due(dboid, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
																  LOCKED_INTERVAL));
		launcher->queue = list_delete_first(launcher->queue);
	}
}

/*
 * Has the last visit ended?
 */
static bool
visit_has_ended(Launcher *launcher)
{
	if (launcher->visit != NULL && !has_ended(&launcher->visit))
		return false;
	launcher->visiting = InvalidOid;
	return true;
}

/*
 * Start the next visit, if there is none.  Returns for how long nothing more
 * can be done here, in ms.
 */
static long
run_visits(Launcher *launcher)
{
	BackgroundWorker worker;
	Oid			dboid;

	if (launcher->queue != NIL && launcher->visit == NULL)
		drop_unreachable(launcher);
	if (launcher->queue != NIL && launcher->visit == NULL)
	{
		dboid = linitial_oid(launcher->queue);
		describe_worker(&worker, "maintenance", "oi_maintenance_main");
		snprintf(worker.bgw_name, BGW_MAXLEN,
				 "order_idempotency maintenance of database %u", dboid);
		worker.bgw_main_arg = ObjectIdGetDatum(dboid);
		oi_visit_plan(dboid);
		oi_shared->no_visit = !start_process(launcher, &worker, &launcher->visit);
		if (oi_shared->no_visit)
			return NO_PROCESS_INTERVAL;
		launcher->visiting = dboid;
		launcher->queue = list_delete_first(launcher->queue);
	}
	oi_visit_set_waiting(launcher->queue != NIL);

	return SCAN_INTERVAL;
}

/*
 * Note the start of a worker for a slot, and when the next one may be.  The
 * lock is held.
 */
static void
plan_next_start(OiSlot *slot, TimestampTz now)
{
	if (TimestampDifferenceExceeds(slot->started_at, now, 2 * RESTART_MOST))
		slot->failures = 0;
	slot->failures++;
	slot->started_at = now;
	slot->start_after = TimestampTzPlusMilliseconds(now,
													oi_backoff(slot->failures, RESTART_FIRST,
															   RESTART_MOST, 0));
	slot->state = OI_WORKER_STARTING;
}

/*
 * Does a slot need a process, and may it be started now?  "wait" is lowered
 * to the time until it may.
 */
static bool
is_due(int index, OiWorkerArgs *args, long *wait)
{
	OiSlot	   *slot = &oi_shared->slots[index];
	TimestampTz now = GetCurrentTimestamp();
	bool		needed;

	LWLockAcquire(oi_shared->lock, LW_SHARED);
	needed = OidIsValid(slot->dboid) && slot->pid == 0;
	if (needed && !oi_time_has_come(slot->start_after, now, RESTART_MOST))
	{
		*wait = Min(*wait, TimestampDifferenceMilliseconds(now, slot->start_after));
		needed = false;
	}
	args->dboid = slot->dboid;
	args->subscription = slot->subscription;
	LWLockRelease(oi_shared->lock);

	return needed;
}

/*
 * The same, and can its worker connect?  Where a database takes no connections
 * at all its slots are freed, until a visit is possible again.
 */
static bool
may_start(int index, OiWorkerArgs *args, long *wait)
{
	OiSlot	   *slot = &oi_shared->slots[index];
	OiAccess	access;
	bool		same;

	if (!is_due(index, args, wait))
		return false;
	access = oi_database_access(args->dboid);
	if (access == OI_ACCESS_LOCKED)
		*wait = Min(*wait, LOCKED_INTERVAL);
	if (access == OI_ACCESS_NONE)
		oi_shmem_sync_database(args->dboid, NULL, 0);
	if (access != OI_ACCESS_OPEN)
		return false;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	same = slot->dboid == args->dboid && slot->subscription == args->subscription &&
		slot->pid == 0;
	if (same)
		plan_next_start(slot, GetCurrentTimestamp());
	LWLockRelease(oi_shared->lock);

	return same;
}

/*
 * The server had no process for a slot: say so there.
 */
static void
note_no_process(int index)
{
	OiSlot	   *slot = &oi_shared->slots[index];

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	slot->state = OI_WORKER_NO_PROCESS;
	slot->failures = 0;
	slot->start_after = TimestampTzPlusMilliseconds(slot->started_at,
													NO_PROCESS_INTERVAL);
	LWLockRelease(oi_shared->lock);

	oi_slot_set_error(index, "out of background worker slots");
}

/*
 * A worker ended that had not said why: refer to the log.
 */
static void
note_end(int index)
{
	OiSlot	   *slot = &oi_shared->slots[index];
	bool		silent;

	LWLockAcquire(oi_shared->lock, LW_EXCLUSIVE);
	silent = OidIsValid(slot->dboid) && slot->error_at < slot->started_at && !slot->made_room;
	if (OidIsValid(slot->dboid) && slot->pid == 0)
		slot->state = OI_WORKER_STOPPED;
	LWLockRelease(oi_shared->lock);

	if (silent)
		oi_slot_set_error(index, "worker ended; the server log says why");
}

/*
 * Start what has to be started.  Returns for how long nothing more can be
 * done here, in ms.
 */
static long
run_workers(Launcher *launcher)
{
	long		wait = SCAN_INTERVAL;
	bool		ended = false;

	for (int i = 0; i < oi_shared->nslots; i++)
	{
		BackgroundWorker worker;
		OiWorkerArgs args = {0};

		if (launcher->workers[i] != NULL)
		{
			if (!has_ended(&launcher->workers[i]))
				continue;
			note_end(i);
			ended = true;
		}
		if (!may_start(i, &args, &wait))
			continue;

		describe_worker(&worker, "worker", "oi_worker_main");
		snprintf(worker.bgw_name, BGW_MAXLEN,
				 "order_idempotency worker for subscription %d of database %u",
				 args.subscription, args.dboid);
		worker.bgw_main_arg = Int32GetDatum(i);
		memcpy(worker.bgw_extra, &args, sizeof(args));
		if (!start_process(launcher, &worker, &launcher->workers[i]))
			note_no_process(i);
	}
	if (ended)
		oi_forget_dropped_databases();

	return wait;
}

/*
 * Entry point of the launcher.
 */
void
oi_launcher_main(Datum arg)
{
	Launcher	launcher = {0};
	uint32		event = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	oi_shmem_attach_launcher();

	launcher.context = TopMemoryContext;
	launcher.workers = MemoryContextAllocZero(TopMemoryContext,
											  oi_shared->nslots * sizeof(BackgroundWorkerHandle *));
	CurrentMemoryContext = AllocSetContextCreate(TopMemoryContext,
												 "order_idempotency launcher",
												 ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		MemoryContext cycle = CurrentMemoryContext;
		long		wait;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			/* another environment arms other subscriptions */
			launcher.next_scan = 0;
		}

		visit_has_ended(&launcher);
		wait = collect_visits(&launcher);
		wait = Min(wait, run_visits(&launcher));
		wait = Min(wait, run_workers(&launcher));
		MemoryContextSwitchTo(cycle);
		MemoryContextReset(cycle);

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 wait, oi_compat_wait_event(&event, "OrderIdempotencyLauncher"));
		ResetLatch(MyLatch);
	}
}
