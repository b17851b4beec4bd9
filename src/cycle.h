/*-------------------------------------------------------------------------
 *
 * cycle.h
 *		What a worker does over and over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_CYCLE_H
#define OI_CYCLE_H

#include "breaker.h"
#include "drain.h"
#include "intent.h"
#include "shmem.h"
#include "sink_loader.h"

/* a worker; there is one in a process */
typedef struct OiWorker
{
	int32		id;				/* of the subscription */
	Oid			owner;
	OiSubscription *sub;
	MemoryContext sub_context;
	OiCursor	cursor;
	OiHeld		held;
	OiBreaker	breaker;
	OiSink		sink;
	OiReceiver	receiver;		/* what it said when it was started */
	OiBatch    *batch;			/* of the log; NULL: none */
	MemoryContext batch_context;
	MemoryContext cycle_context;	/* of what failed before, and of outcomes */
	int64		read_at;		/* when the log was read last, by oi_uptime() */
	bool		busy;			/* events come fast, and we keep up */
	bool		log_next;		/* what failed before had its turn */
	int64		log_until;		/* nor is it, before then, while there is more */
	bool		reloaded;		/* settings were read again: is it still
								 * armed? */
	bool		went_back;		/* the clock was set back, and everything is
								 * to be loaded anew */
	bool		definitions_changed;	/* of a server, a user mapping or a
										 * wrapper: define the sink anew */
	bool		roles_changed;	/* has the owner still the right to it? */
	char		error[OI_ERROR_LEN];	/* the last that was logged */
} OiWorker;

extern OiWorker oi_worker;

/* in worker.c */
extern void oi_worker_load(void);
extern void oi_worker_rest(OiWorkerState state, long timeout);

/* in cycle.c */
extern void oi_cycle(void);

#endif							/* OI_CYCLE_H */
