/*-------------------------------------------------------------------------
 *
 * durable.c
 *		Waiting until what was read is durable.
 *
 * A commit is visible to others before it is durable: where the session
 * does not wait for the flush, or waits for no standby.  What was read must not
 * go out before it is both, or a crash or a failover would leave an event
 * outside whose transaction never was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xloginsert.h"
#include "catalog/pg_control.h"
#include "durable.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/wait_event.h"

/* ms between two looks at what the synchronous standbys have */
#define STANDBY_WAIT_FIRST 1
#define STANDBY_WAIT_MOST 32

/*
 * The end of the WAL that is in use, as an end of a record: where the next
 * record would start behind a page's header, the last one ended before it.
 */
XLogRecPtr
oi_wal_end(void)
{
	XLogRecPtr	lsn = GetXLogInsertRecPtr();
	uint32		offset = lsn % XLOG_BLCKSZ;
	bool		first = XLogSegmentOffset(lsn, wal_segment_size) < XLOG_BLCKSZ;

	return offset == (first ? SizeOfXLogLongPHD : SizeOfXLogShortPHD) ? lsn - offset : lsn;
}

/*
 * Have the synchronous standbys the WAL up to a place?  True also where
 * there are none.  Whether commits of this session wait for them does not matter:
 * those of the worker do not.
 */
static bool
standbys_have(XLogRecPtr lsn)
{
	bool		have;

	if (max_wal_senders == 0 || SyncRepStandbyNames == NULL || SyncRepStandbyNames[0] == '\0')
		return true;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	have = WalSndCtl->lsn[SYNC_REP_WAIT_FLUSH] >= lsn;
	LWLockRelease(SyncRepLock);

	return have;
}

/*
 * Make WAL durable up to a place, without waiting for anybody.  False: the
 * synchronous standbys do not have it yet.
 */
bool
oi_flush(XLogRecPtr lsn)
{
	XLogFlush(lsn);
	return standbys_have(lsn);
}

/*
 * A place in the WAL behind all that is visible, to be given to SyncRepWaitForLSN();
 * invalid if the synchronous standbys have all that, so that there is nothing to wait for.
 *
 * No two processes may wait for the same place there, commits included, so each writes
 * a record of its own, which says nothing.
 */
XLogRecPtr
oi_place_to_wait_for(void)
{
	char		nothing = 0;
	XLogRecPtr	lsn;

	if (standbys_have(GetFlushRecPtr(NULL)))
		return InvalidXLogRecPtr;

	XLogBeginInsert();
	XLogSetRecordFlags(XLOG_MARK_UNIMPORTANT);
	XLogRegisterData(&nothing, sizeof(nothing));
	lsn = XLogInsert(RM_XLOG_ID, XLOG_NOOP);
	XLogFlush(lsn);
	return lsn;
}

/*
 * Wait until what was read is durable, here and on synchronous standbys: an
 * asynchronous commit is visible before it is either.
 *
 * SyncRepWaitForLSN() is for commits: it must not be left by an interrupt
 * and gives up with a warning.  Here the wait may be broken off at any time,
 * nothing has been sent yet; so it polls.
 *
 * False: it may not be, since settings are to be read again.  They may ask for no standby
 * any more, and may forbid what the caller is about to do; so that is up to him.
 */
bool
oi_make_durable(XLogRecPtr lsn)
{
	int			wait = STANDBY_WAIT_FIRST;

	while (!oi_flush(lsn))
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 wait, WAIT_EVENT_SYNC_REP);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			return false;
		wait = Min(wait * 2, STANDBY_WAIT_MOST);
	}
	return true;
}
