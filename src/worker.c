/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The process that carries a subscription's events to its sink.
 *
 * A cycle is: read a batch (drain.c), hand it to the sink (sink_loader.c),
 * record where the cursor is.  A crash between the last two leaves a batch
 * that is delivered and not recorded: it is sent again under the same event
 * ids, unless the sink finds those at the receiver.
 *
 * An error of the sink is the sink's: the batch is kept and tried again,
 * after a wait that doubles.  An error of the database ends the worker with
 * exit code 1, and the launcher starts another.  The subscription disarmed, or
 * it, its database or the extension gone: exit code 0.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "backoff.h"
#include "common/pg_prng.h"
#include "drain.h"
#include "durable.h"
#include "guc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "shmem.h"
#include "sink_loader.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "worker.h"

/* ms that a sink may take for a batch before it has to give up */
#define DELIVERY_TIMEOUT 30000

/* ms between two attempts at a batch that fails: the first, and the most */
#define RETRY_FIRST 200
#define RETRY_MOST 30000

/*
 * A cursor that only passed over rows is recorded when it passed over so
 * many, or when so many ms went by.
 */
#define PASSED_MOST 100000
#define RECORD_INTERVAL 60000

/* a worker; there is one in a process */
typedef struct Worker
{
	OiSubscription *sub;
	Oid			owner;
	OiCursor	cursor;
	OiSink		sink;
	OiBatch    *batch;			/* events not delivered; NULL: none */
	MemoryContext batch_context;
	int			failures;		/* of deliveries, in a row */
	char		error[OI_ERROR_LEN];	/* the last that was logged */
} Worker;

static Worker worker;

/* settings were read again: is the subscription still armed? */
static bool reloaded = false;

/* a server, a user mapping or a wrapper changed: define the sink anew */
static bool definitions_changed = false;

/*
 * Syscache callback.
 */
static void
note_change(Datum arg, int cacheid, uint32 hashvalue)
{
	definitions_changed = true;
}

/*
 * before_shmem_exit callback: a library's threads must have ended before
 * the process does.
 */
static void
stop_sink(int code, Datum arg)
{
	oi_sink_stop(&worker.sink);
}

/*
 * Whatever the owner's role or the database has set for sessions, the worker
 * needs these.  The plans of its queries must not depend on statistics.
 */
static void
set_session(void)
{
	static const char *const settings[][2] = {
		{"client_min_messages", "warning"},
		{"default_transaction_deferrable", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_indexscan", "on"},
		{"enable_material", "off"},
		{"enable_mergejoin", "off"},
		{"enable_nestloop", "on"},
		{"enable_seqscan", "off"},
		{"enable_sort", "off"},
		{"jit", "off"},
		{"lock_timeout", "0"},
		{"plan_cache_mode", "force_generic_plan"},
		{"row_security", "on"},
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		{"synchronous_commit", "on"},
	};

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
 * The subscription is not to be published from here, or it is gone.
 */
static void
disarm(void)
{
	if (oi_drain_exists(worker.sub))
		ereport(LOG,
				(errmsg("subscription \"%s\" is disarmed", worker.sub->name),
				 errhint("View order_idempotency.subscription_status says why.")));
	finish();
}

/*
 * What has to be done wherever the worker waits or begins anew.
 */
static void
handle_interrupts(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		reloaded = true;
	}
}

/*
 * Sleep until the latch is set, or the time is over.
 */
static void
rest(OiWorkerState state, long timeout)
{
	oi_slot_set_state(state);
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(true);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	handle_interrupts();
}

/*
 * Attach to the slot, connect, and find the subscription and its cursor.
 */
static void
start(int index, const OiWorkerArgs *args)
{
	char	   *name;

	if (!oi_slot_attach(index, args->dboid, args->subscription, &worker.owner))
		proc_exit(0);
	before_shmem_exit(stop_sink, (Datum) 0);
	BackgroundWorkerInitializeConnectionByOid(args->dboid, worker.owner, 0);
	set_session();
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, note_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, note_change, (Datum) 0);

	MemoryContextSwitchTo(TopMemoryContext);
	worker.batch_context = AllocSetContextCreate(TopMemoryContext,
												 "order_idempotency batch",
												 ALLOCSET_DEFAULT_SIZES);
	worker.cursor.context = AllocSetContextCreate(TopMemoryContext,
												  "order_idempotency cursor",
												  ALLOCSET_SMALL_SIZES);
	worker.sub = oi_drain_subscription(args->subscription);
	if (worker.sub == NULL)
		finish();
	if (!oi_drain_armed(worker.sub))
		disarm();
	if (!oi_drain_load(worker.sub, &worker.cursor))
	{
		if (!oi_drain_exists(worker.sub))
			finish();
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("subscription \"%s\" has no cursor", worker.sub->name)));
	}

	name = psprintf("order_idempotency %s", worker.sub->name);
	SetConfigOption("application_name", name, PGC_USERSET, PGC_S_OVERRIDE);
	pfree(name);
}

/*
 * Record the cursor after some deliveries.
 */
static void
record(int64 delivered)
{
	if (!oi_drain_record(worker.sub, &worker.cursor, delivered))
		finish();
	pgstat_report_stat(false);
}

/*
 * Move past rows that the subscription does not want, without a write for
 * each time.
 */
static void
pass_over(const OiBatch *batch)
{
	OiCursor   *cursor = &worker.cursor;

	oi_drain_advance(cursor, batch);
	if (cursor->passed > PASSED_MOST ||
		(cursor->passed > 0 &&
		 TimestampDifferenceExceeds(cursor->recorded_at, GetCurrentTimestamp(),
									RECORD_INTERVAL)))
		record(0);
}

/*
 * Read the next batch, or the next part of it.  False: there is nothing to
 * do, as of a moment that came after the request for a wake-up; so whoever
 * commits events after it will set our latch.
 */
static bool
fetch_batch(void)
{
	bool		opens = worker.cursor.batch.snapshot == NULL;
	bool		old;
	OiBatch    *batch;

	MemoryContextReset(worker.batch_context);
	MemoryContextSwitchTo(worker.batch_context);
	pgstat_report_activity(STATE_RUNNING, "reading the log");

	/* before the snapshot is taken, or a commit after it would be missed */
	oi_slot_sleep(true);
	batch = oi_drain_read(worker.sub, &worker.cursor);
	if (batch == NULL)
		finish();

	/* the end of an older incarnation of the log is not that of the log */
	old = oi_moment_is_end(&worker.cursor.batch);
	if (batch->n == 0)
	{
		bool		exhausted = batch->exhausted;

		pass_over(batch);
		return old || !opens || !exhausted || !oi_slot_sleeps();
	}
	oi_slot_sleep(false);
	oi_slot_set_state(OI_WORKER_DELIVERING);
	oi_make_durable(batch->lsn);
	worker.batch = batch;
	return true;
}

/*
 * A delivery failed: say so once for each error, and wait.
 */
static void
retry_later(const char *error)
{
	TimestampTz until;
	int			wait;

	oi_slot_note_error(error);
	if (strncmp(worker.error, error, OI_ERROR_LEN - 1) != 0)
	{
		strlcpy(worker.error, error, OI_ERROR_LEN);
		ereport(WARNING,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not deliver events of subscription \"%s\": %s",
						worker.sub->name, error),
				 errhint("Delivery is tried again until it succeeds.")));
	}

	wait = oi_backoff(++worker.failures, RETRY_FIRST, RETRY_MOST,
					  pg_prng_double(&pg_global_prng_state));
	until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);
	while (wait > 0 && oi_publish && !reloaded && !oi_slot_take_recheck())
	{
		rest(OI_WORKER_RETRYING, wait);
		wait = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	}

	if (!oi_drain_exists(worker.sub))
		finish();
}

/*
 * Start the sink where there is none, or where its definition has changed.
 */
static bool
ready_sink(char **error)
{
	if (definitions_changed)
		oi_sink_stop(&worker.sink);
	definitions_changed = false;

	return worker.sink.started ||
		oi_sink_start(&worker.sink, worker.sub, worker.owner, error);
}

/*
 * Take the events delivered out of the batch.  The reason of the first that
 * was not, or NULL.
 */
static const char *
take_out_delivered(OiBatch *batch)
{
	const char *reason = NULL;
	int			left = 0;

	for (int i = 0; i < batch->n; i++)
	{
		const OiSinkEvent *event = &batch->events[i];

		if (event->outcome == OI_SINK_DELIVERED)
			continue;
		if (reason == NULL)
			reason = event->reason ? event->reason : "event not delivered";
		batch->events[left++] = *event;
	}
	batch->n = left;

	return reason;
}

/*
 * Deliver what is left of the batch, and record what went out.
 */
static void
deliver_batch(void)
{
	const char *reason = NULL;
	char	   *error = NULL;
	int			before = worker.batch->n;
	bool		ok;

	MemoryContextSwitchTo(worker.batch_context);
	pgstat_report_activity(STATE_RUNNING, "delivering events");
	oi_slot_set_state(OI_WORKER_DELIVERING);

	ok = ready_sink(&error) &&
		oi_sink_deliver(&worker.sink, worker.batch->events, worker.batch->n,
						TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DELIVERY_TIMEOUT),
						&error);
	reason = ok ? take_out_delivered(worker.batch) : error;
	if (worker.batch->n < before)
	{
		oi_drain_advance(&worker.cursor, worker.batch);
		record(before - worker.batch->n);
	}
	if (worker.batch->n == 0)
		worker.batch = NULL;

	if (reason != NULL)
		retry_later(reason);
	else
	{
		worker.failures = 0;
		worker.error[0] = '\0';
	}
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
		if (reloaded && !oi_drain_armed(worker.sub))
			disarm();
		reloaded = false;
		if (!oi_publish)
			rest(OI_WORKER_OFF, oi_poll_interval);
		else if (worker.batch != NULL)
			deliver_batch();
		else if (!fetch_batch())
			rest(OI_WORKER_IDLE, oi_poll_interval);
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
