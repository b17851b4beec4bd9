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
#include "held.h"
#include "lib/stringinfo.h"
#include "order_sink.h"
#include "storage/itemptr.h"

/* a subscription as its row has it */
typedef struct OiSubscription
{
	int32		id;
	Oid			relid;			/* of the table that it was read from */
	char	   *name;
	char	   *server;
	char	   *topic;
	char	   *installation;	/* that it is armed for, or where there is
								 * none (1.0) the server's identifier */
	int			ntypes;			/* -1: wants all types */
	text	  **types;
	Datum		type_array;		/* the same, for a query; 0 where ntypes is -1 */
	bool		parks;			/* there is a table for events that failed */
	bool		hold_dead;		/* a dead event holds its key */
	int			batch_size;
	int			max_attempts;
	int			max_parked_keys;
	int			backoff_min;	/* ms */
	int			backoff_max;
} OiSubscription;

/* a transaction with late rows of the cursor's batch */
typedef struct OiLate
{
	uint64		xid;
	int64		position;		/* of the first that was not read */
} OiLate;

/*
 * Events of a numbered sink that were read and are not known to be done: pairs
 * of a position and of the index in the delivery of the cursor's token, or
 * OI_NO_INDEX.
 */
typedef struct OiOpen
{
	int			n;
	int64	   *pairs;
} OiOpen;

#define OI_NO_INDEX (-1)

/*
 * Where it stands.  Everything that "behind" saw is delivered or not wanted.
 * While "batch" is a moment, so is, of what "batch" saw, all up to "progress";
 * a progress means nothing without the batch that it was made under.
 */
typedef struct OiCursor
{
	OiMoment	behind;
	bool		above;			/* behind is a place to which it was moved:
								 * what lies above is not behind, whoever
								 * wrote it */
	OiMoment	batch;
	int64		progress;

	/* of a numbered sink; see src/README, "Numbered deliveries" */
	OiSinkToken token;			/* the last delivery that was recorded */
	OiOpen		open_log;		/* what is open of a batch of the log */
	int64		open_upto;		/* the progress when it is not */
	OiOpen		open_failed;	/* of events that had failed */
	int64		settled;		/* the last delivery of which all is known */

	/* the version of the row that says so */
	ItemPointerData tid;
	TransactionId xmin;
	XLogRecPtr	lsn;			/* with WAL up to here it is durable */

	/* not recorded */
	XLogRecPtr	batch_lsn;		/* with WAL up to here all that batch sees is
								 * durable */
	int			unflushed;		/* events that went out since lsn was durable */
	int64		flushed_at;		/* when it was, by oi_uptime() */
	int64		end;			/* no row that batch sees has a higher
								 * position */
	bool		moved;			/* behind or batch is not as the row has it */
	int			nlate;			/* transactions that have late rows of the
								 * batch left; -1: not known */
	OiLate	   *late;			/* a heap: the lowest position comes first */
	int64		late_from;		/* they were read up to here */
	int64		passed;			/* rows passed over since it was recorded */
	int			recorded;		/* how many times it was, in the row's turn */
	int64		recorded_at;	/* when, by oi_uptime() */
	bool		numbered;		/* so is the sink */
	bool		repeated;		/* the delivery may have been made before */
	MemoryContext context;		/* of the moments, of late and of pairs */
} OiCursor;

/* what became of an event */
typedef enum OiFate
{
	OI_FATE_OPEN,				/* nothing yet: to be delivered */
	OI_FATE_DELIVERED,
	OI_FATE_PARKED,				/* failed: to be tried again */
	OI_FATE_WAITING,			/* behind one of its key that failed */
	OI_FATE_DEAD				/* failed for good */
} OiFate;

/* what the worker knows of an event, beside what the sink is told */
typedef struct OiEventInfo
{
	const char *key;			/* in the server's encoding */
	int			attempts;		/* so far */
	OiFate		fate;
	int			index;			/* in the delivery of the cursor's token, or
								 * OI_NO_INDEX */
	const char *reason;			/* of parked and dead */
	const char *unfit;			/* why it cannot be handed to any sink, or
								 * NULL */
	TimestampTz next_at;		/* of parked */
} OiEventInfo;

/* events read, and what reading them means for the cursor */
typedef struct OiBatch
{
	bool		failed;			/* from table failed_events, not the log */
	bool		again;			/* of events that were read before: none is
								 * left out */
	OiSinkEvent *events;		/* those not recorded as done */
	OiEventInfo *info;			/* of the same */
	int			n;
	int			room;
	int64		bytes;
	StringInfoData json;		/* for payloads on their way into events */
	int			turn;			/* where to look for the next event to probe */
	int64		upto;			/* the last position looked at */
	bool		exhausted;		/* nothing is left in the cursor's batch */
	XLogRecPtr	lsn;			/* what has to be durable before it goes out */
} OiBatch;

/* what a delivery adds to the cursor's counters */
typedef struct OiTally
{
	int64		delivered;
	int64		retried;
	int64		dead;
} OiTally;

/* in subscriber.c */
extern OiSubscription *oi_drain_subscription(int32 id);
extern bool oi_drain_armed(const OiSubscription *sub);

/* in drain.c */
extern bool oi_drain_load(const OiSubscription *sub, OiCursor *cursor, OiHeld *held);
extern bool oi_drain_current(const OiSubscription *sub, const OiCursor *cursor);
extern OiBatch *oi_drain_read(const OiSubscription *sub, OiCursor *cursor);
extern OiBatch *oi_drain_read_failed(const OiSubscription *sub, const OiCursor *cursor,
									 OiHeld *held, TimestampTz now);
extern OiBatch *oi_drain_read_open(const OiSubscription *sub, const OiCursor *cursor,
								   bool failed);
extern void oi_drain_advance(OiCursor *cursor, const OiBatch *batch);
extern bool oi_drain_record(const OiSubscription *sub, OiCursor *cursor,
							const OiTally *tally, OiBatch *batch, OiHeld *held);

#endif							/* OI_DRAIN_H */
