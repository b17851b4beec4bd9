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
extern int64 oi_uptime(void);
extern bool oi_clock_went_back(void);
extern bool oi_time_has_come(TimestampTz at, TimestampTz now, int64 most);

/* for tests: another clock, in this process and those forked from it */
extern PGDLLEXPORT void oi_set_clock(OiClock clock);

#endif							/* OI_CLOCK_H */
