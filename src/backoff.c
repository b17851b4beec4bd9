/*-------------------------------------------------------------------------
 *
 * backoff.c
 *		How long to wait before another attempt.  Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "backoff.h"

/*
 * The wait after so many failures in a row: "first" doubled with each of
 * them, "most" at the longest.  Jitter, from 0 to 1, takes away up to half of
 * it, so that those who failed together do not come back together.
 */
int
oi_backoff(int failures, int first, int most, double jitter)
{
	int64		wait = first;

	for (int i = 1; i < failures && wait < most; i++)
		wait *= 2;
	wait = Min(wait, most);

	return (int) (wait - (int64) (wait / 2 * jitter));
}
