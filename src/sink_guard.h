/*-------------------------------------------------------------------------
 *
 * sink_guard.h
 *		Undoing what a sink's callback leaves behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SINK_GUARD_H
#define OI_SINK_GUARD_H

#include <setjmp.h>

#include "utils/palloc.h"

/* what has to be the same after a callback as before it */
typedef struct OiGuard
{
	MemoryContext context;
	sigjmp_buf *exception_stack;
	ErrorContextCallback *error_context;
	uint32		interrupt_holdoff;
	uint32		cancel_holdoff;
	Oid			userid;
	int			security;
} OiGuard;

extern void oi_guard_enter(OiGuard *guard);
extern const char *oi_guard_leave(const OiGuard *guard);
extern ErrorData *oi_guard_recover(const OiGuard *guard);

#endif							/* OI_SINK_GUARD_H */
