/*-------------------------------------------------------------------------
 *
 * incarnation.c
 *		Which installation this is, and which of its ancestors wrote what.
 *
 * A dump takes the log along, and the restored rows have xids of another
 * cluster, which mean nothing here.  So the first write in an installation
 * looks whether its tables came from elsewhere, and then begins a new
 * incarnation of the log: positions go on in the next multiple of
 * 2^OI_INCARNATION_BITS.  The high bits of a position say which incarnation it
 * belongs to, and the xids of one incarnation all come from one cluster.
 *
 * Sequence "in_use" was called once that is done.  It is not dumped, so a
 * restored database begins without; pg_upgrade keeps it.
 *
 * Sequences are not transactional: whoever sees one of these changes may
 * build on it, whatever becomes of the transaction that made it.  A crash
 * keeps the advance if it keeps the mark, since it was logged first; it may
 * keep the advance alone, and then the next write skips one incarnation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "incarnation.h"
#include "miscadmin.h"
#include "relation.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

/* columns of a sequence's only row */
#define SEQUENCE_LAST_VALUE 1
#define SEQUENCE_IS_CALLED 3

/* what a sequence's row says */
typedef struct SequenceState
{
	int64		last_value;
	bool		is_called;
} SequenceState;

/* the sequence in_use that this backend knows to have been called */
static Oid	adopted = InvalidOid;

/*
 * A sequence as it is now, whatever the snapshot.
 */
static SequenceState
sequence_state(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotAny, 0, NULL);
	SequenceState state;
	bool		isnull;

	if (!table_scan_getnextslot(scan, ForwardScanDirection, slot))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("sequence \"%s\" has no row", RelationGetRelationName(rel))));
	state.last_value = DatumGetInt64(slot_getattr(slot, SEQUENCE_LAST_VALUE, &isnull));
	state.is_called = DatumGetBool(slot_getattr(slot, SEQUENCE_IS_CALLED, &isnull));

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);

	return state;
}

/*
 * The last position drawn, or where the log's incarnation begins.
 */
int64
oi_log_position(void)
{
	SequenceState state = sequence_state(oi_relation_oid(OI_REL_OUTBOX_POSITION));

	return state.is_called ? state.last_value : state.last_value - 1;
}

/*
 * Has this installation been written to by our functions?
 */
bool
oi_in_use(void)
{
	Oid			in_use = oi_relation_oid_if_any(OI_REL_IN_USE);

	return OidIsValid(in_use) && sequence_state(in_use).is_called;
}

/*
 * Begin the next incarnation of the log.  The caller need not have a right to
 * the sequence.
 */
static void
advance_log(void)
{
	Oid			relid = oi_relation_oid(OI_REL_OUTBOX_POSITION);
	int64		next = OI_INCARNATION(oi_log_position()) + 1;
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(oi_relation_owner(relid),
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(relid),
						Int64GetDatum(OI_INCARNATION_START(next)));
	SetUserIdAndSecContext(userid, sec_context);
}

/*
 * Could any of the log's positions, or of the cursors into it, be from
 * elsewhere?  In an installation that was not in use, all are that there are.
 */
static bool
has_ancestor(void)
{
	return sequence_state(oi_relation_oid(OI_REL_OUTBOX_POSITION)).is_called ||
		sequence_state(oi_relation_oid(OI_REL_SUBSCRIPTION_ID)).is_called;
}

/*
 * Mark the installation as in use, if nobody has.  The lock is one that only
 * this function takes, and not kept: nobody waits for a transaction's end.
 */
static void
adopt(Oid in_use)
{
	LockDatabaseObject(RelationRelationId, in_use, 1, ExclusiveLock);
	if (!sequence_state(in_use).is_called)
	{
		if (has_ancestor())
			advance_log();
		(void) nextval_internal(in_use, false);
	}
	UnlockDatabaseObject(RelationRelationId, in_use, 1, ExclusiveLock);
}

/*
 * To be called where a write begins, before a position is drawn, and with no
 * lock held that others must not wait for.  The SQL objects of 1.0 have no
 * such mark, and no incarnations.
 */
void
oi_incarnation_adopt(void)
{
	Oid			in_use = oi_relation_oid_if_any(OI_REL_IN_USE);

	if (in_use == adopted || !OidIsValid(in_use))
		return;
	if (!sequence_state(in_use).is_called)
		adopt(in_use);
	adopted = in_use;
}
