/*-------------------------------------------------------------------------
 *
 * sink_loader.c
 *		Loading a sink and calling it safely.
 *
 * The library of a sink is named by the foreign-data wrapper of the
 * subscription's server, and is loaded in the worker only.  The name comes
 * from a catalog that ordinary roles cannot write to (a wrapper takes a
 * superuser), and only a plain word is let through, so it cannot lead out
 * of the library directory.
 *
 * An ERROR in a sink ends the call, never the worker: it is caught here, and
 * the worker tries again later.  Who writes a sink makes mistakes, so nothing
 * that a callback leaves behind is left (sink_guard.c), none of its answers is
 * used as it is (sink_outcome.c), and it has neither the time that it takes
 * (sink_watch.c) nor the memory (sink_memory.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "compat.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "shmem.h"
#include "sink_guard.h"
#include "sink_loader.h"
#include "sink_memory.h"
#include "sink_outcome.h"
#include "sink_watch.h"
#include "stats_delivery.h"
#include "storage/ipc.h"
#include "subscription.h"
#include "topic.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* ms that a sink has to start in, and to shut down in */
#define START_TIMEOUT 30000
#define SHUTDOWN_TIMEOUT 3000

/* a sink whose calls end in this many errors in a row is started anew */
#define ERRORS_MOST 5

/* is a callback running? */
static bool in_callback = false;

/* what was called before us with what goes to the log */
static emit_log_hook_type next_log_hook = NULL;

/*
 * The value of an option, or NULL.
 */
const char *
oi_sink_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			return defGetString(option);
	}
	return NULL;
}

/*
 * Load a sink's library and take its callbacks.
 */
static void
load_library(OiSink *sink)
{
	OiSinkInit	init;
	const OiSinkCallbacks *callbacks;
	char	   *path = psprintf("$libdir/%s", sink->library);

	init = (OiSinkInit) load_external_function(path, "_PG_order_sink_init", true, NULL);
	callbacks = init();
	if (callbacks == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"%s\" returned no sink", path)));
	if (callbacks->magic != OI_SINK_MAGIC)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"%s\" is for another version of order_idempotency", path),
				 errdetail("The sink has magic number 0x%08X, the server expects 0x%08X.",
						   callbacks->magic, OI_SINK_MAGIC)));
	if (callbacks->deliver == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"%s\" has no callback to deliver with", path)));
	sink->callbacks = callbacks;
}

/*
 * The options of the owner's user mapping, or NIL.  GetUserMapping() raises an
 * error where there is none.
 */
static List *
user_options(Oid owner, Oid serverid)
{
	HeapTuple	tuple;
	Datum		datum;
	bool		isnull;
	List	   *options = NIL;

	tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(owner),
							ObjectIdGetDatum(serverid));
	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(serverid));
	if (!HeapTupleIsValid(tuple))
		return NIL;

	datum = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		options = untransformRelOptions(datum);
	ReleaseSysCache(tuple);

	return options;
}

/*
 * Read the server's definition into the sink's state.  Runs in a transaction.
 * The server of that name may be another one than when the topic was given, for
 * another sink, to which it may mean another place.
 */
static void
read_server(OiSink *sink, const OiSubscription *sub, Oid owner)
{
	ForeignServer *server = GetForeignServerByName(sub->server, false);
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);
	MemoryContext old;

	oi_check_topic(oi_check_server(server, wrapper, owner), sub->topic);

	old = MemoryContextSwitchTo(sink->state.context);
	sink->library = pstrdup(wrapper->fdwname);
	sink->state.subscription = pstrdup(sub->name);
	sink->state.topic = pstrdup(sub->topic);
	sink->state.source = oi_cloudevent_source(get_database_name(MyDatabaseId));
	sink->state.options = copyObject(server->options);
	sink->state.user_options = copyObject(user_options(owner, server->serverid));
	sink->state.identity = psprintf("%s.%u.%d", sub->installation, MyDatabaseId, sub->id);
	sink->state.longest_wait = sub->backoff_max;
	MemoryContextSwitchTo(old);
}

/*
 * A message goes to the log: if it is the last one of this process, and comes out
 * of a callback, have the subscription's state show it too.
 */
static void
note_fatal(ErrorData *edata)
{
	if (in_callback && edata->elevel == FATAL && edata->message != NULL &&
		edata->sqlerrcode != ERRCODE_ADMIN_SHUTDOWN)
	{
		in_callback = false;
		oi_slot_note_error(edata->message);
	}
	if (next_log_hook)
		next_log_hook(edata);
}

/*
 * Before a callback.
 */
static void
enter_callback(OiGuard *guard)
{
	static bool hooked = false;
	static uint32 event = 0;

	if (!hooked)
	{
		next_log_hook = emit_log_hook;
		emit_log_hook = note_fatal;
		hooked = true;
	}
	oi_guard_enter(guard);
	in_callback = true;
	pgstat_report_wait_start(oi_compat_wait_event(&event, "OrderIdempotencySink"));
}

/*
 * After one that returned.  What it left is said once for each start of a
 * sink.
 */
static void
leave_callback(OiSink *sink, const OiGuard *guard)
{
	const char *left;

	(void) oi_watch_stop();
	left = oi_guard_leave(guard);
	in_callback = false;
	if (left != NULL && !sink->warned)
	{
		sink->warned = true;
		ereport(WARNING,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("sink library \"%s\" left %s", sink->library, left),
				 errdetail("This was undone.")));
	}
}

/*
 * After an ERROR, from a callback or before one: what to say of it, in the
 * context from before.
 */
static char *
recover(OiSink *sink, const OiGuard *guard)
{
	bool		overdue = oi_watch_stop();
	ErrorData  *edata = oi_guard_recover(guard);
	char	   *message;

	in_callback = false;
	if (overdue && edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		message = pstrdup("sink did not return by its deadline");
	else if (edata->detail != NULL)
		message = psprintf("%s (%s)", edata->message, edata->detail);
	else
		message = pstrdup(edata->message);
	FreeErrorData(edata);

	return oi_outcome_text(&sink->state, message);
}

/*
 * Load the sink and have it start, within a guard.
 */
static void
call_startup(OiSink *sink, const char *server)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), START_TIMEOUT);
	const char *missing = NULL;

	if (sigsetjmp(oi_watch_escape, 0) != 0)
	{
		sink->entered = false;
		oi_watch_abandon(sink->library);
	}
	oi_watch_start(deadline);
	load_library(sink);
	sink->state.numbered = sink->callbacks->numbered;
	if (sink->callbacks->check_configured)
		missing = sink->callbacks->check_configured(&sink->state);
	if (missing != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server \"%s\" is not configured: %s", server, missing)));
	sink->entered = true;
	if (sink->callbacks->startup)
		sink->callbacks->startup(&sink->state);
}

/*
 * The steps of starting a sink; any may raise an ERROR.
 */
static void
start_steps(OiSink *sink, const OiSubscription *sub, Oid owner)
{
	OiGuard		guard;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	read_server(sink, sub, owner);
	PopActiveSnapshot();
	CommitTransactionCommand();

	MemoryContextSwitchTo(sink->state.context);
	enter_callback(&guard);
	call_startup(sink, sub->server);
	leave_callback(sink, &guard);
	sink->started = true;
}

/*
 * Start the sink of a subscription, as its server defines it now; the cursor knows which
 * deliveries were recorded.  False: it could not be started, and *error, in the current
 * context, says why.
 */
bool
oi_sink_start(OiSink *sink, const OiSubscription *sub, Oid owner, const OiCursor *cursor,
			  char **error)
{
	MemoryContext context = CurrentMemoryContext;
	OiGuard		guard;

	oi_stats_serve(sub->id);
	oi_sink_stop(sink);
	sink->state.context = AllocSetContextCreate(TopMemoryContext,
												"order_idempotency sink",
												ALLOCSET_DEFAULT_SIZES);
	sink->state.token = cursor->token;
	sink->state.settled = cursor->settled;
	oi_guard_enter(&guard);
	PG_TRY();
	{
		start_steps(sink, sub, owner);
	}
	PG_CATCH();
	{
		*error = recover(sink, &guard);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);

	return sink->started;
}

/*
 * Have the sink deliver, within a guard.
 */
static void
call_deliver(OiSink *sink, OiSinkEvent *events, int n, TimestampTz deadline)
{
	OiGuard		guard;

	enter_callback(&guard);
	if (sigsetjmp(oi_watch_escape, 0) != 0)
	{
		sink->entered = false;
		oi_watch_abandon(sink->library);
	}
	oi_watch_start(deadline);
	sink->callbacks->deliver(&sink->state, events, n, deadline);
	leave_callback(sink, &guard);
}

/*
 * Have the sink deliver copies of events, and take over what it says, in a context.
 */
static void
deliver_copies(OiSink *sink, OiSinkEvent *events, int n, TimestampTz deadline,
			   MemoryContext context)
{
	OiSinkEvent *copies = palloc(sizeof(OiSinkEvent) * n);

	memcpy(copies, events, sizeof(OiSinkEvent) * n);
	call_deliver(sink, copies, n, deadline);
	MemoryContextSwitchTo(context);
	oi_outcome_take(&sink->state, events, copies, n);
}

/*
 * Hand events to the sink, which fills their outcomes, with reasons in the
 * current context.  False: the sink raised an ERROR, and *error, in the same
 * context, says which; all events are to be sent again.
 */
bool
oi_sink_deliver(OiSink *sink, OiSinkEvent *events, int n, TimestampTz deadline, char **error)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext scratch;
	OiGuard		guard;
	Size		memory;

	oi_sink_memory_end_if_leaking(sink);
	memory = oi_sink_memory_of_others(sink, context);
	scratch = AllocSetContextCreate(context, "order_idempotency delivery", ALLOCSET_DEFAULT_SIZES);
	*error = NULL;
	for (int i = 0; i < n; i++)
	{
		events[i].outcome = OI_SINK_RETRY;
		events[i].reason = NULL;
		events[i].retry_after = 0;
	}
	oi_guard_enter(&guard);
	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		deliver_copies(sink, events, n, deadline, context);
		sink->errors = 0;
	}
	PG_CATCH();
	{
		*error = recover(sink, &guard);
		sink->errors++;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	MemoryContextDelete(scratch);

	oi_stats_note_delivery(events, n, *error != NULL);
	if (oi_sink_memory_check(sink, memory, context) || sink->errors >= ERRORS_MOST)
		oi_sink_stop(sink);

	return *error == NULL;
}

/*
 * Have the sink shut down, within a guard.
 */
static void
call_shutdown(OiSink *sink)
{
	OiGuard		guard;

	enter_callback(&guard);
	if (sigsetjmp(oi_watch_escape, 0) == 0)
	{
		oi_watch_start(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SHUTDOWN_TIMEOUT));
		sink->callbacks->shutdown(&sink->state);
		leave_callback(sink, &guard);
	}
	else if (proc_exit_inprogress)
		oi_watch_abandon_exiting(sink->library);
	else
		oi_watch_abandon(sink->library);
}

/*
 * Stop the sink, if it was started at all, and forget its state.  An error is
 * only told: the sink is gone all the same.
 */
void
oi_sink_stop(OiSink *sink)
{
	OiGuard		guard;

	if (sink->entered && sink->callbacks->shutdown)
	{
		sink->entered = false;
		oi_guard_enter(&guard);
		PG_TRY();
		{
			call_shutdown(sink);
		}
		PG_CATCH();
		{
			char	   *error = recover(sink, &guard);

			ereport(WARNING,
					(errcode(ERRCODE_FDW_ERROR),
					 errmsg("sink library \"%s\" failed to shut down: %s",
							sink->library, error)));
			pfree(error);
		}
		PG_END_TRY();
		MemoryContextSwitchTo(guard.context);
	}
	if (sink->state.context != NULL)
		MemoryContextDelete(sink->state.context);
	memset(sink, 0, sizeof(*sink));
}
