/*-------------------------------------------------------------------------
 *
 * sequence.c
 *		Sequences as notes that no rollback takes back.
 *
 * A sequence is not transactional: whoever sees a change may build on it,
 * whatever becomes of the transaction that made it.  The change is in WAL
 * before anything that is written after it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "owner.h"
#include "sequence.h"

/* columns of a sequence's only row */
#define SEQUENCE_LAST_VALUE 1
#define SEQUENCE_IS_CALLED 3

/* A sequence as it is now, whatever the snapshot. */
OiSequence
oi_sequence_read(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, SnapshotAny, 0, NULL);
	OiSequence	sequence;
	bool		isnull;

	if (!table_scan_getnextslot(scan, ForwardScanDirection, slot))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("sequence \"%s\" has no row", RelationGetRelationName(rel))));
	sequence.last_value = DatumGetInt64(slot_getattr(slot, SEQUENCE_LAST_VALUE, &isnull));
	sequence.is_called = DatumGetBool(slot_getattr(slot, SEQUENCE_IS_CALLED, &isnull));

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);

	return sequence;
}

/* Sets a sequence.  The caller need not have a right to it. */
void
oi_sequence_set(Oid relid, int64 value)
{
	OiIdentity	was;

	oi_owner_assume(relid, SECURITY_LOCAL_USERID_CHANGE, &was);
	DirectFunctionCall2(setval_oid, ObjectIdGetDatum(relid), Int64GetDatum(value));
	oi_owner_resume(&was);
}

/*
 * Takes turns with others who read a sequence and then set it.  The lock is one
 * that nobody else takes, and not kept: nobody waits for a transaction's end.
 */
void
oi_sequence_lock(Oid relid)
{
	LockDatabaseObject(RelationRelationId, relid, 1, ExclusiveLock);
}

/* Ends the turn. */
void
oi_sequence_unlock(Oid relid)
{
	UnlockDatabaseObject(RelationRelationId, relid, 1, ExclusiveLock);
}
