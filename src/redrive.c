/*-------------------------------------------------------------------------
 *
 * redrive.c
 *		Trying events that failed again, and giving them up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "owner.h"
#include "relation.h"
#include "subscription.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "xact.h"

PG_FUNCTION_INFO_V1(oi_redrive);
PG_FUNCTION_INFO_V1(oi_discard);

/* parameters of the queries: subscription, event_id, key */
#define PARAMETERS 3

/* what may be tried since it failed may be tried now, whatever the clock says */
#define REDRIVE \
	"UPDATE order_idempotency.failed_events AS f" \
	" SET state = 'parked', attempts = 0, next_at = f.failed_at"
#define DISCARD \
	"DELETE FROM order_idempotency.failed_events AS f"
#define ITS_OWN \
	" WHERE f.subscription OPERATOR(pg_catalog.=) $1"
#define FAILED \
	" AND f.state OPERATOR(pg_catalog.<>) 'waiting'"
#define OF_ID \
	" AND f.event_id OPERATOR(pg_catalog.=) $2"
#define OF_KEY \
	" AND f.key OPERATOR(pg_catalog.=) $3"

/*
 * Run one of them as the tables' owner, on what is there now, whatever the
 * transaction's snapshot.  Returns how many rows it was.
 */
static int64
run(const char *query, const Datum *values, const char *nulls)
{
	Oid			types[PARAMETERS] = {INT4OID, UUIDOID, TEXTOID};
	Datum		copy[PARAMETERS];
	SPIPlanPtr	plan;
	OiIdentity	was;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		n;

	memcpy(copy, values, sizeof(copy));
	oi_owner_assume(oi_relation_oid(OI_REL_SUBSCRIPTIONS), SECURITY_RESTRICTED_OPERATION, &was);
	SPI_connect();
	plan = SPI_prepare(query, PARAMETERS, types);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, copy, nulls, snapshot, InvalidSnapshot, false, true, 0) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not change the events that failed")));
	n = (int64) SPI_processed;
	SPI_finish();
	oi_owner_resume(&was);
	UnregisterSnapshot(snapshot);

	return n;
}

/*
 * A subscription is dropped: so is all that it failed to deliver.
 */
int64
oi_failed_discard_all(int32 id)
{
	Datum		values[PARAMETERS] = {Int32GetDatum(id)};

	return run(DISCARD ITS_OWN, values, " nn");
}

/*
 * Exactly one of an event, a key and everything has to be named.
 */
static void
check_choice(FunctionCallInfo fcinfo)
{
	bool		everything = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);

	if (!PG_ARGISNULL(1) + !PG_ARGISNULL(2) + everything != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("which events is not clear"),
				 errhint("Give either event_id, or key, or everything => true.")));
}

/*
 * Run the query for what was chosen, and have the worker notice.
 */
static int64
change(FunctionCallInfo fcinfo, const char *by_id, const char *by_key, const char *all)
{
	char	   *name = oi_required_text(fcinfo, 0, "subscription name");
	Datum		values[PARAMETERS] = {0};
	char		nulls[PARAMETERS + 1] = "    ";
	OiTable		table;
	int64		n;

	check_choice(fcinfo);
	values[0] = Int32GetDatum(oi_subscription_open(&table, name));
	oi_table_close(&table);
	for (int i = 1; i <= 2; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	n = run(!PG_ARGISNULL(1) ? by_id : !PG_ARGISNULL(2) ? by_key : all, values, nulls);
	oi_subscription_touch(DatumGetInt32(values[0]));

	return n;
}

/*
 * redrive(name text, event_id uuid, key text, everything boolean)
 */
Datum
oi_redrive(PG_FUNCTION_ARGS)
{
	oi_xact_check_writable("redrive()");
	PG_RETURN_INT64(change(fcinfo, REDRIVE ITS_OWN FAILED OF_ID,
						   REDRIVE ITS_OWN FAILED OF_KEY, REDRIVE ITS_OWN FAILED));
}

/*
 * discard(name text, event_id uuid, key text, everything boolean)
 */
Datum
oi_discard(PG_FUNCTION_ARGS)
{
	oi_xact_check_writable("discard()");
	PG_RETURN_INT64(change(fcinfo, DISCARD ITS_OWN OF_ID,
						   DISCARD ITS_OWN FAILED OF_KEY, DISCARD ITS_OWN FAILED));
}
