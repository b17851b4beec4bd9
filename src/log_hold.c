/*-------------------------------------------------------------------------
 *
 * log_hold.c
 *		Who needs what is in a table of the log.
 *
 * A subscription needs a table in which there is a row that it has not behind
 * it, wanted or not.  Its cursor says so (src/README, "The cursor"): it has
 * behind it
 *
 *	 - all of older incarnations of the log than that of "behind"
 *	 - what "behind" sees; but where it was moved (behind_all_above), only up
 *	   to behind's position
 *	 - what "batch" sees, up to its progress
 *
 * Rows above both positions are taken for needed without a look at their
 * transactions.  Of the others, only those of transactions that a moment does
 * not see are looked at: those of its list, and those from its xmax up to its
 * next_xid.  They are found by the index on (xid, position), so that neither
 * the size of a table nor an old transaction elsewhere matters.  That no
 * further xid need be looked at holds up to the moment's own position only,
 * and a batch's progress can be above that.
 *
 * Open events (open_log) are read again from the log, and a seek does not forget those of
 * a numbered delivery whose outcome is not known: they are needed, wherever
 * the cursor is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "incarnation.h"
#include "log_hold.h"
#include "owner.h"
#include "relation.h"

PG_FUNCTION_INFO_V1(oi_log_holders_of);

/* a row that is not behind a subscription for all that its batch sees */
#define NOT_IN_BATCH \
	" NOT COALESCE(o.position OPERATOR(pg_catalog.<=) c.upto" \
	" AND pg_catalog.pg_visible_in_snapshot(o.xid, c.batch), false)"

/* rows of a transaction "t", and of those from a moment's xmax on */
#define ITS_ROWS \
	" WHERE o.xid OPERATOR(pg_catalog.=) t.xid" \
	" AND o.position OPERATOR(pg_catalog.>) "
#define LATER_ROWS(moment) \
	" WHERE o.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmax(c." moment ")" \
	" AND o.xid OPERATOR(pg_catalog.<) c." moment "_next_xid" \
	" AND o.position OPERATOR(pg_catalog.>) "
#define EACH_OF(moment) \
	" pg_catalog.pg_snapshot_xip(c." moment ") AS t(xid)"

/* %1$d is the slot, %2$d how many bits of a position count in an incarnation, %4$d OI_OPEN_SHIFT */
static const char holders_query[] =
"SELECT s.id, s.name FROM order_idempotency.subscriptions s"
" LEFT JOIN LATERAL (SELECT k.*, CASE WHEN k.batch IS NULL THEN 0"
" ELSE LEAST(k.progress, k.batch_position) END AS upto,"
" (k.behind_position OPERATOR(pg_catalog.>>) %2$d) OPERATOR(pg_catalog.<<) %2$d AS start"
" FROM order_idempotency.subscription_cursors k"
" WHERE k.subscription OPERATOR(pg_catalog.=) s.id ORDER BY k.turn LIMIT 1) c ON true"
" WHERE (s.invalidated_at IS NULL) OPERATOR(pg_catalog.=) %3$s AND ("
"(SELECT o.position FROM order_idempotency.outbox_%1$d o"
" ORDER BY o.position DESC LIMIT 1)"
" OPERATOR(pg_catalog.>) COALESCE(GREATEST(c.behind_position, c.upto), -1)"
" OR EXISTS (SELECT FROM" EACH_OF("behind")
" CROSS JOIN LATERAL (SELECT FROM order_idempotency.outbox_%1$d o" ITS_ROWS "c.start"
" AND" NOT_IN_BATCH " LIMIT 1) r)"
" OR EXISTS (SELECT FROM order_idempotency.outbox_%1$d o" LATER_ROWS("behind") "c.start"
" AND" NOT_IN_BATCH ")"
" OR EXISTS (SELECT FROM" EACH_OF("batch")
" CROSS JOIN LATERAL (SELECT FROM order_idempotency.outbox_%1$d o" ITS_ROWS "c.behind_position"
" LIMIT 1) r)"
" OR EXISTS (SELECT FROM order_idempotency.outbox_%1$d o" LATER_ROWS("batch") "c.behind_position)"
" OR EXISTS (SELECT FROM (SELECT t.position, t.i,"
" (pg_catalog.lead(t.position) OVER (ORDER BY t.i) OPERATOR(pg_catalog.+) 1)"
" OPERATOR(pg_catalog.>>) %4$d AS others"
" FROM pg_catalog.unnest(c.open_log) WITH ORDINALITY AS t(position, i)) AS u"
" CROSS JOIN LATERAL (SELECT FROM order_idempotency.outbox_%1$d o"
" WHERE o.position OPERATOR(pg_catalog.>=) u.position"
" AND o.position OPERATOR(pg_catalog.<=) (u.position OPERATOR(pg_catalog.+) u.others) LIMIT 1) r"
" WHERE u.i OPERATOR(pg_catalog.%%) 2 OPERATOR(pg_catalog.=) 1)"
") ORDER BY 2";

/* how many events of a table a subscription wants and has not behind it */
static const char count_query[] =
"SELECT pg_catalog.count(*), COALESCE(pg_catalog.max(o.position), 0)"
" FROM order_idempotency.subscriptions s, order_idempotency.outbox_%1$d o,"
" LATERAL (SELECT k.*, CASE WHEN k.batch IS NULL THEN 0 ELSE k.progress END AS upto"
" FROM order_idempotency.subscription_cursors k"
" WHERE k.subscription OPERATOR(pg_catalog.=) s.id ORDER BY k.turn LIMIT 1) c"
" WHERE s.id OPERATOR(pg_catalog.=) %3$d"
" AND (s.event_types IS NULL OR o.type OPERATOR(pg_catalog.=) ANY (s.event_types))"
" AND (o.position OPERATOR(pg_catalog.>>) %2$d)"
" OPERATOR(pg_catalog.>=) (c.behind_position OPERATOR(pg_catalog.>>) %2$d)"
" AND ((o.position OPERATOR(pg_catalog.>>) %2$d)"
" OPERATOR(pg_catalog.>) (c.behind_position OPERATOR(pg_catalog.>>) %2$d)"
" OR (NOT (pg_catalog.pg_visible_in_snapshot(o.xid, c.behind)"
" AND (NOT c.behind_all_above OR o.position OPERATOR(pg_catalog.<=) c.behind_position))"
" AND" NOT_IN_BATCH "))";

/* what would read a table from one end to the other */
static const char *const costly[] = {
	"enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_seqscan",
	"enable_sort", "jit"
};

/*
 * For who is going to need what subscriptions have behind them, or takes a
 * moment of the log for a new one: from here on until the end of the
 * transaction nothing of the log is emptied.  What is gone by then is gone, and
 * every look after this shows that.
 */
void
oi_log_keep(void)
{
	for (int slot = 0; slot < OI_SLOTS; slot++)
		LockRelationOid(oi_relation_oid(OI_REL_OUTBOX_0 + slot), AccessShareLock);
}

/*
 * Run a query, in a plan that does with the indexes.
 */
static void
look(const char *query)
{
	int			level = NewGUCNestLevel();

	for (size_t i = 0; i < lengthof(costly); i++)
		(void) set_config_option(costly[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read the subscriptions")));
	AtEOXact_GUC(true, level);
}

/*
 * A number of the first row found.
 */
static int64
number(HeapTuple row, int column)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, column, &isnull));
}

/*
 * The subscriptions that need a table of the log, as of now.  The caller need
 * not have a right to the tables.
 */
List *
oi_log_holders(int slot, OiHolding which)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *holders = NIL;
	OiIdentity	was;

	oi_owner_assume(oi_relation_oid(OI_REL_SUBSCRIPTIONS),
					SECURITY_RESTRICTED_OPERATION, &was);
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	look(psprintf(holders_query, slot, OI_INCARNATION_BITS,
				  which == OI_HOLDS ? "true" : "false", OI_OPEN_SHIFT));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		MemoryContext old = MemoryContextSwitchTo(context);
		OiHolder   *holder = palloc(sizeof(OiHolder));
		bool		isnull;

		holder->id = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		holder->name = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);
		holders = lappend(holders, holder);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	PopActiveSnapshot();
	oi_owner_resume(&was);

	return holders;
}

/*
 * How many events of a table of the log a subscription wants and has not behind
 * it, and the position of the last one.  That reads the table.  The caller acts
 * for the tables' owner.
 */
int64
oi_log_count(int slot, int32 id, int64 *last)
{
	int64		count;

	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	look(psprintf(count_query, slot, OI_INCARNATION_BITS, id));
	count = number(SPI_tuptable->vals[0], 1);
	*last = number(SPI_tuptable->vals[0], 2);
	SPI_finish();
	PopActiveSnapshot();

	return count;
}

/*
 * log_holders(slot int) returns text[]: null where there is none.
 */
Datum
oi_log_holders_of(PG_FUNCTION_ARGS)
{
	int			slot = PG_GETARG_INT32(0);
	List	   *holders;
	Datum	   *names;
	ListCell   *lc;
	int			n = 0;

	if (slot < 0 || slot >= OI_SLOTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("slot must be between 0 and %d", OI_SLOTS - 1)));
	holders = oi_log_holders(slot, OI_HOLDS);
	if (holders == NIL)
		PG_RETURN_NULL();
	names = palloc(sizeof(Datum) * list_length(holders));
	foreach(lc, holders)
		names[n++] = CStringGetTextDatum(((OiHolder *) lfirst(lc))->name);
	PG_RETURN_ARRAYTYPE_P(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}
