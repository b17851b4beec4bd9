/*-------------------------------------------------------------------------
 *
 * sink_memory.h
 *		How much memory a sink takes, and what it leaves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SINK_MEMORY_H
#define OI_SINK_MEMORY_H

#include "sink_loader.h"

extern Size oi_sink_memory_of_others(const OiSink *sink, MemoryContext context);
extern bool oi_sink_memory_check(OiSink *sink, Size before, MemoryContext context);
extern void oi_sink_memory_end_if_leaking(const OiSink *sink);

#endif							/* OI_SINK_MEMORY_H */
