/*-------------------------------------------------------------------------
 *
 * claim_store.h
 *		The generations of claims, and the rows in them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_CLAIM_STORE_H
#define OI_CLAIM_STORE_H

#include "datatype/timestamp.h"

#include "fingerprint.h"
#include "generation.h"
#include "wait.h"

/* the columns of the claims tables */
enum
{
	OI_CLAIM_COL_KEY_HASH,
	OI_CLAIM_COL_CLAIMED_AT,
	OI_CLAIM_COL_LEASE_UNTIL,
	OI_CLAIM_COL_COMPLETED_AT,
	OI_CLAIM_COL_ATTEMPT,
	OI_CLAIM_COL_REQUEST_HASH,
	OI_CLAIM_COL_SCOPE,
	OI_CLAIM_COL_KEY,
	OI_CLAIM_COL_RESPONSE,
	OI_CLAIM_COL_COUNT
};

/*
 * the generations, opened for one try at a key, oldest first: the last is
 * current
 */
typedef struct OiClaimStore
{
	const OiKeyHash *hash;		/* of the key, in both formats */
	int			ntables;
	OiTable		tables[OI_SLOTS];
	int			slots[OI_SLOTS];	/* which of the store's slots each is */
	Datum		keys[OI_SLOTS]; /* the hash that the key has there */
	int			found;			/* index of the one that has the row */
	bool		pinned;			/* RowExclusiveLock is held on that one */
	int			written;		/* index of the one that has a row of ours, or
								 * -1: its lock is kept */
} OiClaimStore;

/* a stored claim */
typedef struct OiClaimRow
{
	TimestampTz claimed_at;
	TimestampTz lease_until;	/* 0: none */
	TimestampTz completed_at;	/* 0: not by complete_key */
	int			attempt;
	bytea	   *request_hash;	/* or NULL */
	Datum		response;		/* 0: null */
	bool		own;			/* written by the current transaction */
} OiClaimRow;

extern void oi_claim_store_open(OiClaimStore *store, const OiKeyHash *hash);
extern OiProbe oi_claim_store_look(OiClaimStore *store, int flags, OiBusy *busy);
extern void oi_claim_store_pin(OiClaimStore *store);
extern void oi_claim_store_close(OiClaimStore *store);
extern OiTable *oi_claim_store_current(OiClaimStore *store, Datum *key);
extern TimestampTz oi_claim_last_lease(int slot);
extern void oi_claim_row_read(const OiClaimStore *store, OiClaimRow *row);
extern TupleTableSlot *oi_claim_row_copy(OiClaimStore *store);
extern void oi_claim_row_replace(OiClaimStore *store, TupleTableSlot *slot);
extern void oi_claim_set_column(TupleTableSlot *slot, int col, Datum value,
								bool isnull);

#endif							/* OI_CLAIM_STORE_H */
