/*-------------------------------------------------------------------------
 *
 * log_limit.c
 *		How large the log may be.
 *
 * Setting max_retained bounds what subscriptions may hold.  Maintenance looks
 * at the size when it has emptied what may go; if that was not enough, and a
 * subscription holds the oldest generation, on_full decides: either sessions
 * are told, through shared memory, to refuse events, or the subscription is
 * invalidated and holds nothing any more.  See src/README, "The log's
 * generations".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "generation.h"
#include "guc.h"
#include "incarnation.h"
#include "log_hold.h"
#include "log_limit.h"
#include "shmem.h"
#include "sublock.h"
#include "subscription.h"

/* ms until the next look at a log that is at most half full, and at others */
#define LOOK_SELDOM 10000
#define LOOK_OFTEN 1000

/* ms that a subscription has for a generation when the next has begun */
#define TIME_TO_DELIVER 5000

/* The size of a slot's table, with all that belongs to it. */
static int64
slot_size(int slot)
{
	Oid			relid = oi_relation_oid(OI_REL_OUTBOX_0 + slot);

	return DatumGetInt64(DirectFunctionCall1(pg_total_relation_size,
											 ObjectIdGetDatum(relid)));
}

/* The size of the log. */
static int64
log_size(void)
{
	int64		size = 0;

	for (int slot = 0; slot < OI_SLOTS; slot++)
		size += slot_size(slot);
	return size;
}

/* The setting, in bytes; 0: no limit. */
static int64
limit(void)
{
	return (int64) oi_max_retained * 1024;
}

/* Is the log larger than it may be? */
bool
oi_log_is_over_limit(void)
{
	return limit() > 0 && log_size() > limit();
}

/* Has a slot so much that the next generation should begin? */
bool
oi_log_slot_is_large(int slot)
{
	return limit() > 0 && slot_size(slot) > limit() / OI_SLOTS;
}

/* A number of bytes for people. */
static char *
pretty(int64 bytes)
{
	return TextDatumGetCString(DirectFunctionCall1(pg_size_pretty, Int64GetDatum(bytes)));
}

/*
 * A generation expires.  Say what subscriptions that were invalidated lose with
 * it.
 */
void
oi_log_report_losses(int slot)
{
	List	   *losers = oi_log_holders(slot, OI_HOLDS_NOT);
	ListCell   *lc;

	foreach(lc, losers)
	{
		OiHolder   *loser = lfirst(lc);
		int64		last;
		int64		events = oi_log_count(slot, loser->id, &last);

		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("subscription \"%s\", which was invalidated, loses " INT64_FORMAT " events, up to position " INT64_FORMAT,
						loser->name, events, last)));
	}
}

/*
 * Called before an event is written: raises 53400 while the log is full.
 */
void
oi_log_check_room(void)
{
	OiFull		full;

	if (oi_max_retained == 0 || !oi_visit_is_full(&full))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("the log of events is full"),
			 errdetail("It takes %s, and order_idempotency.max_retained is %s. Not delivered by: %s.",
					   pretty(full.bytes), pretty(limit()), full.held_by),
			 errhint("See view order_idempotency.subscription_status: mend the receiver, resume or drop the subscription, or raise max_retained.")));
}

/* The names of holders in one string. */
static char *
names_of(const List *holders)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, holders)
		appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
						 ((OiHolder *) lfirst(lc))->name);
	return names.data;
}

/*
 * Who holds the oldest generation that is not written to any more and that
 * anybody holds.  A burst fills the log before anybody could deliver it: who
 * holds what was current a moment ago is not held up.
 */
static List *
oldest_holders(void)
{
	OiGeneration rows[OI_SLOTS];
	int			n = oi_generation_list(OI_STORE_OUTBOX, rows);
	TimestampTz now = GetCurrentTimestamp();
	List	   *holders = NIL;

	for (int i = 0; i < n - 1 && holders == NIL; i++)
		if (oi_time_has_come(TimestampTzPlusMilliseconds(rows[i + 1].started_at, TIME_TO_DELIVER),
							 now, TIME_TO_DELIVER))
			holders = oi_log_holders(rows[i].slot, OI_HOLDS);
	return holders;
}

/*
 * Have a subscription hold nothing any more, if nobody is at it now.  Its worker
 * ends when it looks at the cursor's row next.
 */
static bool
invalidate(const OiHolder *holder, int64 size)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(holder->id)};

	if (!oi_sublock_try(oi_relation_oid(OI_REL_SUBSCRIPTIONS), holder->id))
		return false;
	if (SPI_execute_with_args("UPDATE order_idempotency.subscriptions AS s"
							  " SET invalidated_at = pg_catalog.clock_timestamp()"
							  " WHERE s.id OPERATOR(pg_catalog.=) $1 AND s.invalidated_at IS NULL",
							  1, types, values, NULL, false, 0) != SPI_OK_UPDATE)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not invalidate a subscription")));
	if (SPI_processed == 0)
		return false;
	oi_subscription_touch(holder->id);
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("subscription \"%s\" was invalidated", holder->name),
			 errdetail("The log takes %s, and order_idempotency.max_retained is %s. What the subscription has not delivered is not kept for it any more.",
					   pretty(size), pretty(limit())),
			 errhint("With resume_subscription() it goes on with what the log still has.")));
	return true;
}

/*
 * Looks at the size of the log, which has been rotated, and does what on_full
 * says.  In a transaction of the tables' owner, with SPI.
 */
void
oi_log_limit(void *arg)
{
	OiLogLimit *result = arg;
	int64		size = limit() > 0 ? log_size() : 0;
	List	   *holders = NIL;
	ListCell   *lc;
	bool		refuse = oi_on_full == OI_ON_FULL_REFUSE;

	result->changed = false;
	result->next = limit() == 0 ? DT_NOEND :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									size > limit() / 2 ? LOOK_OFTEN : LOOK_SELDOM);
	if (size > limit())
		holders = oldest_holders();
	oi_visit_set_full(refuse && holders != NIL, size, names_of(holders));
	if (refuse)
		return;
	foreach(lc, holders)
		result->changed |= invalidate(lfirst(lc), size);
}
