/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The process that carries a subscription's events to its sink.
 *
 * What it does is in cycle.c; this is its life.  An error of the database ends
 * it with exit code 1, and the launcher starts another.  The subscription
 * paused, disarmed or gone, or its database or the extension gone: exit code
 * 0.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "compat.h"
#include "cycle.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "session.h"
#include "shmem.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "sublock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker.h"

/*
 * Bytes that are kept for batches, which is enough for most.  Memory that is given
 * back after each and asked for again costs as much as reading the events.
 */
#define BATCH_KEPT (1024 * 1024)

OiWorker	oi_worker;

/*
 * Syscache callback.
 */
static void
note_change(Datum arg, int cacheid, uint32 hashvalue)
{
	oi_worker.definitions_changed = true;
}

/*
 * Syscache callback: a role or its memberships changed, or it was dropped, which may
 * be the owner; or who may connect to a database.
 */
static void
note_role_change(Datum arg, int cacheid, uint32 hashvalue)
{
	oi_worker.reloaded = true;
	oi_worker.roles_changed = true;
}

/*
 * before_shmem_exit callback: a library's threads must have ended before
 * the process does.
 */
static void
stop_sink(int code, Datum arg)
{
	oi_sink_stop(&oi_worker.sink);
}

/*
 * Whatever the owner's role or the database has set for sessions, the worker
 * needs these, besides what all processes do.  The plans of its queries must not
 * depend on statistics.  Its commits are flushed where that matters (cycle.c).
 */
static void
set_session(void)
{
	static const char *const settings[][2] = {
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_indexscan", "on"},
		{"enable_material", "off"},
		{"enable_mergejoin", "off"},
		{"enable_nestloop", "on"},
		{"enable_seqscan", "off"},
		{"enable_sort", "off"},
		{"enable_tidscan", "on"},
		{"plan_cache_mode", "force_generic_plan"},
		{"synchronous_commit", "off"},
	};

	oi_session_settle();
	for (size_t i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * The subscription is disarmed or gone, or everything is.  Another one may
 * have its number by now, and a scout that found that in this slot: have
 * another look.
 */
static void
finish(void)
{
	oi_slot_free();
	oi_shmem_request_scan(MyDatabaseId);
	proc_exit(0);
}

/*
 * Take over what the tables say of the subscription, under its lock: it takes
 * more than one transaction, and a change between two of them would go
 * unnoticed for ever.  With what somebody has changed, the receiver gets another
 * chance.
 */
void
oi_worker_load(void)
{
	char	   *server = pstrdup(oi_worker.sub->server);
	char	   *topic = pstrdup(oi_worker.sub->topic);
	int			backoff_max = oi_worker.sub->backoff_max;

	oi_sublock_hold(oi_worker.sub->relid, oi_worker.id);
	oi_worker.batch = NULL;
	MemoryContextReset(oi_worker.sub_context);
	MemoryContextSwitchTo(oi_worker.sub_context);
	oi_worker.sub = oi_drain_subscription(oi_worker.id);
	if (oi_worker.sub == NULL)
		finish();
	if (!oi_drain_armed(oi_worker.sub))
	{
		ereport(LOG,
				(errmsg("subscription \"%s\" is paused, disarmed, invalidated, or without an owner", oi_worker.sub->name),
				 errhint("View order_idempotency.subscription_status says why.")));
		finish();
	}
	if (!oi_drain_load(oi_worker.sub, &oi_worker.cursor, &oi_worker.held))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("subscription \"%s\" has no cursor", oi_worker.sub->name)));
	if (strcmp(server, oi_worker.sub->server) != 0 ||
		strcmp(topic, oi_worker.sub->topic) != 0 ||
		backoff_max != oi_worker.sub->backoff_max)
		oi_sink_stop(&oi_worker.sink);
	oi_breaker_reset(&oi_worker.breaker);
}

/*
 * What has to be done wherever the worker waits or begins anew.
 */
static void
handle_interrupts(void)
{
	/* a cancel came too late for a delivery: nothing is under way here */
	QueryCancelPending = false;
	(void) oi_slot_take_cancel();
	if (oi_session_interrupts())
		oi_worker.reloaded = true;
}

/*
 * Sleep until the latch is set, or the time is over.
 */
void
oi_worker_rest(OiWorkerState state, long timeout)
{
	static uint32 idle = 0;
	static uint32 retry = 0;

	oi_slot_set_state(state);
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(true);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout,
					 state == OI_WORKER_RETRYING ?
					 oi_compat_wait_event(&retry, "OrderIdempotencyRetry") :
					 oi_compat_wait_event(&idle, "OrderIdempotencyIdle"));
	ResetLatch(MyLatch);
	handle_interrupts();
}

/*
 * A memory context of the worker's, which keeps so many bytes when it is reset.
 */
static MemoryContext
make_context(const char *name, Size kept)
{
	return AllocSetContextCreateInternal(TopMemoryContext, name, kept,
										 ALLOCSET_DEFAULT_INITSIZE, ALLOCSET_DEFAULT_MAXSIZE);
}

/*
 * Attach to the slot, connect, and find the subscription and its cursor.
 */
static void
start(int index, const OiWorkerArgs *args)
{
	char	   *name;

	if (!oi_slot_attach(index, args->dboid, args->subscription, &oi_worker.owner))
		proc_exit(0);
	oi_sublock_prepare();
	before_shmem_exit(stop_sink, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(args->dboid, oi_worker.owner, 0);
	HOLD_CANCEL_INTERRUPTS();	/* but in a delivery */
	set_session();
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, note_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, note_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(DATABASEOID, note_role_change, (Datum) 0);

	oi_worker.id = args->subscription;
	oi_worker.sub_context = make_context("order_idempotency subscription", ALLOCSET_DEFAULT_MINSIZE);
	oi_worker.batch_context = make_context("order_idempotency batch", BATCH_KEPT);
	oi_worker.cycle_context = make_context("order_idempotency cycle", ALLOCSET_DEFAULT_MINSIZE);
	oi_worker.cursor.context = make_context("order_idempotency cursor", ALLOCSET_DEFAULT_MINSIZE);
	(void) oi_clock_went_back();
	MemoryContextSwitchTo(oi_worker.sub_context);
	oi_worker.sub = oi_drain_subscription(oi_worker.id);
	if (oi_worker.sub == NULL)
		finish();
	MemoryContextSwitchTo(oi_worker.cycle_context);
	oi_worker_load();
	oi_sublock_let_go();

	name = psprintf("order_idempotency %s", oi_worker.sub->name);
	SetConfigOption("application_name", name, PGC_USERSET, PGC_S_OVERRIDE);
	pfree(name);
}

/*
 * Serve the subscription until it is gone.
 */
static void
run(void)
{
	for (;;)
	{
		handle_interrupts();
		if (oi_publish)
			oi_cycle();
		else
			oi_worker_rest(OI_WORKER_OFF, oi_poll_interval);
	}
}

/*
 * Entry point of a worker.
 */
void
oi_worker_main(Datum arg)
{
	OiWorkerArgs args;

	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	PG_TRY();
	{
		start(DatumGetInt32(arg), &args);
		run();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(TopMemoryContext);
		oi_slot_note_error(CopyErrorData()->message);
		PG_RE_THROW();
	}
	PG_END_TRY();

	proc_exit(1);
}
