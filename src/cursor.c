/*-------------------------------------------------------------------------
 *
 * cursor.c
 *		Where a subscription stands in the log.
 *
 * Positions are drawn before their transactions commit, so a position alone
 * cannot say what has been delivered: a transaction that drew a low one may
 * commit last.  A subscription therefore remembers a moment, that is, which
 * transactions had ended by then (see src/README, "The cursor").
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "compat.h"
#include "cursor.h"
#include "incarnation.h"
#include "libpq/pqformat.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

/*
 * Had a transaction ended at the time of the snapshot?
 */
bool
oi_snapshot_sees(const OiSnapshot *snapshot, uint64 xid)
{
	int			low = 0;
	int			high = snapshot->nxip;

	if (xid < snapshot->xmin)
		return true;
	if (xid >= snapshot->xmax)
		return false;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (snapshot->xip[middle] == xid)
			return false;
		if (snapshot->xip[middle] < xid)
			low = middle + 1;
		else
			high = middle;
	}
	return true;
}

/*
 * A snapshot from a value of type pg_snapshot, with room for one more xid.  It
 * goes by way of what clients get of it in binary (how many xids are open,
 * xmin, xmax, those xids), since its struct is not for others.
 */
OiSnapshot *
oi_snapshot_from_datum(Datum value)
{
	bytea	   *sent = DatumGetByteaP(DirectFunctionCall1(pg_snapshot_send, value));
	StringInfoData buffer;
	OiSnapshot *snapshot;
	int			n;

	buffer.data = VARDATA(sent);
	buffer.len = buffer.maxlen = VARSIZE(sent) - VARHDRSZ;
	buffer.cursor = 0;
	n = pq_getmsgint(&buffer, 4);
	snapshot = palloc(offsetof(OiSnapshot, xip) + (n + 1) * sizeof(uint64));
	snapshot->nxip = n;
	snapshot->xmin = pq_getmsgint64(&buffer);
	snapshot->xmax = pq_getmsgint64(&buffer);
	for (int i = 0; i < n; i++)
		snapshot->xip[i] = pq_getmsgint64(&buffer);
	pfree(sent);

	return snapshot;
}

/*
 * The same as a value of type pg_snapshot.
 */
Datum
oi_snapshot_to_datum(const OiSnapshot *snapshot)
{
	StringInfoData buffer;
	Datum		value;

	initStringInfo(&buffer);
	pq_sendint32(&buffer, snapshot->nxip);
	pq_sendint64(&buffer, snapshot->xmin);
	pq_sendint64(&buffer, snapshot->xmax);
	for (int i = 0; i < snapshot->nxip; i++)
		pq_sendint64(&buffer, snapshot->xip[i]);
	value = DirectFunctionCall1(pg_snapshot_recv, PointerGetDatum(&buffer));
	pfree(buffer.data);

	return value;
}

/*
 * What a snapshot omits is its own transaction: add it, as one that has not
 * ended.  The snapshot has room for one more.
 */
static void
add_own_xid(OiSnapshot *snapshot, uint64 xid)
{
	int			i = snapshot->nxip;

	if (xid >= snapshot->xmax)
		return;
	for (; i > 0 && snapshot->xip[i - 1] > xid; i--)
		snapshot->xip[i] = snapshot->xip[i - 1];
	if (i > 0 && snapshot->xip[i - 1] == xid)
		return;
	snapshot->xip[i] = xid;
	snapshot->nxip++;
	snapshot->xmin = Min(snapshot->xmin, xid);
}

/*
 * The moment that is now.  The order of the three readings matters.
 */
void
oi_moment_now(OiMoment *moment)
{
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	Datum		value;

	moment->position = oi_log_position();
	PushActiveSnapshot(GetLatestSnapshot());
	value = DirectFunctionCall1(pg_current_snapshot, (Datum) 0);
	PopActiveSnapshot();
	moment->snapshot = oi_snapshot_from_datum(value);
	moment->next_xid = U64FromFullTransactionId(ReadNextFullTransactionId());

	if (FullTransactionIdIsValid(own))
		add_own_xid(moment->snapshot, U64FromFullTransactionId(own));
}

/*
 * A moment with nothing open.
 */
static void
set_moment(OiMoment *moment, int64 position, uint64 next_xid)
{
	moment->snapshot = palloc0(offsetof(OiSnapshot, xip) + sizeof(uint64));
	moment->snapshot->xmin = next_xid;
	moment->snapshot->xmax = next_xid;
	moment->position = position;
	moment->next_xid = next_xid;
}

/*
 * The moment before an incarnation of the log began: it sees nothing of that.
 */
void
oi_moment_start(OiMoment *moment, int64 incarnation)
{
	set_moment(moment, OI_INCARNATION_START(incarnation), FirstNormalTransactionId);
}

/*
 * The moment after it ended: it sees all of that.
 */
void
oi_moment_end(OiMoment *moment, int64 incarnation)
{
	set_moment(moment, OI_INCARNATION_END(incarnation), PG_INT64_MAX);
}

/*
 * Is a moment such an end?
 */
bool
oi_moment_is_end(const OiMoment *moment)
{
	return moment->position == OI_INCARNATION_END(OI_INCARNATION(moment->position));
}

/*
 * Make "to" the same moment, in memory of its own.
 */
void
oi_moment_copy(OiMoment *to, const OiMoment *from)
{
	Size		size = offsetof(OiSnapshot, xip) + (from->snapshot->nxip + 1) * sizeof(uint64);

	to->snapshot = palloc(size);
	memcpy(to->snapshot, from->snapshot,
		   offsetof(OiSnapshot, xip) + from->snapshot->nxip * sizeof(uint64));
	to->position = from->position;
	to->next_xid = from->next_xid;
}

/*
 * Let go of a moment.
 */
void
oi_moment_clear(OiMoment *moment)
{
	if (moment->snapshot != NULL)
		pfree(moment->snapshot);
	moment->snapshot = NULL;
}
