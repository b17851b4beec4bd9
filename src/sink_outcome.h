/*-------------------------------------------------------------------------
 *
 * sink_outcome.h
 *		Taking over what a sink says of its events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SINK_OUTCOME_H
#define OI_SINK_OUTCOME_H

#include "order_sink.h"

/* the longest reason that is taken over, in bytes */
#define OI_REASON_LEN 1000

/* the longest wait that a sink may ask for, in ms: a day */
#define OI_RETRY_AFTER_MOST 86400000

extern char *oi_outcome_text(const OiSinkState *state, const char *text);
extern void oi_outcome_take(const OiSinkState *state, OiSinkEvent *events,
							const OiSinkEvent *answers, int n);

#endif							/* OI_SINK_OUTCOME_H */
