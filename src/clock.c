/*-------------------------------------------------------------------------
 *
 * clock.c
 *		The clock that decides when an event is tried again.
 *
 * A test module may put another one in its place, so that hours of backoff
 * pass in a second.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "utils/timestamp.h"

static OiClock current_clock = GetCurrentTimestamp;

/*
 * The time, for decisions about attempts.
 */
TimestampTz
oi_now(void)
{
	return current_clock();
}

/*
 * Take another clock.
 */
void
oi_set_clock(OiClock clock)
{
	current_clock = clock;
}
