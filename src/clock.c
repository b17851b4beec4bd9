/*-------------------------------------------------------------------------
 *
 * clock.c
 *		The clock that decides when an event is tried again.
 *
 * A test module may put another one in its place, so that hours of backoff
 * pass in a second.
 *
 * A clock may be set ahead, and back again.  What was to wait for a second while
 * it was ahead must not wait for a year then; see src/README, "Clocks".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "clock.h"
#include "portability/instr_time.h"
#include "utils/timestamp.h"

/* us that the clock may be set back without notice: what that adds to a wait is no more */
#define UNNOTICED USECS_PER_SEC

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

/*
 * A time in us that nobody can set.  It means nothing outside of this process.
 */
int64
oi_uptime(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now);
}

/*
 * Was the clock set back since this was asked for the first time, or said yes?
 */
bool
oi_clock_went_back(void)
{
	static bool known = false;
	static int64 ahead;			/* of the uptime, at most */
	int64		now = oi_now() - oi_uptime();
	bool		back = known && now < ahead - UNNOTICED;

	if (!known || back || now > ahead)
		ahead = now;
	known = true;

	return back;
}

/*
 * Has a time come that was to be no more than so many ms away when it was set?  One
 * that is farther away was set before the clock went back.
 */
bool
oi_time_has_come(TimestampTz at, TimestampTz now, int64 most)
{
	return at <= now || at > now + most * 1000;
}
