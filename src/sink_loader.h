/*-------------------------------------------------------------------------
 *
 * sink_loader.h
 *		Loading a sink and calling it safely.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SINK_LOADER_H
#define OI_SINK_LOADER_H

#include "drain.h"
#include "order_sink.h"

/* a sink in use by this worker */
typedef struct OiSink
{
	const OiSinkCallbacks *callbacks;	/* NULL: not loaded */
	bool		entered;		/* startup was called: shutdown has to be */
	bool		started;		/* startup returned */
	bool		warned;			/* of what its callbacks leave behind */
	int			errors;			/* of deliver, in a row */
	int64		leaked;			/* bytes, outside of state.context */
	char	   *library;
	OiSinkState state;
} OiSink;

extern bool oi_sink_start(OiSink *sink, const OiSubscription *sub, Oid owner,
						  const OiCursor *cursor, char **error);
extern bool oi_sink_deliver(OiSink *sink, OiSinkEvent *events, int n,
							TimestampTz deadline, char **error);
extern void oi_sink_stop(OiSink *sink);

#endif							/* OI_SINK_LOADER_H */
