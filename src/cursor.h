/*-------------------------------------------------------------------------
 *
 * cursor.h
 *		Where a subscription stands in the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_CURSOR_H
#define OI_CURSOR_H

#include "fmgr.h"

/* which transactions had ended at some moment */
typedef struct OiSnapshot
{
	uint64		xmin;			/* all before it had ended */
	uint64		xmax;			/* none from it on had */
	int			nxip;
	uint64		xip[FLEXIBLE_ARRAY_MEMBER]; /* between: these had not; sorted */
} OiSnapshot;

/*
 * A moment of the log: its last position, read before the snapshot was
 * taken, and the next xid, read after.  So whatever the snapshot does not see
 * has an xid of its list, or one from its xmax on; and what has an xid from
 * next_xid on, has a position above this one.  This is about rows of its own
 * incarnation of the log, the one of its position.
 */
typedef struct OiMoment
{
	OiSnapshot *snapshot;		/* NULL: no moment */
	int64		position;
	uint64		next_xid;
} OiMoment;

extern bool oi_snapshot_sees(const OiSnapshot *snapshot, uint64 xid);
extern OiSnapshot *oi_snapshot_from_datum(Datum value);
extern Datum oi_snapshot_to_datum(const OiSnapshot *snapshot);

extern void oi_moment_now(OiMoment *moment);
extern void oi_moment_start(OiMoment *moment, int64 incarnation);
extern void oi_moment_end(OiMoment *moment, int64 incarnation);
extern bool oi_moment_is_end(const OiMoment *moment);
extern void oi_moment_copy(OiMoment *to, const OiMoment *from);
extern void oi_moment_clear(OiMoment *moment);

#endif							/* OI_CURSOR_H */
