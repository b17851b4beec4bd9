/*-------------------------------------------------------------------------
 *
 * claim_store.c
 *		The generations of claims, and the rows in them.
 *
 * A changed claim that is found in an older generation moves to the current
 * one, so that it is kept as long as a new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "utils/timestamp.h"

#include "claim_store.h"

StaticAssertDecl(OI_REL_CLAIMS_0 + OI_SLOTS - 1 == OI_REL_CLAIMS_3,
				 "claims relations are consecutive");

/*
 * Opens the generations that hold claims, oldest first.  SERIALIZABLE opens
 * all: a generation that begins later must find our predicate locks.
 */
void
oi_claim_store_open(OiClaimStore *store)
{
	OiGenerations g = oi_generations(OI_STORE_CLAIMS);

	store->ntables = g.nlive;
	memcpy(store->slots, g.live, sizeof(g.live));
	store->current = g.nlive - 1;
	for (int slot = 0; slot < OI_SLOTS && IsolationIsSerializable(); slot++)
	{
		bool		live = false;

		for (int i = 0; i < g.nlive; i++)
			live |= g.live[i] == slot;
		if (!live)
			store->slots[store->ntables++] = slot;
	}
	for (int i = 0; i < store->ntables; i++)
		oi_table_open(&store->tables[i], OI_REL_CLAIMS_0 + store->slots[i],
					  RowExclusiveLock);
}

/* Closes what oi_claim_store_open opened. */
void
oi_claim_store_close(OiClaimStore *store)
{
	for (int i = 0; i < store->ntables; i++)
		oi_table_close(&store->tables[i]);
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
 * from an older generation in the current one.
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
		oi_delete(table);
		oi_insert_values(OI_REL_CLAIMS_0 + current, slot->tts_values,
						 slot->tts_isnull);
	}
	oi_generation_ungate();
}
