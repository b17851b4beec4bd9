/*-------------------------------------------------------------------------
 *
 * null.c
 *		A sink that accepts every event at once, for the benchmark: what is left is
 *		what the worker does itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "order_sink.h"

PG_MODULE_MAGIC;

/*
 * Callback: say of all that it was delivered.
 */
static void
null_deliver(OiSinkState *state, OiSinkEvent *events, int n, TimestampTz deadline)
{
	for (int i = 0; i < n; i++)
		events[i].outcome = OI_SINK_DELIVERED;
}

static const OiSinkCallbacks callbacks = {
	.magic = OI_SINK_MAGIC,
	.deliver = null_deliver,
};

/*
 * What the worker looks up.
 */
const OiSinkCallbacks *
_PG_order_sink_init(void)
{
	return &callbacks;
}
