/*-------------------------------------------------------------------------
 *
 * clock.c
 *		A clock for the workers' attempts that can be set forward, for tests.
 *
 * To be preloaded behind order_idempotency.  Setting test_clock.ahead says how
 * far it is ahead of the true time; a reload puts it forward.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "clock.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

static int	ahead = 0;

/*
 * The time by this clock.
 */
static TimestampTz
shifted_clock(void)
{
	return GetCurrentTimestamp() + ahead * USECS_PER_SEC;
}

void		_PG_init(void);

/*
 * Called when the library is loaded.
 */
void
_PG_init(void)
{
	DefineCustomIntVariable("test_clock.ahead", "How far the clock is ahead.", NULL,
							&ahead, 0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	oi_set_clock(shifted_clock);
}
