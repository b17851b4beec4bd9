/*-------------------------------------------------------------------------
 *
 * drain.c
 *		Reading the log for a subscription, and recording what went out.
 *
 * A cycle of the worker is: read events in one short transaction, make sure
 * that what was read is durable, deliver with no transaction open, record
 * in another short transaction.  batch.c decides which rows are read.
 *
 * The worker is connected as the subscription's owner, who may have no
 * right to the tables, so here it acts for the owner of the tables.  Every
 * name in a query is qualified, operators included, and nothing in them is
 * of a user's making.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "batch.h"
#include "clock.h"
#include "cursor_row.h"
#include "drain.h"
#include "durable.h"
#include "executor/spi.h"
#include "fault.h"
#include "incarnation.h"
#include "intent.h"
#include "miscadmin.h"
#include "owner.h"
#include "parking.h"
#include "relation.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

/*
 * Start a transaction as the owner of the tables, with SPI.  False, and no
 * transaction: the extension is gone, or is not the one that was there at
 * first (relid is InvalidOid until then).
 */
bool
oi_drain_begin(Oid relid, OiIdentity *was)
{
	return oi_owner_begin(OI_REL_SUBSCRIPTIONS, relid,
						  SECURITY_RESTRICTED_OPERATION, was);
}

/*
 * Prepare a query once in the life of the worker.
 */
SPIPlanPtr
oi_drain_plan(SPIPlanPtr *plan, const char *query, int nargs, Oid *types)
{
	if (*plan == NULL)
	{
		*plan = SPI_prepare_cursor(query, nargs, types,
								   CURSOR_OPT_FAST_PLAN | CURSOR_OPT_NO_SCROLL);
		if (*plan == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not prepare a query: %s",
							SPI_result_code_string(SPI_result))));
		SPI_keepplan(*plan);
	}
	return *plan;
}

/*
 * Run one that returns rows, or updates.
 */
void
oi_drain_execute(SPIPlanPtr plan, Datum *values, const char *nulls, bool read_only)
{
	int			result = SPI_execute_plan(plan, values, nulls, read_only, 0);

	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not execute a query: %s",
						SPI_result_code_string(result))));
}

/*
 * A column of the first row found.
 */
Datum
oi_drain_column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

/*
 * Load a subscription's cursor, and the keys that are held.  False: it is
 * gone.
 */
bool
oi_drain_load(const OiSubscription *sub, OiCursor *cursor, OiHeld *held)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		there = false;

	oi_held_reset(held);
	if (oi_drain_begin(sub->relid, &was))
	{
		there = oi_cursor_row_read(sub, cursor);
		if (there && sub->parks)
			oi_parking_load(sub, held);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return there;
}

/*
 * Is what the worker knows of its subscription still so?
 */
bool
oi_drain_current(const OiSubscription *sub, const OiCursor *cursor)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		current = false;

	if (oi_drain_begin(sub->relid, &was))
	{
		current = oi_cursor_row_is_current(sub, cursor);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return current;
}

/*
 * Open a batch: what is there now and was not there at "behind".  Of an
 * incarnation of the log that has ended, all is there.
 */
static void
open_batch(OiCursor *cursor)
{
	int64		incarnation = OI_INCARNATION(cursor->behind.position);
	OiMoment	now;
	MemoryContext old;

	if (incarnation < OI_INCARNATION(oi_log_position()))
		oi_moment_end(&now, incarnation);
	else
		oi_moment_now(&now);
	old = MemoryContextSwitchTo(cursor->context);
	oi_moment_copy(&cursor->batch, &now);
	MemoryContextSwitchTo(old);

	oi_cursor_set_end(cursor);
	cursor->batch_lsn = oi_wal_end();
	cursor->progress = 0;
	cursor->nlate = -1;
	cursor->moved = true;
}

/*
 * Read the next events of the cursor's batch, opening one if need be, into
 * the current context.  NULL: what the worker knows is no longer so.
 */
OiBatch *
oi_drain_read(const OiSubscription *sub, OiCursor *cursor)
{
	MemoryContext context = CurrentMemoryContext;
	OiBatch    *batch = NULL;
	OiIdentity	was;

	if (!oi_drain_begin(sub->relid, &was))
	{
		MemoryContextSwitchTo(context);
		return NULL;
	}
	if (oi_cursor_row_is_current(sub, cursor))
	{
		if (cursor->batch.snapshot == NULL)
			open_batch(cursor);
		PushActiveSnapshot(GetLatestSnapshot());
		batch = oi_batch_read(sub, cursor, context);
		PopActiveSnapshot();
		/* what is still being restored may come into sight at any time */
		batch->lsn = oi_moment_is_end(&cursor->batch) ? oi_wal_end() : cursor->batch_lsn;
	}
	oi_owner_end(&was, context);

	return batch;
}

/*
 * Read again the open events of a batch of the log, or of failed ones.  Failed
 * ones that somebody discarded are not there any more.  NULL: what the worker
 * knows is no longer so.
 */
OiBatch *
oi_drain_read_open(const OiSubscription *sub, const OiCursor *cursor, bool failed)
{
	MemoryContext context = CurrentMemoryContext;
	const OiOpen *open = failed ? &cursor->open_failed : &cursor->open_log;
	OiBatch    *batch = NULL;
	OiIdentity	was;

	if (oi_drain_begin(sub->relid, &was))
	{
		if (oi_cursor_row_is_current(sub, cursor))
		{
			batch = failed ? oi_parking_read_open(sub, open, context) :
				oi_batch_read_open(sub, open, context);
			batch->upto = cursor->open_upto;
			batch->lsn = oi_wal_end();
		}
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);
	if (batch != NULL)
		oi_open_apply(open, batch);

	return batch;
}

/*
 * Read events that failed and are due, into the current context.  NULL: what
 * the worker knows is no longer so.
 */
OiBatch *
oi_drain_read_failed(const OiSubscription *sub, const OiCursor *cursor,
					 OiHeld *held, TimestampTz now)
{
	MemoryContext context = CurrentMemoryContext;
	OiBatch    *batch = NULL;
	OiIdentity	was;

	if (oi_drain_begin(sub->relid, &was))
	{
		if (oi_cursor_row_is_current(sub, cursor))
			batch = oi_parking_read(sub, held, now, context);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return batch;
}

/*
 * Nothing is left in the cursor's batch: have it behind.  At the end of an
 * incarnation of the log, that is where the next one starts.
 */
static void
end_batch(OiCursor *cursor)
{
	oi_moment_clear(&cursor->behind);
	if (oi_moment_is_end(&cursor->batch))
	{
		MemoryContext old = MemoryContextSwitchTo(cursor->context);

		oi_moment_start(&cursor->behind, OI_INCARNATION(cursor->batch.position) + 1);
		MemoryContextSwitchTo(old);
		oi_moment_clear(&cursor->batch);
	}
	else
		cursor->behind = cursor->batch;
	cursor->batch.snapshot = NULL;
	cursor->moved = true;
	cursor->progress = 0;
	cursor->above = false;
}

/*
 * Move the cursor past the events of a batch whose fate is known.
 */
void
oi_drain_advance(OiCursor *cursor, const OiBatch *batch)
{
	int			i = 0;

	while (i < batch->n && batch->info[i].fate != OI_FATE_OPEN)
		i++;
	if (i < batch->n)
		cursor->progress = Max(cursor->progress, batch->events[i].position - 1);
	else if (!batch->exhausted)
		cursor->progress = Max(cursor->progress, batch->upto);
	else
		end_batch(cursor);
}

/*
 * Record where the cursor is and what became of the events of a batch (NULL:
 * none), all in one transaction.  Those of known fate leave the batch.  False:
 * nothing was recorded, since what the worker knows is no longer so.
 *
 * The commit is asynchronous.  What comes next waits for it: see cycle.c.
 */
bool
oi_drain_record(const OiSubscription *sub, OiCursor *cursor, const OiTally *tally,
				OiBatch *batch, OiHeld *held)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		there = false;

	if (oi_drain_begin(sub->relid, &was))
	{
		there = oi_cursor_row_update(sub, cursor, tally);
		OI_FAULT_POINT("drain:recording");
		if (there && batch != NULL)
			oi_parking_record(sub, batch, held);
		oi_owner_end(&was, context);
		if (there)
			cursor->lsn = XactLastCommitEnd;
		cursor->passed = 0;
		cursor->recorded_at = oi_uptime();
	}
	MemoryContextSwitchTo(context);
	if (there && batch != NULL)
		oi_batch_keep_open(batch);

	return there;
}
