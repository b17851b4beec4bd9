/*-------------------------------------------------------------------------
 *
 * behind.c
 *		What all subscriptions have behind them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "behind.h"
#include "executor/spi.h"
#include "incarnation.h"
#include "miscadmin.h"
#include "owner.h"
#include "utils/builtins.h"
#include "utils/xid8.h"

/* columns of the query */
enum
{
	BEHIND_NAME = 1,
	BEHIND_XMIN,
	BEHIND_POSITION
};

/*
 * Up to where a subscription has everything behind it, from a row of the query.
 * A cursor that is still in another incarnation of the log has nothing of this
 * one; nor has one that is gone, or was moved to a place and has not come from
 * there to the end yet.
 */
static uint64
xmin_of(HeapTuple row, TupleDesc desc, int64 incarnation)
{
	bool		isnull;
	Datum		position = SPI_getbinval(row, desc, BEHIND_POSITION, &isnull);
	Datum		xmin;

	if (isnull || OI_INCARNATION(DatumGetInt64(position)) != incarnation)
		return 0;
	xmin = SPI_getbinval(row, desc, BEHIND_XMIN, &isnull);
	return U64FromFullTransactionId(DatumGetFullTransactionId(xmin));
}

/*
 * Find who holds most back.  The caller need not have a right to the tables.
 */
void
oi_behind_all(OiBehind *behind)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	int64		incarnation;

	behind->xmin = PG_UINT64_MAX;
	behind->holder = NULL;

	oi_owner_assume(oi_relation_oid(OI_REL_SUBSCRIPTIONS),
					SECURITY_RESTRICTED_OPERATION, &was);
	SPI_connect();
	if (SPI_execute("SELECT s.name, pg_catalog.pg_snapshot_xmin(c.behind),"
					" CASE WHEN NOT c.behind_all_above THEN c.behind_position END"
					" FROM order_idempotency.subscriptions s"
					" LEFT JOIN LATERAL (SELECT n.* FROM order_idempotency.subscription_cursors n"
					" WHERE n.subscription OPERATOR(pg_catalog.=) s.id"
					" ORDER BY n.turn LIMIT 1) c ON true",
					false, 0) != SPI_OK_SELECT)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not read the subscriptions")));

	incarnation = OI_INCARNATION(oi_log_position());
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		uint64		xmin = xmin_of(row, SPI_tuptable->tupdesc, incarnation);

		if (behind->holder != NULL && xmin >= behind->xmin)
			continue;
		behind->xmin = xmin;
		behind->holder = MemoryContextStrdup(context,
											 SPI_getvalue(row, SPI_tuptable->tupdesc,
														  BEHIND_NAME));
	}
	SPI_finish();
	oi_owner_resume(&was);
}

/*
 * Are all events of the rows that a transaction wrote last behind everybody?
 * The xid is as row headers have it, of 32 bits: it is taken for the youngest
 * that is not in the future.  It may be a subtransaction's, which a snapshot
 * does not list, so that its xmin alone tells.
 */
bool
oi_is_behind(const OiBehind *behind, TransactionId xid)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint32		epoch = EpochFromFullTransactionId(next);

	if (behind->holder == NULL || !TransactionIdIsNormal(xid))
		return true;
	if (xid >= XidFromFullTransactionId(next))
		epoch--;
	return (((uint64) epoch << 32) | xid) < behind->xmin;
}
