/*-------------------------------------------------------------------------
 *
 * pace.c
 *		When a worker flushes, and when it leaves the log alone.
 *
 * Where events come faster than one in a millisecond, and the worker keeps up with
 * them, it reads the log only every few milliseconds.  Otherwise it would take the
 * processor from those who write them, for batches of next to nothing.
 *
 * Records commit asynchronously.  Each is durable before something else goes out, but
 * where batches follow each other within milliseconds a flush is for several of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "clock.h"
#include "cycle.h"
#include "durable.h"
#include "order_sink.h"
#include "pace.h"
#include "utils/timestamp.h"

/* ms that a record may wait for the flush of later ones */
#define UNFLUSHED_MOST 10

/* ms from one look at a busy log to the next */
#define PAUSE 10

/*
 * Has the record of what went out before to be durable when this goes out?  A
 * backlog is read in batches that take less than a flush does: so not every time, if
 * the receiver does not count on it.
 */
static bool
needs_record(const OiBatch *batch)
{
	const OiCursor *cursor = &oi_worker.cursor;

	return batch == NULL || batch->failed || cursor->numbered ||
		cursor->unflushed + batch->n > OI_SINK_MAX_EVENTS ||
		oi_uptime() - cursor->flushed_at >= UNFLUSHED_MOST * 1000;
}

/*
 * Up to where WAL has to be durable before anything goes out.
 */
XLogRecPtr
oi_pace_lsn(void)
{
	const OiBatch *batch = oi_worker.batch;
	XLogRecPtr	lsn = needs_record(batch) ? oi_worker.cursor.lsn : InvalidXLogRecPtr;

	return batch == NULL ? lsn : Max(batch->lsn, lsn);
}

/*
 * WAL is durable up to there.
 */
void
oi_pace_note_durable(XLogRecPtr lsn)
{
	if (lsn < oi_worker.cursor.lsn)
		return;
	oi_worker.cursor.unflushed = 0;
	oi_worker.cursor.flushed_at = oi_uptime();
}

/*
 * Make it so, unless standbys have to be waited for.
 */
bool
oi_pace_flush(XLogRecPtr lsn)
{
	if (!oi_flush(lsn))
		return false;
	oi_pace_note_durable(lsn);
	return true;
}

/*
 * Where events come fast, leave the log alone for a moment.  False: it is time to
 * go on.
 */
bool
oi_pace_pause(void)
{
	long		left;

	if (!oi_worker.busy || oi_worker.batch != NULL)
		return false;
	oi_worker.busy = false;
	left = PAUSE - (oi_uptime() - oi_worker.read_at) / 1000;
	if (left <= 0)
		return false;
	oi_worker_rest(OI_WORKER_DELIVERING, left);
	return true;
}
