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
#include "catalog/pg_type.h"
#include "drain.h"
#include "durable.h"
#include "executor/spi.h"
#include "incarnation.h"
#include "miscadmin.h"
#include "owner.h"
#include "relation.h"
#include "subscription.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

/*
 * Start a transaction as the owner of the tables, with SPI.  False, and no
 * transaction: the extension is gone, or is not the one that was there at
 * first (relid is InvalidOid until then).
 */
static bool
begin_work(Oid relid, OiIdentity *was)
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
static Datum
column(int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, isnull);
}

/*
 * A text column of the first row found, or NULL.
 */
static char *
text_column(int number)
{
	bool		isnull;
	Datum		value = column(number, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * The option batch_size, which create_subscription has checked, or its
 * default.
 */
static int
batch_size_option(Jsonb *options)
{
	JsonbValue	found;
	int64		size;

	if (options == NULL || !JB_ROOT_IS_OBJECT(options) ||
		getKeyJsonValueFromContainer(&options->root, "batch_size",
									 strlen("batch_size"), &found) == NULL ||
		found.type != jbvNumeric)
		return OI_BATCH_SIZE;

	size = DatumGetInt64(DirectFunctionCall1(numeric_int8,
											 NumericGetDatum(found.val.numeric)));
	return (int) Max(1, Min(size, OI_SINK_MAX_EVENTS));
}

/*
 * Take over the event types that a subscription wants.
 */
static void
fill_types(OiSubscription *sub, Datum value, bool isnull)
{
	Datum	   *elems;

	sub->ntypes = -1;
	if (isnull)
		return;

	sub->type_array = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	deconstruct_array(DatumGetArrayTypeP(sub->type_array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, NULL, &sub->ntypes);
	sub->types = palloc(sizeof(text *) * (sub->ntypes + 1));
	for (int i = 0; i < sub->ntypes; i++)
		sub->types[i] = DatumGetTextPP(elems[i]);
}

/*
 * The subscription of an id, or NULL where there is none, or no extension.
 */
OiSubscription *
oi_drain_subscription(int32 id)
{
	static SPIPlanPtr plan = NULL;
	OiSubscription *sub = NULL;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(id)};
	OiIdentity	was;

	if (!begin_work(InvalidOid, &was))
	{
		MemoryContextSwitchTo(context);
		return NULL;
	}
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT s.name, s.server, s.topic, s.event_types, s.options"
								   " FROM order_idempotency.subscriptions s"
								   " WHERE s.id OPERATOR(pg_catalog.=) $1", 1, types),
					 values, NULL, true);
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		isnull;
		Datum		value;

		sub = palloc0(sizeof(OiSubscription));
		sub->id = id;
		sub->relid = oi_relation_oid(OI_REL_SUBSCRIPTIONS);
		sub->name = text_column(1);
		sub->server = text_column(2);
		sub->topic = text_column(3);
		value = column(4, &isnull);
		fill_types(sub, value, isnull);
		value = column(5, &isnull);
		sub->batch_size = batch_size_option(isnull ? NULL : DatumGetJsonbP(value));
		MemoryContextSwitchTo(old);
	}
	oi_owner_end(&was, context);

	return sub;
}

/*
 * Is the row of a subscription still there, in the same table?  Looked at
 * once more, since the invalidation of a table that was dropped and created
 * anew may come as late as with the lock on it, which is then kept.
 */
static bool
row_exists(const OiSubscription *sub)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sub->id)};

	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT 1 FROM order_idempotency.subscriptions s"
								   " WHERE s.id OPERATOR(pg_catalog.=) $1", 1, types),
					 values, NULL, true);
	return SPI_processed > 0 && oi_relation_oid(OI_REL_SUBSCRIPTIONS) == sub->relid;
}

/*
 * Is a subscription still there?
 */
bool
oi_drain_exists(const OiSubscription *sub)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		there = false;

	if (begin_work(sub->relid, &was))
	{
		there = row_exists(sub);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return there;
}

/*
 * Is a subscription there, and may it publish from here?
 */
bool
oi_drain_armed(const OiSubscription *sub)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		armed = false;

	if (begin_work(sub->relid, &was))
	{
		int			n;
		OiFound    *found = oi_subscriptions_found(&n);

		for (int i = 0; i < n; i++)
			armed |= found[i].subscription == sub->id;
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return armed;
}

/*
 * Read a moment from three columns of the first row found.
 */
static void
moment_columns(OiMoment *moment, int first, MemoryContext context)
{
	MemoryContext old;
	OiMoment	found;
	bool		isnull;
	Datum		value = column(first, &isnull);

	moment->snapshot = NULL;
	if (isnull)
		return;
	found.snapshot = oi_snapshot_from_datum(value);
	found.position = DatumGetInt64(column(first + 1, &isnull));
	found.next_xid = U64FromFullTransactionId(DatumGetFullTransactionId(column(first + 2,
																			   &isnull)));
	old = MemoryContextSwitchTo(context);
	oi_moment_copy(moment, &found);
	MemoryContextSwitchTo(old);
}

/*
 * No row of the cursor's batch, if there is one, has a position above the last
 * that was drawn by now, nor one of another incarnation of the log.
 */
static void
set_end(OiCursor *cursor)
{
	int64		incarnation = OI_INCARNATION(cursor->batch.position);

	cursor->end = Min(oi_log_position(), OI_INCARNATION_END(incarnation));
}

/*
 * Load a subscription's cursor.  False: it is gone.
 */
bool
oi_drain_load(const OiSubscription *sub, OiCursor *cursor)
{
	static SPIPlanPtr plan = NULL;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(sub->id)};
	OiIdentity	was;
	bool		there = false;

	if (begin_work(sub->relid, &was))
	{
		oi_drain_execute(oi_drain_plan(&plan,
									   "SELECT c.behind, c.behind_position, c.behind_next_xid,"
									   " c.batch, c.batch_position, c.batch_next_xid, c.progress"
									   " FROM order_idempotency.subscription_cursors c"
									   " WHERE c.subscription OPERATOR(pg_catalog.=) $1",
									   1, types),
						 values, NULL, true);
		there = SPI_processed > 0;
		if (there)
		{
			bool		isnull;

			moment_columns(&cursor->behind, 1, cursor->context);
			moment_columns(&cursor->batch, 4, cursor->context);
			cursor->progress = DatumGetInt64(column(7, &isnull));
			set_end(cursor);
			cursor->nlate = -1;
			cursor->recorded_at = GetCurrentTimestamp();
		}
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return there;
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

	set_end(cursor);
	cursor->progress = 0;
	cursor->nlate = -1;
}

/*
 * Read the next events of the cursor's batch, opening one if need be, into
 * the current context.  NULL: the subscription is gone.
 */
OiBatch *
oi_drain_read(const OiSubscription *sub, OiCursor *cursor)
{
	MemoryContext context = CurrentMemoryContext;
	OiBatch    *batch = NULL;
	OiIdentity	was;

	if (!begin_work(sub->relid, &was))
	{
		MemoryContextSwitchTo(context);
		return NULL;
	}
	if (row_exists(sub))
	{
		batch = MemoryContextAllocZero(context, sizeof(OiBatch));
		if (cursor->batch.snapshot == NULL)
			open_batch(cursor);
		PushActiveSnapshot(GetLatestSnapshot());
		oi_batch_read(sub, cursor, batch, context);
		PopActiveSnapshot();
		batch->lsn = oi_wal_end();
	}
	oi_owner_end(&was, context);

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
	cursor->progress = 0;
}

/*
 * Move the cursor past what a batch no longer holds.
 */
void
oi_drain_advance(OiCursor *cursor, const OiBatch *batch)
{
	if (batch->n > 0)
		cursor->progress = Max(cursor->progress, batch->events[0].position - 1);
	else if (!batch->exhausted)
		cursor->progress = Max(cursor->progress, batch->upto);
	else
		end_batch(cursor);
}

/*
 * A moment as three values of a query.
 */
static void
moment_values(const OiMoment *moment, Datum *values, char *nulls)
{
	if (moment->snapshot == NULL)
	{
		memset(nulls, 'n', 3);
		return;
	}
	values[0] = oi_snapshot_to_datum(moment->snapshot);
	values[1] = Int64GetDatum(moment->position);
	values[2] = FullTransactionIdGetDatum(FullTransactionIdFromU64(moment->next_xid));
}

/*
 * Record where the cursor is, and how many events were delivered since the
 * last time.  False: the subscription is gone.
 */
bool
oi_drain_record(const OiSubscription *sub, OiCursor *cursor, int64 delivered)
{
	static SPIPlanPtr plan = NULL;
	static const char *const query =
	"UPDATE order_idempotency.subscription_cursors AS c SET"
	" behind = $2, behind_position = $3, behind_next_xid = $4,"
	" batch = $5, batch_position = $6, batch_next_xid = $7,"
	" progress = $8, delivered = c.delivered OPERATOR(pg_catalog.+) $9,"
	" delivered_at = CASE WHEN $9 OPERATOR(pg_catalog.>) 0"
	" THEN pg_catalog.clock_timestamp() ELSE c.delivered_at END"
	" WHERE c.subscription OPERATOR(pg_catalog.=) $1";
	Oid			types[] = {INT4OID, PG_SNAPSHOTOID, INT8OID, XID8OID,
	PG_SNAPSHOTOID, INT8OID, XID8OID, INT8OID, INT8OID};
	Datum		values[lengthof(types)] = {0};
	char		nulls[] = "         ";
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		there = false;

	if (begin_work(sub->relid, &was))
	{
		values[0] = Int32GetDatum(sub->id);
		moment_values(&cursor->behind, &values[1], &nulls[1]);
		moment_values(&cursor->batch, &values[4], &nulls[4]);
		values[7] = Int64GetDatum(cursor->progress);
		values[8] = Int64GetDatum(delivered);
		oi_drain_execute(oi_drain_plan(&plan, query, lengthof(types), types),
						 values, nulls, false);
		there = SPI_processed > 0;
		cursor->passed = 0;
		cursor->recorded_at = GetCurrentTimestamp();
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return there;
}
