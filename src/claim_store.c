/*-------------------------------------------------------------------------
 *
 * claim_store.c
 *		The generations of claims, and the rows in them.
 *
 * A changed claim that is found in an older generation moves to the current
 * one, so that it is kept as long as a new one.  There the hash of its key may
 * have another format (time_order.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "claim_store.h"
#include "lookup.h"

StaticAssertDecl(OI_REL_CLAIMS_0 + OI_SLOTS - 1 == OI_REL_CLAIMS_3,
				 "claims relations are consecutive");

/* The lock under which a generation is opened; new rows go to the last. */
static LOCKMODE
open_mode(const OiClaimStore *store, int i)
{
	return i == store->ntables - 1 ? RowExclusiveLock : AccessShareLock;
}

/* A hash in the format that a generation has. */
static Datum
hash_datum(const OiKeyHash *hash, bool time_ordered)
{
	return UUIDPGetDatum(time_ordered ? &hash->time_ordered : &hash->plain);
}

/*
 * Opens the generations that hold claims, for one key.  The caller is inside
 * the gate.
 */
void
oi_claim_store_open(OiClaimStore *store, const OiKeyHash *hash)
{
	OiGenerations g = oi_generations(OI_STORE_CLAIMS);

	store->hash = hash;
	store->ntables = g.nlive;
	memcpy(store->slots, g.live, sizeof(g.live));
	store->pinned = false;
	store->written = -1;
	for (int i = 0; i < store->ntables; i++)
	{
		store->keys[i] = hash_datum(hash, g.time_ordered[i]);
		oi_table_open(&store->tables[i], OI_REL_CLAIMS_0 + store->slots[i],
					  open_mode(store, i));
	}
}

/* Closes a table and lets go of its lock. */
static void
close_and_unlock(OiTable *table, LOCKMODE mode)
{
	Oid			relid = RelationGetRelid(table->rel);

	oi_table_close(table);
	UnlockRelationOid(relid, mode);
}

/*
 * Closes what oi_claim_store_open opened, and lets go of the tables that have
 * no row of ours: a lock that is kept keeps the generation.
 */
void
oi_claim_store_close(OiClaimStore *store)
{
	for (int i = 0; i < store->ntables; i++)
	{
		Oid			relid = RelationGetRelid(store->tables[i].rel);
		bool		current = i == store->ntables - 1;

		if (i == store->written && current)
			oi_table_close(&store->tables[i]);
		else
			close_and_unlock(&store->tables[i], open_mode(store, i));
		if (i == store->found && store->pinned && i != store->written)
			UnlockRelationOid(relid, RowExclusiveLock);
	}
}

/* The table that new rows go to, and the key's hash there. */
OiTable *
oi_claim_store_current(OiClaimStore *store, Datum *key)
{
	*key = store->keys[store->ntables - 1];
	return &store->tables[store->ntables - 1];
}

/*
 * Takes predicate locks in the slots that are not in use: a generation that
 * begins later must find them.  Its format is the current one's, or the new one
 * after the old.  Rows there do not count.
 */
static void
look_elsewhere(const OiClaimStore *store)
{
	Datum		key = store->keys[store->ntables - 1];
	Datum		time_ordered = hash_datum(store->hash, true);

	for (int slot = 0; slot < OI_SLOTS; slot++)
	{
		OiTable		table;
		bool		live = false;

		for (int i = 0; i < store->ntables; i++)
			live |= store->slots[i] == slot;
		if (live)
			continue;
		oi_table_open(&table, OI_REL_CLAIMS_0 + slot, AccessShareLock);
		(void) oi_find(&table, key, GetTransactionSnapshot());
		if (time_ordered != key)
			(void) oi_find(&table, time_ordered, GetTransactionSnapshot());
		close_and_unlock(&table, AccessShareLock);
	}
}

/* Looks for the key.  If it is present, store->found says where. */
OiProbe
oi_claim_store_look(OiClaimStore *store, int flags, OiBusy *busy)
{
	if (IsolationIsSerializable())
		look_elsewhere(store);
	return oi_lookup(store->tables, store->keys, store->ntables, flags,
					 &store->found, busy);
}

/*
 * Takes the lock that a change of the row found needs, and that keeps its
 * generation.  The caller is inside the gate still.
 */
void
oi_claim_store_pin(OiClaimStore *store)
{
	if (store->found == store->ntables - 1)
		return;
	LockRelationOid(RelationGetRelid(store->tables[store->found].rel),
					RowExclusiveLock);
	store->pinned = true;
}

/* A column of the row found; 0 for null. */
static Datum
column(TupleTableSlot *slot, int col)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, col + 1, &isnull);

	return isnull ? (Datum) 0 : value;
}

/* Reads the row found. */
void
oi_claim_row_read(const OiClaimStore *store, OiClaimRow *row)
{
	TupleTableSlot *slot = store->tables[store->found].row;
	bool		isnull;
	Datum		hash = column(slot, OI_CLAIM_COL_REQUEST_HASH);
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber,
									   &isnull);

	row->claimed_at = DatumGetTimestampTz(column(slot, OI_CLAIM_COL_CLAIMED_AT));
	row->lease_until = DatumGetTimestampTz(column(slot, OI_CLAIM_COL_LEASE_UNTIL));
	row->completed_at = DatumGetTimestampTz(column(slot, OI_CLAIM_COL_COMPLETED_AT));
	row->attempt = DatumGetInt32(column(slot, OI_CLAIM_COL_ATTEMPT));
	row->request_hash = hash ? DatumGetByteaPP(hash) : NULL;
	row->response = column(slot, OI_CLAIM_COL_RESPONSE);
	row->own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/* Sets a column of a row to be stored. */
void
oi_claim_set_column(TupleTableSlot *slot, int col, Datum value, bool isnull)
{
	slot->tts_values[col] = value;
	slot->tts_isnull[col] = isnull;
}

/* A copy of the row found, to be changed and given to oi_claim_row_replace. */
TupleTableSlot *
oi_claim_row_copy(OiClaimStore *store)
{
	OiTable    *table = &store->tables[store->found];
	TupleTableSlot *slot = oi_table_slot(table);

	slot_getallattrs(table->row);
	memcpy(slot->tts_values, table->row->tts_values,
		   OI_CLAIM_COL_COUNT * sizeof(Datum));
	memcpy(slot->tts_isnull, table->row->tts_isnull, OI_CLAIM_COL_COUNT * sizeof(bool));
	return slot;
}

/*
 * Stores the changed form of the row found, which is locked: in its place, or
 * from an older generation in the current one, under the hash that it has there.
 */
void
oi_claim_row_replace(OiClaimStore *store, TupleTableSlot *slot)
{
	OiTable    *table = &store->tables[store->found];
	OiGenerations g;
	int			current;

	ExecStoreVirtualTuple(slot);
	oi_generation_gate();
	g = oi_generations(OI_STORE_CLAIMS);
	current = oi_generation_current(&g);
	if (current == store->slots[store->found])
		oi_update(table, slot, NULL);
	else
	{
		oi_claim_set_column(slot, OI_CLAIM_COL_KEY_HASH,
							hash_datum(store->hash, g.time_ordered[g.nlive - 1]),
							false);
		oi_delete(table);
		oi_insert_values(OI_REL_CLAIMS_0 + current, slot->tts_values,
						 slot->tts_isnull);
	}
	oi_generation_ungate();
}

/* Is somebody at work on the claim in the slot?  Until when, or 0. */
static TimestampTz
running_lease(TupleTableSlot *slot)
{
	TimestampTz until = DatumGetTimestampTz(column(slot, OI_CLAIM_COL_LEASE_UNTIL));

	return until != 0 && column(slot, OI_CLAIM_COL_COMPLETED_AT) == 0 ? until : 0;
}

/*
 * When the last lease of a generation ends whose work is not completed.  To be
 * asked of one that nobody writes to any more.
 */
TimestampTz
oi_claim_last_lease(int slot)
{
	TimestampTz last = DT_NOBEGIN;
	TupleTableSlot *row;
	TableScanDesc scan;
	Snapshot	snapshot;
	OiTable		table;

	oi_table_open(&table, OI_REL_CLAIMS_0 + slot, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	row = oi_table_slot(&table);
	scan = table_beginscan_strat(table.rel, snapshot, 0, NULL, true, false);
	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		CHECK_FOR_INTERRUPTS();
		last = Max(last, running_lease(row));
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	close_and_unlock(&table, AccessShareLock);
	return last;
}
