/*-------------------------------------------------------------------------
 *
 * sink_watch.h
 *		Ending a sink's callback that does not end by itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SINK_WATCH_H
#define OI_SINK_WATCH_H

#include <setjmp.h>

#include "compat.h"
#include "datatype/timestamp.h"

/* where a callback that cannot be ended is left for; see sink_watch.c */
extern sigjmp_buf oi_watch_escape;

extern void oi_watch_start(TimestampTz deadline);
extern bool oi_watch_stop(void);
OI_NORETURN extern void oi_watch_abandon(const char *library);
extern void oi_watch_abandon_exiting(const char *library);

#endif							/* OI_SINK_WATCH_H */
