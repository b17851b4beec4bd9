/*-------------------------------------------------------------------------
 *
 * rotation_run.c
 *		Rotation by the maintenance process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "log_limit.h"
#include "owner.h"
#include "rotation.h"

/* ms between two looks whether a restored database has come into use */
#define IN_USE_INTERVAL 60000

/* Runs a step in a process that is in no transaction. */
static void
run_in_background(OiRotationStep step, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;

	if (oi_owner_begin(OI_REL_GENERATIONS, InvalidOid,
					   SECURITY_RESTRICTED_OPERATION, &was))
	{
		step(arg);
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);
}

/* Does what is due of one store, and returns when there may be more. */
static TimestampTz
run_store(const OiRotationStore *store, int64 retention)
{
	OiRotation	rotation = {
		.runner = run_in_background,.store = store,.retention = retention
	};

	oi_rotation_go(&rotation);
	if (!rotation.in_use)
		return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), IN_USE_INTERVAL);

	/* what has just been begun or ended is not due before */
	return Min(rotation.next, GetCurrentTimestamp() + retention / 2);
}

/*
 * For the maintenance process, outside of a transaction: does what is due, and
 * returns when there may be more.
 */
TimestampTz
oi_rotation_run(void)
{
	TimestampTz claims = run_store(&oi_rotation_claims, oi_key_retention * USECS_PER_SEC);
	TimestampTz outbox;
	OiLogLimit	limit;

	do
	{
		CHECK_FOR_INTERRUPTS();
		limit.changed = false;
		limit.next = DT_NOEND;
		outbox = run_store(&oi_rotation_outbox, oi_outbox_retention * USECS_PER_SEC);
		run_in_background(oi_log_limit, &limit);
	} while (limit.changed);

	return Min(claims, Min(outbox, limit.next));
}
