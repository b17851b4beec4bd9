/*-------------------------------------------------------------------------
 *
 * deadline_failure.c
 *		Orders that could not be cancelled when their deadline was over.
 *
 * As a rule a user's trigger raised an error.  Table deadline_failures has a
 * row for each: how often, and the last error.  The deadline is put off for
 * longer each time.  The row goes with the deadline.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "backoff.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "deadline_failure.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "owner.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

/* ms until the next attempt at an order that fails: the first, and the most */
#define RETRY_FIRST 1000
#define RETRY_MOST 3600000

/*
 * Run a query with SPI.
 */
static void
execute(const char *query, int nargs, Oid *types, Datum *values)
{
	int			result = SPI_execute_with_args(query, nargs, types, values, NULL, false, 0);

	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not execute a query: %s",
						SPI_result_code_string(result))));
}

/*
 * Count a failure of an order.  Returns how many there were.
 */
static int
count_failure(text *key, const ErrorData *error)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		PointerGetDatum(key),
		CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)),
		CStringGetTextDatum(error->message)
	};
	bool		isnull;

	execute("INSERT INTO order_idempotency.deadline_failures AS f"
			" (order_key, failures, failed_at, sqlstate, message)"
			" VALUES ($1, 1, pg_catalog.clock_timestamp(), $2, $3)"
			" ON CONFLICT (order_key) DO UPDATE SET"
			" failures = f.failures OPERATOR(pg_catalog.+) 1,"
			" failed_at = excluded.failed_at, sqlstate = excluded.sqlstate,"
			" message = excluded.message"
			" RETURNING f.failures",
			lengthof(types), types, values);
	return DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Tell of a failure, in the log.
 */
static void
report_failure(const OiDeadline *row, const ErrorData *error, TimestampTz next)
{
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("could not cancel order \"%s\" at its payment deadline: %s",
					text_to_cstring(row->key), error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhint("It is tried again after %s. A trigger of yours may stand in the way; table order_idempotency.deadline_failures has all such orders.",
					 timestamptz_to_str(next)),
			 error->context ? errcontext_msg("%s", error->context) : 0));
}

/*
 * An order could not be cancelled: put its deadline off, in a transaction of
 * its own, unless somebody else has locked the table.
 */
void
oi_failure_note(OiDeadline *row, const ErrorData *error)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	OiTable		table;
	TimestampTz next;

	if (!oi_owner_begin(OI_REL_PAYMENT_DEADLINES, InvalidOid,
						SECURITY_RESTRICTED_OPERATION, &was))
	{
		MemoryContextSwitchTo(context);
		return;
	}
	if (!ConditionalLockRelationOid(oi_relation_oid(OI_REL_PAYMENT_DEADLINES),
									RowExclusiveLock))
	{
		oi_owner_end(&was, context);
		return;
	}
	oi_table_open(&table, OI_REL_PAYMENT_DEADLINES, NoLock);
	if (oi_deadline_again(&table, row))
	{
		int			failures = count_failure(row->key, error);

		next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										   oi_backoff(failures, RETRY_FIRST, RETRY_MOST,
													  pg_prng_double(&pg_global_prng_state)));
		if (oi_deadline_put_off(&table, row, next))
			report_failure(row, error, next);
	}
	oi_table_close(&table);
	oi_owner_end(&was, context);
}

/*
 * Is the table empty, as it is as a rule?
 */
static bool
is_empty(void)
{
	OiTable		table;
	bool		empty;

	oi_table_open(&table, OI_REL_DEADLINE_FAILURES, RowExclusiveLock);
	empty = RelationGetNumberOfBlocks(table.rel) == 0;
	oi_table_close(&table);

	return empty;
}

/*
 * Delete the failures of these orders, as their tables' owner.
 */
void
oi_failures_forget(Datum *keys, int n)
{
	Oid			types[] = {TEXTARRAYOID};
	Datum		values[lengthof(types)];

	if (n == 0 || is_empty())
		return;
	values[0] = PointerGetDatum(construct_array(keys, n, TEXTOID, -1, false,
												TYPALIGN_INT));
	SPI_connect();
	execute("DELETE FROM order_idempotency.deadline_failures AS f"
			" WHERE f.order_key OPERATOR(pg_catalog.=) ANY ($1)",
			lengthof(types), types, values);
	SPI_finish();
}

/*
 * Deadlines are gone for good: so are the failures of their orders.
 */
void
oi_failures_clear(const OiDueRows *due, const bool *gone)
{
	Datum	   *keys = palloc(sizeof(Datum) * Max(due->n, 1));
	int			n = 0;

	for (int i = 0; i < due->n; i++)
		if (gone[i])
			keys[n++] = PointerGetDatum(due->rows[i].key);
	oi_failures_forget(keys, n);
	pfree(keys);
}
