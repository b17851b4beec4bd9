/*-------------------------------------------------------------------------
 *
 * rotation_sql.c
 *		The SQL interface of rotation.
 *
 * rotate_keys() and rotate_outbox() are procedures, because they commit after
 * each step: a function would keep the gate shut, or a table of the log locked,
 * until its caller's transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "owner.h"
#include "result.h"
#include "rotation.h"

/* how often, and how long apart in ms, to try the gate before giving up */
#define GATE_TRIES 20
#define GATE_INTERVAL 100

PG_FUNCTION_INFO_V1(oi_key_retention_setting);
PG_FUNCTION_INFO_V1(oi_outbox_retention_setting);
PG_FUNCTION_INFO_V1(oi_rotate_keys);
PG_FUNCTION_INFO_V1(oi_rotate_outbox);

/* what the two procedures say */
typedef struct Words
{
	const char *procedure;
	const char *why_alone;		/* why not in a transaction block */
	const char *shut_out;		/* the list could not be had */
} Words;

static const Words keys_words = {
	"rotate_keys()",
	"It commits after each step, so that claims need not wait for it.",
	"could not rotate the key store: a claim that is being made does not come to its end"
};

static const Words outbox_words = {
	"rotate_outbox()",
	"It commits after each step, so that nobody need wait for it.",
	"could not rotate the log: somebody else has the list of generations locked"
};

/* A number of seconds as an interval. */
static Datum
seconds(int n)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = n * USECS_PER_SEC;
	PG_RETURN_INTERVAL_P(interval);
}

/* SQL: the setting key_retention, loaded with the library or not. */
Datum
oi_key_retention_setting(PG_FUNCTION_ARGS)
{
	return seconds(oi_key_retention);
}

/* SQL: the setting outbox_retention. */
Datum
oi_outbox_retention_setting(PG_FUNCTION_ARGS)
{
	return seconds(oi_outbox_retention);
}

/* Runs a step in a transaction of the procedure's, and commits it. */
static void
run_in_procedure(OiRotationStep step, void *arg)
{
	OiIdentity	was;

	/* whatever the session's default is; no snapshot has been taken yet */
	XactIsoLevel = XACT_READ_COMMITTED;
	PushActiveSnapshot(GetTransactionSnapshot());
	oi_owner_assume(oi_relation_oid(OI_REL_GENERATIONS),
					SECURITY_RESTRICTED_OPERATION, &was);
	step(arg);
	oi_owner_resume(&was);
	PopActiveSnapshot();
	SPI_commit();
}

/* Refuses to run where it could not commit. */
static void
check_context(FunctionCallInfo fcinfo, const Words *words)
{
	CallContext *context = (CallContext *) fcinfo->context;

	if (context == NULL || !IsA(context, CallContext) || context->atomic ||
		IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", words->procedure),
				 errhint("%s", words->why_alone)));
	PreventCommandIfReadOnly(words->procedure);
	PreventCommandDuringRecovery(words->procedure);
}

/* The argument retention, or else the setting, in us. */
static int64
retention_of(FunctionCallInfo fcinfo, int setting)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		retention;

	if (PG_ARGISNULL(0))
		return setting * USECS_PER_SEC;
	retention = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
														TimestampTzGetDatum(now),
														PG_GETARG_DATUM(0))) - now;
	if (retention < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retention must not be negative")));
	return retention;
}

/* Rotates, again if need be while somebody is in the gate. */
static void
insist(OiRotation *rotation, const Words *words)
{
	static uint32 event = 0;
	int64		began = 0;
	int			emptied = 0;

	for (int i = 1;; i++)
	{
		oi_rotation_go(rotation);
		began = Max(began, rotation->began);
		emptied += rotation->emptied;
		if (!rotation->shut_out || began > 0)
			break;
		if (i == GATE_TRIES)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("%s", words->shut_out),
					 errhint("View pg_locks shows who holds a lock on order_idempotency.generations.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 GATE_INTERVAL,
						 oi_compat_wait_event(&event, "OrderIdempotencyRotation"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	rotation->began = began;
	rotation->emptied = emptied;
}

/* What both procedures do. */
static Datum
rotate(FunctionCallInfo fcinfo, OiRotation *rotation, const Words *words)
{
	Datum		values[2];
	bool		nulls[2] = {0};

	check_context(fcinfo, words);

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
	insist(rotation, words);
	SPI_finish();

	values[0] = Int64GetDatum(rotation->began);
	nulls[0] = rotation->began == 0;
	values[1] = Int32GetDatum(rotation->emptied);
	return oi_result_row(fcinfo, values, nulls);
}

/*
 * rotate_keys(retention interval, INOUT began bigint, INOUT emptied int)
 *
 * Errors: 25001 in a transaction block, 25006, 22023, 55P03.
 */
Datum
oi_rotate_keys(PG_FUNCTION_ARGS)
{
	OiRotation	rotation = {
		.runner = run_in_procedure,.store = &oi_rotation_claims
	};

	rotation.retention = retention_of(fcinfo, oi_key_retention);
	return rotate(fcinfo, &rotation, &keys_words);
}

/*
 * rotate_outbox(retention interval, INOUT began bigint, INOUT emptied int)
 *
 * Errors: the same.
 */
Datum
oi_rotate_outbox(PG_FUNCTION_ARGS)
{
	OiRotation	rotation = {
		.runner = run_in_procedure,.store = &oi_rotation_outbox
	};

	rotation.retention = retention_of(fcinfo, oi_outbox_retention);
	return rotate(fcinfo, &rotation, &outbox_words);
}
