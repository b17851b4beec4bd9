/*-------------------------------------------------------------------------
 *
 * time_order.c
 *		From which generation on hashes of keys are in the order of time.
 *
 * Version 1.0 stored claims under a hash without any order.  Which of the two
 * formats a generation of claims has must never change, or a key in it would
 * not be found.  Sequence "time_ordered_from" has the number of the first one
 * in the new format: in a database that was updated, the one after that which
 * was current then.
 *
 * In a new database the sequence is not called.  The first claim settles it,
 * because only then is it known whether the tables were filled by a dump of
 * version 1.0, which has no such sequence; a dump of a later one brings it.
 *
 * Sequences are not transactional: what one session has settled holds for all,
 * whatever becomes of its transaction, and is in WAL before its claim.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/rel.h"

#include "relation.h"
#include "sequence.h"
#include "time_order.h"

/* Do these slots of the claims have not one block? */
static bool
are_empty(const int *slots, int nslots)
{
	BlockNumber blocks = 0;

	for (int i = 0; i < nslots && blocks == 0; i++)
	{
		Relation	rel = table_open(oi_relation_oid(OI_REL_CLAIMS_0 + slots[i]),
									 AccessShareLock);

		blocks = RelationGetNumberOfBlocks(rel);
		table_close(rel, AccessShareLock);
	}
	return blocks == 0;
}

/*
 * Settles where the new format begins, if nobody has.  Nobody claims a key
 * before that, so claims that are there came with a dump.  Who holds the lock
 * waits for nothing.
 */
static void
settle(Oid relid, const int *slots, int nslots, int64 current)
{
	int64		from = are_empty(slots, nslots) ? 1 : current + 1;

	oi_sequence_lock(relid);
	if (!oi_sequence_read(relid).is_called)
		oi_sequence_set(relid, from);
	oi_sequence_unlock(relid);
}

/*
 * The number of the first generation in the new format.  Needs the slots on
 * the list of claims and the number of the current generation; the caller is
 * inside the gate.  The SQL objects of 1.0 have the old format only.
 */
int64
oi_time_ordered_from(const int *slots, int nslots, int64 current)
{
	Oid			relid = oi_relation_oid_if_any(OI_REL_TIME_ORDERED_FROM);

	if (!OidIsValid(relid))
		return PG_INT64_MAX;
	if (!oi_sequence_read(relid).is_called)
		settle(relid, slots, nslots, current);
	return oi_sequence_read(relid).last_value;
}
