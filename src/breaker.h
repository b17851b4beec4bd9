/*-------------------------------------------------------------------------
 *
 * breaker.h
 *		Is the receiver down altogether?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_BREAKER_H
#define OI_BREAKER_H

#include "datatype/timestamp.h"

/* keys that fail, with no success between, before the receiver is taken for down */
#define OI_BREAKER_KEYS 5

typedef struct OiBreaker
{
	bool		open;			/* the receiver is down: one event at a time */
	int			failures;		/* of probes, in a row */
	TimestampTz probe_at;		/* while open: not before */
	int			in_a_row;		/* keys that failed since the last success */
	int			limit;			/* events in a delivery; 0: as many as there
								 * are */
} OiBreaker;

extern void oi_breaker_reset(OiBreaker *breaker);
extern void oi_breaker_success(OiBreaker *breaker, int most);
extern void oi_breaker_narrow(OiBreaker *breaker, int n, TimestampTz now);
extern bool oi_breaker_trips(OiBreaker *breaker, int keys);
extern void oi_breaker_failure(OiBreaker *breaker, TimestampTz now, int wait);
extern int	oi_breaker_wait(const OiBreaker *breaker, double jitter);

#endif							/* OI_BREAKER_H */
