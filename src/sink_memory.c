/*-------------------------------------------------------------------------
 *
 * sink_memory.c
 *		How much memory a sink takes, and what it leaves.
 *
 * What is in the sink's own context goes with the sink.  What a call leaves
 * anywhere else is counted, and goes with the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sink_memory.h"
#include "utils/memutils.h"

/* bytes that a sink may leave outside of its own memory, before its worker ends */
#define LEAKED_MOST (128 * 1024 * 1024)

/*
 * How much memory there is outside of the sink's own and of a context.
 */
Size
oi_sink_memory_of_others(const OiSink *sink, MemoryContext context)
{
	return MemoryContextMemAllocated(TopMemoryContext, true) -
		MemoryContextMemAllocated(sink->state.context, true) -
		MemoryContextMemAllocated(context, true);
}

/*
 * Count what a call left outside of the sink's memory and of the caller's context,
 * by what there was before it.  True: the sink's own memory has grown too large, so it
 * is to be started anew.
 */
bool
oi_sink_memory_check(OiSink *sink, Size before, MemoryContext context)
{
	Size		after = oi_sink_memory_of_others(sink, context);
	Size		own = MemoryContextMemAllocated(sink->state.context, true);

	sink->leaked += (int64) after - (int64) before;
	if (own <= OI_SINK_MAX_MEMORY)
		return false;
	ereport(LOG,
			(errmsg("sink library \"%s\" is started anew, since it holds %zu MB of memory",
					sink->library, own / (1024 * 1024))));
	return true;
}

/*
 * What was leaked can only be let go of with the process.  That ends where
 * nothing is delivered and not recorded.
 */
void
oi_sink_memory_end_if_leaking(const OiSink *sink)
{
	if (sink->leaked > LEAKED_MOST)
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("sink library \"%s\" leaked %lld MB of memory", sink->library,
						(long long) sink->leaked / (1024 * 1024)),
				 errdetail("Its worker ends, and another one is started.")));
}
