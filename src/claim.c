/*-------------------------------------------------------------------------
 *
 * claim.c
 *		Claims of idempotency keys.
 *
 * A claim without a lease is done when its transaction commits.  One with a
 * lease is done when it is completed, and free again when the lease is over;
 * its attempt number fences off the holder who was too slow.
 *
 * New claims pass the gate: inside it the look-up and the insertion see the
 * same generations, so that two claims of one key meet in one unique index.
 * The gate is left before anything is waited for.  Changes of a claim are made
 * under its row lock; in an older generation the change moves the row to the
 * current one, so that it is kept as long as a new claim.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "claim.h"
#include "claim_store.h"
#include "errors.h"
#include "fingerprint.h"
#include "generation.h"
#include "lease.h"
#include "lookup.h"

static const char *const outcome_names[] = {
	[OI_CLAIM_CLAIMED] = "claimed",
	[OI_CLAIM_REPLAYED] = "replayed",
	[OI_CLAIM_IN_PROGRESS] = "in_progress",
	[OI_CLAIM_MISMATCH] = "mismatch",
	[OI_CLAIM_COMPLETED] = "completed",
	[OI_CLAIM_EXTENDED] = "extended",
	[OI_CLAIM_RELEASED] = "released",
	[OI_CLAIM_STALE] = "stale",
	[OI_CLAIM_UNKNOWN] = "unknown",
};

/* The word for an outcome. */
const char *
oi_claim_outcome_name(OiClaimOutcome outcome)
{
	return outcome_names[outcome];
}

/* The stored form of a request's fingerprint, NULL for none. */
static bytea *
request_hash(Jsonb *request)
{
	bytea	   *hash;

	if (request == NULL)
		return NULL;
	hash = palloc(VARHDRSZ + OI_FINGERPRINT_LENGTH);
	SET_VARSIZE(hash, VARHDRSZ + OI_FINGERPRINT_LENGTH);
	oi_fingerprint_request(request, (uint8 *) VARDATA(hash));
	return hash;
}

/* Is this certainly another request?  One that is not given is not compared. */
static bool
request_differs(const bytea *stored, const bytea *given)
{
	return stored != NULL && given != NULL &&
		(VARSIZE_ANY_EXHDR(stored) != VARSIZE_ANY_EXHDR(given) ||
		 memcmp(VARDATA_ANY(stored), VARDATA_ANY(given),
				VARSIZE_ANY_EXHDR(given)) != 0);
}

/* Fills the columns that a claim and a repeated claim both set. */
static void
fill_claim(TupleTableSlot *slot, const OiClaimCall *call,
		   const bytea *hash, const OiClaimAnswer *answer)
{
	bool		leased = answer->lease_until != 0;

	oi_claim_set_column(slot, OI_CLAIM_COL_CLAIMED_AT,
						TimestampTzGetDatum(answer->claimed_at), false);
	oi_claim_set_column(slot, OI_CLAIM_COL_LEASE_UNTIL,
						TimestampTzGetDatum(answer->lease_until), !leased);
	oi_claim_set_column(slot, OI_CLAIM_COL_COMPLETED_AT, (Datum) 0, true);
	oi_claim_set_column(slot, OI_CLAIM_COL_ATTEMPT, Int32GetDatum(answer->attempt), false);
	if (hash)
		oi_claim_set_column(slot, OI_CLAIM_COL_REQUEST_HASH, PointerGetDatum(hash), false);
	/* who finds a lease abandoned wants to know the key itself */
	oi_claim_set_column(slot, OI_CLAIM_COL_SCOPE, PointerGetDatum(call->scope), !leased);
	oi_claim_set_column(slot, OI_CLAIM_COL_KEY, PointerGetDatum(call->key), !leased);
	oi_claim_set_column(slot, OI_CLAIM_COL_RESPONSE, (Datum) 0, true);
}

/* The answer of a claim that begins now. */
static void
begin_claim(const OiClaimCall *call, int attempt, OiClaimAnswer *answer)
{
	answer->outcome = OI_CLAIM_CLAIMED;
	answer->response = NULL;
	answer->attempt = attempt;
	answer->claimed_at = GetCurrentTimestamp();
	answer->lease_until = call->lease ?
		oi_lease_end(call->lease, answer->claimed_at) : 0;
}

/* Inserts a claim into the current generation.  False: somebody was faster. */
static bool
insert_claim(OiClaimStore *store, const OiClaimCall *call,
			 const bytea *hash, OiClaimAnswer *answer)
{
	Datum		key_hash;
	OiTable    *table = oi_claim_store_current(store, &key_hash);
	TupleTableSlot *slot = oi_table_slot(table);

	begin_claim(call, 1, answer);
	memset(slot->tts_isnull, true, OI_CLAIM_COL_COUNT * sizeof(bool));
	oi_claim_set_column(slot, OI_CLAIM_COL_KEY_HASH, key_hash, false);
	fill_claim(slot, call, hash, answer);
	ExecStoreVirtualTuple(slot);
	if (!oi_insert(table, slot, true, NULL))
		return false;
	store->written = store->ntables - 1;
	return true;
}

/* What a repeated call is told of the claim that stands. */
static void
answer_from_row(const OiClaimRow *row, OiClaimOutcome outcome, OiClaimAnswer *answer)
{
	memset(answer, 0, sizeof(OiClaimAnswer));
	answer->outcome = outcome;
	if (outcome == OI_CLAIM_MISMATCH)
		return;
	answer->attempt = row->attempt;
	answer->claimed_at = row->claimed_at;
	if (outcome == OI_CLAIM_IN_PROGRESS)
		answer->lease_until = row->lease_until;
	else if (row->response)
		answer->response = DatumGetJsonbPCopy(row->response);
}

/*
 * Does the row found stand in the way of a new claim?  Returns false if its
 * lease is over, else the outcome.
 */
static bool
claim_stands(const OiClaimRow *row, const bytea *hash, OiClaimOutcome *outcome)
{
	if (request_differs(row->request_hash, hash))
		*outcome = OI_CLAIM_MISMATCH;
	else if (row->lease_until == 0 || row->completed_at != 0)
		*outcome = OI_CLAIM_REPLAYED;
	else if (row->lease_until > GetCurrentTimestamp())
		*outcome = OI_CLAIM_IN_PROGRESS;
	else
		return false;
	return true;
}

/*
 * Claims a key whose lease is over, or was when the row was seen.  False: look
 * again.
 */
static bool
claim_again(OiClaimStore *store, const OiClaimCall *call, const bytea *hash,
			OiWait *wait, OiClaimAnswer *answer)
{
	TupleTableSlot *slot;
	OiClaimOutcome outcome;
	OiClaimRow	row;

	switch (oi_lock(&store->tables[store->found], wait))
	{
		case OI_LOCK_GONE:
			return false;
		case OI_LOCK_TIMEOUT:
			oi_claim_row_read(store, &row);
			answer_from_row(&row, OI_CLAIM_IN_PROGRESS, answer);
			return true;
		case OI_LOCK_OK:
			store->written = store->found;
			break;
	}
	oi_claim_row_read(store, &row);
	if (claim_stands(&row, hash, &outcome))
	{
		answer_from_row(&row, outcome, answer);
		return true;
	}

	begin_claim(call, row.attempt + 1, answer);
	slot = oi_claim_row_copy(store);
	fill_claim(slot, call, hash, answer);
	oi_claim_row_replace(store, slot);
	return true;
}

/*
 * Deals with a key that is there already, and leaves the gate.  False: look
 * again.
 */
static bool
claim_found(OiClaimStore *store, const OiClaimCall *call, const bytea *hash,
			OiWait *wait, OiClaimAnswer *answer)
{
	OiClaimOutcome outcome;
	OiClaimRow	row;

	oi_claim_row_read(store, &row);
	if (claim_stands(&row, hash, &outcome))
	{
		oi_generation_ungate();
		answer_from_row(&row, outcome, answer);
		return true;
	}
	oi_claim_store_pin(store);
	oi_generation_ungate();
	return claim_again(store, call, hash, wait, answer);
}

/* One try at a claim.  False: look again. */
static bool
try_claim(const OiClaimCall *call, const OiKeyHash *key_hash,
		  const bytea *hash, OiWait *wait, OiClaimAnswer *answer)
{
	OiClaimStore store;
	OiBusy		busy;
	OiProbe		probe;
	bool		done = false;

	oi_generation_gate();
	oi_claim_store_open(&store, key_hash);
	probe = oi_claim_store_look(&store, OI_LOOKUP_MIND_UPDATERS, &busy);
	if (probe == OI_PROBE_PRESENT)
		done = claim_found(&store, call, hash, wait, answer);
	else
	{
		if (probe == OI_PROBE_ABSENT)
			done = insert_claim(&store, call, hash, answer);
		oi_generation_ungate();
	}
	oi_claim_store_close(&store);

	if (probe == OI_PROBE_BUSY && !oi_wait_for(wait, &busy))
	{
		memset(answer, 0, sizeof(OiClaimAnswer));
		answer->outcome = OI_CLAIM_IN_PROGRESS;
		return true;
	}
	return done;
}

/* Does the work of claim_key. */
void
oi_claim_key_work(const OiClaimCall *call, OiClaimAnswer *answer)
{
	OiKeyHash	key_hash;
	bytea	   *hash = request_hash(call->request);
	OiWait		wait = {0};

	if (call->lease)
		(void) oi_lease_end(call->lease, GetCurrentTimestamp());
	oi_fingerprint_key(call->scope, call->key, &key_hash);
	while (!try_claim(call, &key_hash, hash, &wait, answer))
		CHECK_FOR_INTERRUPTS();
}

/*
 * May the caller do this to the row found?  Returns false if not, with the
 * outcome.
 */
static bool
holder_may(const OiClaimCall *call, const OiClaimRow *row, OiClaimOutcome *outcome)
{
	bool		done = row->completed_at != 0 ||
	(row->lease_until == 0 && !row->own);

	if (row->lease_until != 0 && row->lease_until != DT_NOBEGIN &&
		call->attempt == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("attempt must not be null for a claim with a lease"),
				 errhint("Pass the attempt that claim_key returned: it fences off a holder whose lease is over.")));

	if (call->attempt != 0 && call->attempt != row->attempt)
		*outcome = OI_CLAIM_STALE;
	else if (row->lease_until == DT_NOBEGIN)
		*outcome = OI_CLAIM_UNKNOWN;	/* released: nobody's */
	else if (done)
		*outcome = call->action == OI_CLAIM_COMPLETE ?
			OI_CLAIM_REPLAYED : OI_CLAIM_STALE;
	else if (call->action == OI_CLAIM_EXTEND && row->lease_until == 0)
		*outcome = OI_CLAIM_STALE;
	else
		return true;
	return false;
}

/* Does to the row found, which is locked, what its holder wants. */
static OiClaimOutcome
settle_row(OiClaimStore *store, const OiClaimRow *row,
		   const OiClaimCall *call)
{
	TupleTableSlot *slot;
	TimestampTz now = GetCurrentTimestamp();

	if (call->action == OI_CLAIM_RELEASE && row->lease_until == 0 &&
		row->attempt == 1)
	{
		oi_delete(&store->tables[store->found]);
		return OI_CLAIM_RELEASED;
	}

	slot = oi_claim_row_copy(store);
	if (call->action == OI_CLAIM_RELEASE)
	{
		/* the attempt stays, so that it goes on to fence off the late */
		oi_claim_set_column(slot, OI_CLAIM_COL_LEASE_UNTIL,
							TimestampTzGetDatum(DT_NOBEGIN), false);
		oi_claim_set_column(slot, OI_CLAIM_COL_REQUEST_HASH, (Datum) 0, true);
		oi_claim_row_replace(store, slot);
		return OI_CLAIM_RELEASED;
	}
	if (call->action == OI_CLAIM_EXTEND)
		oi_claim_set_column(slot, OI_CLAIM_COL_LEASE_UNTIL,
							TimestampTzGetDatum(oi_lease_end(call->lease, now)), false);
	else
	{
		oi_claim_set_column(slot, OI_CLAIM_COL_COMPLETED_AT, TimestampTzGetDatum(now), false);
		oi_claim_set_column(slot, OI_CLAIM_COL_RESPONSE, PointerGetDatum(call->response),
							call->response == NULL);
	}
	oi_claim_row_replace(store, slot);
	return call->action == OI_CLAIM_EXTEND ?
		OI_CLAIM_EXTENDED : OI_CLAIM_COMPLETED;
}

/* Another transaction is at the claim, and did not end in time. */
static void
report_in_progress(const OiClaimCall *call)
{
	ereport(ERROR,
			(errcode(ERRCODE_OI_IN_PROGRESS),
			 errmsg("key \"%s\" is held by another transaction",
					text_to_cstring(call->key)),
			 errhint("Try again later, or raise order_idempotency.in_flight_wait.")));
}

/*
 * Deals with the row found, and leaves the gate.  False: look again.
 */
static bool
settle_found(OiClaimStore *store, const OiClaimCall *call, OiWait *wait,
			 OiClaimOutcome *outcome)
{
	OiClaimRow	row;
	bool		may;

	oi_claim_row_read(store, &row);
	may = holder_may(call, &row, outcome);
	if (may)
		oi_claim_store_pin(store);
	oi_generation_ungate();
	if (!may)
		return true;

	switch (oi_lock(&store->tables[store->found], wait))
	{
		case OI_LOCK_GONE:
			return false;
		case OI_LOCK_TIMEOUT:
			report_in_progress(call);
			break;
		case OI_LOCK_OK:
			store->written = store->found;
			break;
	}
	oi_claim_row_read(store, &row);
	if (holder_may(call, &row, outcome))
		*outcome = settle_row(store, &row, call);
	return true;
}

/* One try at completing, extending or releasing.  False: look again. */
static bool
try_settle(const OiClaimCall *call, const OiKeyHash *key_hash, OiWait *wait,
		   OiClaimOutcome *outcome)
{
	OiClaimStore store;
	OiBusy		busy;
	OiProbe		probe;
	bool		done = true;

	oi_generation_gate();
	oi_claim_store_open(&store, key_hash);
	probe = oi_claim_store_look(&store,
								OI_LOOKUP_MIND_UPDATERS | OI_LOOKUP_CONFIRM,
								&busy);
	if (probe == OI_PROBE_PRESENT)
		done = settle_found(&store, call, wait, outcome);
	else
	{
		oi_generation_ungate();
		*outcome = OI_CLAIM_UNKNOWN;
	}
	oi_claim_store_close(&store);

	if (probe == OI_PROBE_BUSY)
	{
		if (!oi_wait_for(wait, &busy))
			report_in_progress(call);
		return false;
	}
	return done;
}

/* Does the work of complete_key, extend_key and release_key. */
OiClaimOutcome
oi_claim_settle(const OiClaimCall *call)
{
	OiKeyHash	key_hash;
	OiWait		wait = {0};
	OiClaimOutcome outcome = OI_CLAIM_UNKNOWN;

	if (call->lease)
		(void) oi_lease_end(call->lease, GetCurrentTimestamp());
	oi_fingerprint_key(call->scope, call->key, &key_hash);
	while (!try_settle(call, &key_hash, &wait, &outcome))
		CHECK_FOR_INTERRUPTS();
	return outcome;
}
