/*-------------------------------------------------------------------------
 *
 * drain.h
 *		Reading the log for a subscription, and recording what went out.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DRAIN_H
#define OI_DRAIN_H

#include "access/xlogdefs.h"
#include "cursor.h"
#include "order_sink.h"

/* a subscription as its row has it */
typedef struct OiSubscription
{
	int32		id;
	Oid			relid;			/* of the table that it was read from */
	char	   *name;
	char	   *server;
	char	   *topic;
	int			ntypes;			/* -1: wants all types */
	text	  **types;
	Datum		type_array;		/* the same, for a query; 0 where ntypes is -1 */
	int			batch_size;
} OiSubscription;

/*
 * Where it stands.  Everything that "behind" saw is delivered or not wanted.
 * While "batch" is a moment, so is, of what "batch" saw, all up to "progress";
 * a progress means nothing without the batch that it was made under.
 */
typedef struct OiCursor
{
	OiMoment	behind;
	OiMoment	batch;
	int64		progress;

	/* not recorded */
	int64		end;			/* no row that batch sees has a higher
								 * position */
	int			nlate;			/* transactions of late rows of the batch; -1: */
	uint64	   *late;			/* not known yet */
	int64		passed;			/* rows passed over since it was recorded */
	TimestampTz recorded_at;
	MemoryContext context;		/* of the moments and of late */
} OiCursor;

/* events read, and what reading them means for the cursor */
typedef struct OiBatch
{
	OiSinkEvent *events;		/* those left to be delivered */
	int			n;
	int64		bytes;
	int64		upto;			/* the last position looked at */
	bool		exhausted;		/* nothing is left in the cursor's batch */
	XLogRecPtr	lsn;			/* what has to be durable before it goes out */
} OiBatch;

extern OiSubscription *oi_drain_subscription(int32 id);
extern bool oi_drain_exists(const OiSubscription *sub);
extern bool oi_drain_armed(const OiSubscription *sub);
extern bool oi_drain_load(const OiSubscription *sub, OiCursor *cursor);
extern OiBatch *oi_drain_read(const OiSubscription *sub, OiCursor *cursor);
extern void oi_drain_advance(OiCursor *cursor, const OiBatch *batch);
extern bool oi_drain_record(const OiSubscription *sub, OiCursor *cursor,
							int64 delivered);

#endif							/* OI_DRAIN_H */
