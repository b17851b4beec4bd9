/*-------------------------------------------------------------------------
 *
 * breaker.c
 *		Is the receiver down altogether?
 *
 * Closed: all that is due is delivered; what fails is parked by key.
 *
 * Open: a receiver that takes nothing must not have the world parked.  One
 * event at a time is tried, after a wait that doubles.  It is parked if it
 * fails, so the next one is of another key: no set of bad events can keep
 * good ones from being tried.  A success closes it.
 *
 * Deliveries that fail as a whole say nothing of single events.  After one the
 * breaker opens, and when a probe has shown that the receiver takes events,
 * deliveries begin small and double; one that fails then is halved, down
 * to the event that makes them fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "backoff.h"
#include "breaker.h"

/* ms between two probes: the first, and the most */
#define PROBE_FIRST 200
#define PROBE_MOST 30000

/*
 * The receiver is taken for good.
 */
void
oi_breaker_reset(OiBreaker *breaker)
{
	memset(breaker, 0, sizeof(*breaker));
}

/*
 * It took something.  Deliveries have "most" events, or are on their way there.
 */
void
oi_breaker_success(OiBreaker *breaker, int most)
{
	breaker->open = false;
	breaker->failures = 0;
	breaker->in_a_row = 0;
	if (breaker->limit > 0)
		breaker->limit *= 2;
	if (breaker->limit >= most)
		breaker->limit = 0;
}

/*
 * A delivery of n events, more than one, failed as a whole.
 */
void
oi_breaker_narrow(OiBreaker *breaker, int n, TimestampTz now)
{
	if (breaker->limit == 0)
	{
		/* is it the receiver?  ask it at once */
		breaker->open = true;
		breaker->probe_at = now;
		breaker->limit = 1;
	}
	else
		breaker->limit = Max(1, n / 2);
}

/*
 * So many keys failed in a delivery in which nothing was taken.  Is that too
 * much for bad luck?
 */
bool
oi_breaker_trips(OiBreaker *breaker, int keys)
{
	breaker->in_a_row = Min(breaker->in_a_row + keys, OI_BREAKER_KEYS);
	return !breaker->open && breaker->in_a_row >= OI_BREAKER_KEYS;
}

/*
 * How long to wait before the next probe.
 */
int
oi_breaker_wait(const OiBreaker *breaker, double jitter)
{
	return oi_backoff(breaker->failures + 1, PROBE_FIRST, PROBE_MOST, jitter);
}

/*
 * The receiver is down, or still is: wait for so many ms.
 */
void
oi_breaker_failure(OiBreaker *breaker, TimestampTz now, int wait)
{
	breaker->open = true;
	breaker->failures++;
	breaker->probe_at = now + (int64) wait * 1000;
}
