/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The clock that decides when an event is tried again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_CLOCK_H
#define OI_CLOCK_H

#include "datatype/timestamp.h"

typedef TimestampTz (*OiClock) (void);

extern TimestampTz oi_now(void);

/* for tests: another clock, in this process and those forked from it */
extern PGDLLEXPORT void oi_set_clock(OiClock clock);

#endif							/* OI_CLOCK_H */
