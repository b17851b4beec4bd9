/*-------------------------------------------------------------------------
 *
 * lease.c
 *		How long claims are leased for.
 *
 * A generation of claims must not expire while a lease in it is running, and
 * key_retention, which bounds leases, can be lowered.  Sequence "longest_lease"
 * says what no lease was ever longer than, in seconds, so that no generation
 * has to be read for that.  It is raised before the claim is made, by powers of
 * two, so a few times at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "lease.h"
#include "relation.h"
#include "sequence.h"

/* what this backend knows the sequence to be at least, and which it was */
static int64 known = 0;
static Oid	known_of = InvalidOid;

/* What no lease was longer than, in seconds. */
static int64
longest(Oid relid)
{
	OiSequence	sequence = oi_sequence_read(relid);

	return sequence.is_called ? sequence.last_value : 0;
}

/* Makes sure that the sequence covers a lease of so many us. */
static void
note_length(int64 length)
{
	Oid			relid = oi_relation_oid_if_any(OI_REL_LONGEST_LEASE);
	int64		seconds = 1;

	if (!OidIsValid(relid))
		return;
	if (relid == known_of && length <= known * USECS_PER_SEC)
		return;

	while (seconds * USECS_PER_SEC < length)
		seconds *= 2;
	if (longest(relid) < seconds)
	{
		oi_sequence_lock(relid);
		if (longest(relid) < seconds)
			oi_sequence_set(relid, seconds);
		oi_sequence_unlock(relid);
	}
	known = longest(relid);
	known_of = relid;
}

/*
 * When a lease that begins now is over.  Refuses one that is not positive, or
 * that key_retention would not outlast.
 */
TimestampTz
oi_lease_end(const Interval *lease, TimestampTz now)
{
	TimestampTz until;

	until = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													TimestampTzGetDatum(now),
													PointerGetDatum(lease)));
	if (until <= now)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must be longer than zero")));
	if (until > now + oi_key_retention * USECS_PER_SEC)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lease must not be longer than order_idempotency.key_retention"),
				 errdetail("Claims are kept for %d seconds.", oi_key_retention)));
	note_length(until - now);
	return until;
}

/*
 * What no lease was ever longer than, in us.  With the SQL objects of 1.0 that
 * is not known: -1.
 */
int64
oi_lease_longest(void)
{
	Oid			relid = oi_relation_oid_if_any(OI_REL_LONGEST_LEASE);

	return OidIsValid(relid) ? longest(relid) * USECS_PER_SEC : -1;
}
