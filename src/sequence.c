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

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

#include "owner.h"
#include "sequence.h"

/*
 * A sequence as it is now, whatever the snapshot.  It is read under the lock of
 * its page: every so often nextval has the page show, for as long as it takes to
 * write WAL, a value that is ahead of what was drawn.
 */
OiSequence
oi_sequence_read(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Buffer		buffer = ReadBuffer(rel, 0);
	OiSequence	sequence;
	Page		page;
	HeapTupleData tuple;
	Form_pg_sequence_data data;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple.t_data = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	data = (Form_pg_sequence_data) GETSTRUCT(&tuple);
	sequence.last_value = data->last_value;
	sequence.is_called = data->is_called;
	UnlockReleaseBuffer(buffer);
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
