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
 * the worker tries again later.
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
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "sink_loader.h"
#include "storage/fd.h"
#include "storage/lwlock.h"
#include "storage/condition_variable.h"
#include "subscription.h"
#include "utils/acl.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

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
 */
static void
read_server(OiSink *sink, const OiSubscription *sub, Oid owner)
{
	ForeignServer *server = GetForeignServerByName(sub->server, false);
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);
	MemoryContext old;

	(void) oi_check_server(server, wrapper, owner);

	old = MemoryContextSwitchTo(sink->state.context);
	sink->library = pstrdup(wrapper->fdwname);
	sink->state.subscription = sub->name;
	sink->state.topic = sub->topic;
	sink->state.source = oi_cloudevent_source(get_database_name(MyDatabaseId));
	sink->state.options = copyObject(server->options);
	sink->state.user_options = copyObject(user_options(owner, server->serverid));
	MemoryContextSwitchTo(old);
}

/*
 * Sinks are called outside of transactions.  What the server's functions keep
 * account of (crypto contexts, for example) has an owner all the same.
 */
static ResourceOwner sink_owner = NULL;

/*
 * Before a callback.
 */
static void
enter_sink(void)
{
	if (sink_owner == NULL)
		sink_owner = ResourceOwnerCreate(NULL, "order_idempotency sink");
	CurrentResourceOwner = sink_owner;
}

/*
 * After it: release what it left; it should have left nothing where it was ok.
 */
static void
leave_sink(bool ok)
{
	if (sink_owner == NULL)		/* the error came before the first callback */
		return;
	ResourceOwnerRelease(sink_owner, RESOURCE_RELEASE_BEFORE_LOCKS, ok, true);
	ResourceOwnerRelease(sink_owner, RESOURCE_RELEASE_LOCKS, ok, true);
	ResourceOwnerRelease(sink_owner, RESOURCE_RELEASE_AFTER_LOCKS, ok, true);
	CurrentResourceOwner = NULL;
}

/*
 * Clean up after an ERROR outside of what a transaction would clean up, and
 * return its message in the given context.
 */
static char *
recover(MemoryContext context)
{
	ErrorData  *edata;
	char	   *message;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	leave_sink(false);
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	AtEOXact_Files(false);
	AtEOXact_HashTables(false);
	MemoryContextSwitchTo(context);
	if (edata->detail != NULL)
		message = psprintf("%s (%s)", edata->message, edata->detail);
	else
		message = pstrdup(edata->message);
	FreeErrorData(edata);
	RESUME_INTERRUPTS();

	return message;
}

/*
 * The steps of starting a sink; any may raise an ERROR.
 */
static void
start_steps(OiSink *sink, const OiSubscription *sub, Oid owner, MemoryContext context)
{
	const char *missing = NULL;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	read_server(sink, sub, owner);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	load_library(sink);
	enter_sink();
	if (sink->callbacks->check_configured)
		missing = sink->callbacks->check_configured(&sink->state);
	if (missing != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server \"%s\" is not configured: %s", sub->server, missing)));
	sink->entered = true;
	if (sink->callbacks->startup)
		sink->callbacks->startup(&sink->state);
	sink->started = true;
	leave_sink(true);
}

/*
 * Start the sink of a subscription, as its server defines it now.  False: it
 * could not be started, and *error, in the current context, says why.
 */
bool
oi_sink_start(OiSink *sink, const OiSubscription *sub, Oid owner, char **error)
{
	MemoryContext context = CurrentMemoryContext;

	oi_sink_stop(sink);
	sink->state.context = AllocSetContextCreate(TopMemoryContext,
												"order_idempotency sink",
												ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		start_steps(sink, sub, owner, context);
	}
	PG_CATCH();
	{
		*error = recover(context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);

	return sink->started;
}

/*
 * Take the events delivered out of a batch.  *error is set to the reason of
 * the first that was not.
 */
static void
take_out_delivered(OiBatch *batch, char **error)
{
	int			left = 0;

	for (int i = 0; i < batch->n; i++)
	{
		const OiSinkEvent *event = &batch->events[i];

		if (event->outcome == OI_SINK_DELIVERED)
			continue;
		if (*error == NULL)
			*error = pstrdup(event->reason ? event->reason : "event not delivered");
		batch->events[left++] = *event;
	}
	batch->n = left;
}

/*
 * Hand the events of a batch to the sink, and take those delivered out of the
 * batch.  False: there is an *error in the current context; it may also be
 * that of a single event.
 */
bool
oi_sink_deliver(OiSink *sink, OiBatch *batch, TimestampTz deadline, char **error)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(context, "order_idempotency delivery",
												  ALLOCSET_DEFAULT_SIZES);

	*error = NULL;
	for (int i = 0; i < batch->n; i++)
	{
		batch->events[i].outcome = OI_SINK_RETRY;
		batch->events[i].reason = NULL;
		batch->events[i].retry_after = 0;
	}

	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		enter_sink();
		sink->callbacks->deliver(&sink->state, batch->events, batch->n, deadline);
		leave_sink(true);
	}
	PG_CATCH();
	{
		*error = recover(context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);

	if (*error == NULL)
		take_out_delivered(batch, error);
	MemoryContextDelete(scratch);

	return *error == NULL;
}

/*
 * Stop the sink, if it was started at all, and forget its state.
 */
void
oi_sink_stop(OiSink *sink)
{
	if (sink->entered && sink->callbacks->shutdown)
	{
		enter_sink();
		sink->callbacks->shutdown(&sink->state);
		leave_sink(true);
	}
	if (sink->state.context != NULL)
		MemoryContextDelete(sink->state.context);
	memset(sink, 0, sizeof(*sink));
}
