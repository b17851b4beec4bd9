/*-------------------------------------------------------------------------
 *
 * fault.c
 *		Places where a test has something go wrong.
 *
 * A test module that is preloaded says what happens at a point (see
 * test/modules/fault).  There are
 *
 *		drain:read		events were read
 *		drain:durable	what was read is durable
 *		sink:before		the sink gets them now
 *		sink:after		it has answered
 *		drain:record	what became of them is recorded next
 *		drain:recording	the cursor is updated, in a transaction that is open
 *		drain:recorded	that transaction has committed
 *
 * and in sinks, of kafka:
 *
 *		kafka:start		nobody on a later timeline was before us
 *		kafka:started	we have the transactional id, and know the last delivery
 *		kafka:begun		a transaction was begun
 *		kafka:sent		its messages were handed to librdkafka, and the marker
 *		kafka:committed	it is committed, or cannot be
 *		kafka:aborted	it is aborted
 *		kafka:found		of an event it is known that the broker refuses it
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fault.h"

OiFault		oi_fault = NULL;

/*
 * Have a function called at each point.
 */
void
oi_set_fault(OiFault fault)
{
	oi_fault = fault;
}

/*
 * A place in a sink, which is another library.
 */
void
oi_sink_fault(const char *point)
{
	OI_FAULT_POINT(point);
}
