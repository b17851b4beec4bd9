/*-------------------------------------------------------------------------
 *
 * handover.c
 *		Handing events to the sink.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "compat.h"
#include "fault.h"
#include "foreign/foreign.h"
#include "handover.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

/* ms that a sink may take for a batch before it has to give up */
#define DELIVERY_TIMEOUT 30000

/* the same for events that failed before, the first time; it doubles each time */
#define RETRY_TIMEOUT 1000

/*
 * A receiver has what the database does not know that it sent.
 */
static void
report_ahead(void)
{
	ereport(WARNING,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("receiver of subscription \"%s\" is ahead of the database",
					oi_worker.sub->name),
			 errdetail("It has delivery %lld of timeline %u; the last that is recorded here is %lld of timeline %u.",
					   (long long) oi_worker.sink.state.receiver.number,
					   oi_worker.sink.state.receiver.timeline,
					   (long long) oi_worker.cursor.token.number,
					   oi_worker.cursor.token.timeline),
			 errhint("A failover lost what was recorded here. Events of that time may be delivered twice, under the same event ids or, where the log lost them, under others.")));
}

/*
 * Does the owner still have the right to the server?  Who may not log in any
 * more, or not connect to the database, has no worker either.
 */
static bool
owner_is_permitted(void)
{
	MemoryContext context = CurrentMemoryContext;
	HeapTuple	role;
	ForeignServer *server;
	bool		permitted;

	StartTransactionCommand();
	role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(oi_worker.owner));
	if (!HeapTupleIsValid(role) || !((Form_pg_authid) GETSTRUCT(role))->rolcanlogin)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
				 errmsg("owner of subscription \"%s\" is not permitted to log in",
						oi_worker.sub->name)));
	ReleaseSysCache(role);
	if (!oi_compat_may_connect(MyDatabaseId, oi_worker.owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("owner of subscription \"%s\" is not permitted to connect to the database",
						oi_worker.sub->name)));
	server = GetForeignServerByName(oi_worker.sub->server, true);
	permitted = server != NULL &&
		oi_compat_server_aclcheck(server->serverid, oi_worker.owner, ACL_USAGE) == ACLCHECK_OK;
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	return permitted;
}

/*
 * Start the sink where there is none, or where its definition has changed.  One
 * that the owner has no right to any more is stopped; starting it says so.
 */
static bool
ready_sink(char **error)
{
	OiCursor   *cursor = &oi_worker.cursor;

	if (oi_worker.roles_changed)
	{
		oi_worker.roles_changed = false;
		if (!owner_is_permitted())
			oi_worker.definitions_changed = true;
	}
	if (oi_worker.definitions_changed)
		oi_sink_stop(&oi_worker.sink);
	oi_worker.definitions_changed = false;
	if (!oi_worker.sink.started)
	{
		if (!oi_sink_start(&oi_worker.sink, oi_worker.sub, oi_worker.owner, cursor, error))
			return false;
		oi_worker.receiver = oi_intent_compare(cursor, &oi_worker.sink.state);
		if (oi_worker.receiver == OI_RECEIVER_AHEAD)
			report_ahead();
	}

	/* the cursor may have been loaded anew, and the sink not been started */
	cursor->numbered = oi_worker.sink.state.numbered && oi_worker.sub->parks;
	if (oi_worker.sink.state.knows_receiver &&
		oi_worker.sink.state.receiver.number > cursor->token.number)
		cursor->token = oi_worker.sink.state.receiver;
	return true;
}

/*
 * Is of an event of a delivery not known what became of it?
 */
static bool
is_unknown(const OiDelivery *delivery)
{
	for (int i = 0; i < delivery->n; i++)
		if (delivery->events[i].outcome == OI_SINK_RETRY && delivery->events[i].reason == NULL)
			return true;
	return false;
}

/*
 * How long the sink may take.  While it is at an event that failed before, all others
 * wait.  If that one makes it hang, then not for long; but a receiver that is just
 * slow gets more time with each attempt.  A delivery with a number is repeated as it
 * is, so it cannot be given too little.
 */
void
oi_handover_set_timeout(OiDelivery *delivery, const OiBatch *batch)
{
	int			attempts = 0;

	for (int i = 0; i < delivery->n; i++)
		attempts = Max(attempts, batch->info[delivery->which[i]].attempts);
	delivery->timeout = DELIVERY_TIMEOUT;
	if (batch->failed && !oi_worker.cursor.numbered && attempts <= 5)
		delivery->timeout = RETRY_TIMEOUT << Max(0, attempts - 1);
}

/*
 * Have the sink ready, and hand it events if there are any.  Only here a cancel
 * is listened to: it comes from somebody who waits for the subscription's lock.
 */
OiHandover
oi_handover(OiDelivery *delivery, char **error)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   delivery ? delivery->timeout : 0);
	OiHandover	how = OI_HANDOVER_ANSWERED;

	pgstat_report_activity(STATE_RUNNING, "delivering events");
	oi_slot_set_state(OI_WORKER_DELIVERING);
	RESUME_CANCEL_INTERRUPTS();
	if (!ready_sink(error))
		how = OI_HANDOVER_NOT_STARTED;
	else if (delivery != NULL)
	{
		oi_slot_set_in_flight(delivery->n);
		OI_FAULT_POINT("sink:before");
		oi_worker.sink.state.token = oi_worker.cursor.token;
		oi_worker.sink.state.repeated = oi_worker.cursor.repeated;
		oi_worker.cursor.repeated = true;
		if (!oi_sink_deliver(&oi_worker.sink, delivery->events, delivery->n, deadline, error))
			how = OI_HANDOVER_FAILED;
		OI_FAULT_POINT("sink:after");
		oi_slot_set_in_flight(0);
		if (oi_worker.sink.state.knows_receiver &&
			(how == OI_HANDOVER_FAILED || is_unknown(delivery)))
			oi_sink_stop(&oi_worker.sink);
	}
	QueryCancelHoldoffCount = 1;

	return how;
}

/*
 * A numbered delivery that the receiver has already is not made again: all of it
 * was delivered.
 */
bool
oi_handover_was_received(OiDelivery *delivery)
{
	bool		has_it = oi_worker.receiver == OI_RECEIVER_HAS_IT;

	oi_worker.receiver = OI_RECEIVER_SILENT;
	if (!has_it || delivery->n == 0 || delivery->events[0].index == OI_NO_INDEX)
		return false;
	for (int i = 0; i < delivery->n; i++)
		delivery->events[i].outcome = OI_SINK_DELIVERED;
	return true;
}
