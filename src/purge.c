/*-------------------------------------------------------------------------
 *
 * purge.c
 *		Removal of orders that nobody needs any more.
 *
 * purge_orders reads the table from where the server's sequential scans of it
 * were last, so that call after call does not begin with what the former one
 * has seen.  It collects some orders that may go, deletes their payment deadlines,
 * and then removes them one by one; see src/README, "Purging".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "args.h"
#include "behind.h"
#include "deadline_failure.h"
#include "deadline_row.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "order.h"
#include "owner.h"
#include "relation_write.h"
#include "rules.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "xact.h"

/* orders that are collected before they are removed */
#define COLLECT_MOST 10000

/* ms between two words of how far it is */
#define PROGRESS_INTERVAL 10000

/* an order that may go; by its key in a hash table */
typedef struct Candidate
{
	char		key[OI_MAX_KEY + 1];
	ItemPointerData tid;
	bool		busy;			/* somebody is at its deadline */
} Candidate;

/* a call of purge_orders */
typedef struct Purge
{
	TimestampTz before;
	int64		most;
	int64		purged;
	int64		held_back;		/* orders that a subscription needs */
	OiBehind	behind;
	OiTable		table;
	TableScanDesc scan;
	TupleTableSlot *slot;		/* of the scan */
	bool		read;			/* it has come to its end */
	HTAB	   *candidates;
	MemoryContext context;		/* of those */
	TimestampTz told_at;
} Purge;

PG_FUNCTION_INFO_V1(oi_purge_orders);

/*
 * Is there no way out of a state that the lifecycle knows?
 */
static bool
is_final(const char *state)
{
	const OiLifecycle *rules = oi_rules();
	bool		known = false;

	for (int i = 0; i < rules->ntransitions; i++)
	{
		const OiTransition *t = &rules->transitions[i];

		if (t->from != NULL && strcmp(t->from, state) == 0)
			return false;
		known = known || strcmp(t->to, state) == 0;
	}
	return known;
}

/*
 * May the order in the scan's slot go?
 */
static bool
may_go(Purge *purge)
{
	OiOrder		order;
	bool		isnull;
	Datum		xmin;

	oi_order_read_slot(purge->slot, &order);
	if (order.changed_at >= purge->before)
		return false;
	if (!order.tombstone &&
		(order.money == OI_MONEY_HELD || !is_final(text_to_cstring(order.state))))
		return false;

	xmin = slot_getsysattr(purge->slot, MinTransactionIdAttributeNumber, &isnull);
	if (oi_is_behind(&purge->behind, DatumGetTransactionId(xmin)))
		return true;
	purge->held_back++;
	return false;
}

/*
 * Collect the next orders that may go.  False: there are no more.
 */
static bool
collect(Purge *purge)
{
	HASHCTL		ctl = {
		.keysize = OI_MAX_KEY + 1,.entrysize = sizeof(Candidate),
		.hcxt = purge->context
	};
	MemoryContext old = MemoryContextSwitchTo(purge->context);
	long		most = Min(COLLECT_MOST, purge->most - purge->purged);
	long		n = 0;

	purge->candidates = hash_create("order_idempotency orders to purge", 1024, &ctl,
									HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	while (n < most && !purge->read)
	{
		Candidate  *candidate;
		char	   *key;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		/* asked again after its end, a scan would begin anew */
		purge->read = !table_scan_getnextslot(purge->scan, ForwardScanDirection, purge->slot);
		if (purge->read)
			break;
		if (!may_go(purge))
			continue;
		key = TextDatumGetCString(slot_getattr(purge->slot, OI_ORDER_KEY + 1, &isnull));
		candidate = hash_search(purge->candidates, key, HASH_ENTER, NULL);
		candidate->tid = purge->slot->tts_tid;
		candidate->busy = false;
		pfree(key);
		n++;
	}
	MemoryContextSwitchTo(old);

	return n > 0;
}

/*
 * Delete a row of payment_deadlines if it is of an order that may go, and add
 * the order's key to a list.
 */
static List *
drop_deadline(Purge *purge, OiTable *deadlines, TupleTableSlot *slot, List *keys)
{
	OiDeadline	row = oi_deadline_from_slot(slot);
	Candidate  *candidate = hash_search(purge->candidates, text_to_cstring(row.key),
										HASH_FIND, NULL);

	if (candidate == NULL)
		return keys;
	if (!oi_deadline_remove(deadlines, &row))
		candidate->busy = true;
	return lappend(keys, row.key);
}

/*
 * Forget the failures of orders whose deadlines were deleted.
 */
static void
drop_failures(List *keys)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(keys), 1));
	OiIdentity	was;
	ListCell   *lc;

	if (keys == NIL)
		return;
	foreach(lc, keys)
		elements[foreach_current_index(lc)] = PointerGetDatum(lfirst(lc));
	oi_owner_assume(oi_relation_oid(OI_REL_DEADLINE_FAILURES),
					SECURITY_RESTRICTED_OPERATION, &was);
	oi_failures_forget(elements, list_length(keys));
	oi_owner_resume(&was);
}

/*
 * Delete the deadlines of the orders that were collected.  An order whose
 * deadline somebody else is deleting or putting off has to stay.
 */
static void
drop_deadlines(Purge *purge)
{
	MemoryContext old = MemoryContextSwitchTo(purge->context);
	MemoryContext context = AllocSetContextCreate(purge->context, "order_idempotency deadlines",
												  ALLOCSET_DEFAULT_SIZES);
	List	   *keys = NIL;
	OiTable		deadlines;
	TupleTableSlot *slot;
	TableScanDesc scan;

	MemoryContextSwitchTo(context);
	oi_table_open(&deadlines, OI_REL_PAYMENT_DEADLINES, RowExclusiveLock);
	slot = oi_table_slot(&deadlines);
	PushActiveSnapshot(GetLatestSnapshot());
	scan = table_beginscan(deadlines.rel, GetActiveSnapshot(), 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		keys = drop_deadline(purge, &deadlines, slot, keys);
	}
	table_endscan(scan);
	PopActiveSnapshot();
	drop_failures(keys);
	oi_table_close(&deadlines);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Remove an order, unless somebody has it locked or has changed it.
 */
static void
remove_order(Purge *purge, Candidate *candidate)
{
	OiTable    *table = &purge->table;
	OiOrderCall call = {.key = cstring_to_text(candidate->key)};
	TM_FailureData failure;

	if (table_tuple_lock(table->rel, &candidate->tid, GetActiveSnapshot(), table->row,
						 GetCurrentCommandId(true), LockTupleExclusive, LockWaitSkip,
						 0, &failure) != TM_Ok)
		return;
	oi_guard_expect(&call, OI_GUARD_REMOVAL);
	oi_remove(table);
	(void) oi_guard_done(NULL);
	purge->purged++;
}

/*
 * Say how far we are, now and then.
 */
static void
tell_progress(Purge *purge)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(purge->told_at, now, PROGRESS_INTERVAL))
		return;
	ereport(NOTICE,
			(errmsg("purged " INT64_FORMAT " orders so far", purge->purged)));
	purge->told_at = now;
}

/*
 * Remove the orders that were collected.  What that takes in memory, the
 * executor's state with it, is kept until then.
 */
static void
remove_all(Purge *purge)
{
	MemoryContext old = MemoryContextSwitchTo(purge->context);
	HASH_SEQ_STATUS all;
	Candidate  *candidate;

	hash_seq_init(&all, purge->candidates);
	while ((candidate = hash_seq_search(&all)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!candidate->busy)
			remove_order(purge, candidate);
		ExecClearTuple(purge->table.row);
		tell_progress(purge);
	}
	oi_write_end(&purge->table);
	MemoryContextSwitchTo(old);
}

/*
 * Say what holds orders back, where none could go.
 */
static void
tell_holder(const Purge *purge)
{
	if (purge->purged > 0 || purge->held_back == 0)
		return;
	ereport(NOTICE,
			(errmsg("no order was purged: subscription \"%s\" has events before it",
					purge->behind.holder),
			 errdetail_plural("%lld order has events that are not delivered, or not surely.",
							  "%lld orders have events that are not delivered, or not surely.",
							  purge->held_back, (long long) purge->held_back)));
}

/*
 * Remove what may go.
 */
static void
purge_table(Purge *purge)
{
	purge->context = AllocSetContextCreate(CurrentMemoryContext,
										   "order_idempotency orders to purge",
										   ALLOCSET_DEFAULT_SIZES);
	oi_table_open(&purge->table, OI_REL_ORDERS, RowExclusiveLock);
	purge->table.row = oi_table_slot(&purge->table);
	purge->slot = oi_table_slot(&purge->table);
	purge->scan = table_beginscan(purge->table.rel, GetActiveSnapshot(), 0, NULL);
	while (purge->purged < purge->most && collect(purge))
	{
		drop_deadlines(purge);
		remove_all(purge);
		MemoryContextReset(purge->context);
	}
	table_endscan(purge->scan);
	oi_table_close(&purge->table);
	MemoryContextDelete(purge->context);
}

/*
 * purge_orders(before timestamptz, max int)
 *
 * Removes final orders, and returns how many.  Errors: 22004, 22023, 23503,
 * 09000, 25006.
 */
Datum
oi_purge_orders(PG_FUNCTION_ARGS)
{
	Purge		purge = {.told_at = GetCurrentTimestamp()};

	oi_arg_require(fcinfo, 0, "before");
	oi_arg_require(fcinfo, 1, "max");
	purge.before = PG_GETARG_TIMESTAMPTZ(0);
	purge.most = PG_GETARG_INT32(1);
	if (purge.most < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be positive")));

	oi_xact_check_writable("purge_orders()");
	oi_behind_all(&purge.behind);
	purge_table(&purge);
	tell_holder(&purge);
	PG_RETURN_INT64(purge.purged);
}
