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

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "claim.h"
#include "errors.h"
#include "fingerprint.h"
#include "generation.h"
#include "guc.h"
#include "lookup.h"

/* the columns of the claims tables */
enum
{
	COL_KEY_HASH,
	COL_CLAIMED_AT,
	COL_LEASE_UNTIL,
	COL_COMPLETED_AT,
	COL_ATTEMPT,
	COL_REQUEST_HASH,
	COL_SCOPE,
	COL_KEY,
	COL_RESPONSE,
	COL_COUNT
};

StaticAssertDecl(OI_REL_CLAIMS_0 + OI_SLOTS - 1 == OI_REL_CLAIMS_3,
				 "claims relations are consecutive");

/* the generations, opened for one try */
typedef struct Store
{
	int			ntables;
	OiTable		tables[OI_SLOTS];
	int			slots[OI_SLOTS];	/* which of the store's slots each is */
	int			current;		/* index of the current one */
	int			found;			/* index of the one that has the row */
} Store;

/* a stored claim */
typedef struct Row
{
	TimestampTz claimed_at;
	TimestampTz lease_until;	/* 0: none */
	TimestampTz completed_at;	/* 0: not by complete_key */
	int			attempt;
	bytea	   *request_hash;	/* or NULL */
	Datum		response;		/* 0: null */
	bool		own;			/* written by the current transaction */
} Row;

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

/*
 * Opens the generations that hold claims, oldest first.  SERIALIZABLE opens
 * all: a generation that begins later must find our predicate locks.
 */
static void
open_store(Store *store)
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

/* Closes what open_store opened. */
static void
close_store(Store *store)
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
static void
read_row(const Store *store, Row *row)
{
	TupleTableSlot *slot = store->tables[store->found].row;
	bool		isnull;
	Datum		hash = column(slot, COL_REQUEST_HASH);
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber,
									   &isnull);

	row->claimed_at = DatumGetTimestampTz(column(slot, COL_CLAIMED_AT));
	row->lease_until = DatumGetTimestampTz(column(slot, COL_LEASE_UNTIL));
	row->completed_at = DatumGetTimestampTz(column(slot, COL_COMPLETED_AT));
	row->attempt = DatumGetInt32(column(slot, COL_ATTEMPT));
	row->request_hash = hash ? DatumGetByteaPP(hash) : NULL;
	row->response = column(slot, COL_RESPONSE);
	row->own = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
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

/*
 * When a lease that begins now is over.  Refuses one that is not positive, or
 * that key_retention would not outlast.
 */
static TimestampTz
lease_end(const Interval *lease, TimestampTz now)
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
	return until;
}

/* Sets a column of a row to be stored. */
static void
set_column(TupleTableSlot *slot, int col, Datum value, bool isnull)
{
	slot->tts_values[col] = value;
	slot->tts_isnull[col] = isnull;
}

/* Fills the columns that a claim and a repeated claim both set. */
static void
fill_claim(TupleTableSlot *slot, const OiClaimCall *call,
		   const bytea *hash, const OiClaimAnswer *answer)
{
	bool		leased = answer->lease_until != 0;

	set_column(slot, COL_CLAIMED_AT,
			   TimestampTzGetDatum(answer->claimed_at), false);
	set_column(slot, COL_LEASE_UNTIL,
			   TimestampTzGetDatum(answer->lease_until), !leased);
	set_column(slot, COL_COMPLETED_AT, (Datum) 0, true);
	set_column(slot, COL_ATTEMPT, Int32GetDatum(answer->attempt), false);
	if (hash)
		set_column(slot, COL_REQUEST_HASH, PointerGetDatum(hash), false);
	/* who finds a lease abandoned wants to know the key itself */
	set_column(slot, COL_SCOPE, PointerGetDatum(call->scope), !leased);
	set_column(slot, COL_KEY, PointerGetDatum(call->key), !leased);
	set_column(slot, COL_RESPONSE, (Datum) 0, true);
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
		lease_end(call->lease, answer->claimed_at) : 0;
}

/* Inserts a claim into the current generation.  False: somebody was faster. */
static bool
insert_claim(Store *store, const OiClaimCall *call, Datum key_hash,
			 const bytea *hash, OiClaimAnswer *answer)
{
	OiTable    *table = &store->tables[store->current];
	TupleTableSlot *slot = oi_table_slot(table);

	begin_claim(call, 1, answer);
	memset(slot->tts_isnull, true, COL_COUNT * sizeof(bool));
	set_column(slot, COL_KEY_HASH, key_hash, false);
	fill_claim(slot, call, hash, answer);
	ExecStoreVirtualTuple(slot);
	return oi_insert(table, slot, true);
}

/* A copy of the row found, to be changed and given to store_changed. */
static TupleTableSlot *
copy_row(Store *store)
{
	OiTable    *table = &store->tables[store->found];
	TupleTableSlot *slot = oi_table_slot(table);

	slot_getallattrs(table->row);
	memcpy(slot->tts_values, table->row->tts_values,
		   COL_COUNT * sizeof(Datum));
	memcpy(slot->tts_isnull, table->row->tts_isnull, COL_COUNT * sizeof(bool));
	return slot;
}

/*
 * Stores the changed form of the row found, which is locked: in its place, or
 * from an older generation in the current one.
 */
static void
store_changed(Store *store, TupleTableSlot *slot)
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

/* What a repeated call is told of the claim that stands. */
static void
answer_from_row(const Row *row, OiClaimOutcome outcome, OiClaimAnswer *answer)
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
 * Answers from the row found, if it stands in the way of a new claim.  False:
 * its lease is over.
 */
static bool
claim_stands(const Row *row, const bytea *hash, OiClaimAnswer *answer)
{
	OiClaimOutcome outcome;

	if (request_differs(row->request_hash, hash))
		outcome = OI_CLAIM_MISMATCH;
	else if (row->lease_until == 0 || row->completed_at != 0)
		outcome = OI_CLAIM_REPLAYED;
	else if (row->lease_until > GetCurrentTimestamp())
		outcome = OI_CLAIM_IN_PROGRESS;
	else
		return false;
	answer_from_row(row, outcome, answer);
	return true;
}

/* Deals with a key that is there already.  False: look again. */
static bool
claim_found(Store *store, const OiClaimCall *call, const bytea *hash,
			OiWait *wait, OiClaimAnswer *answer)
{
	TupleTableSlot *slot;
	Row			row;

	read_row(store, &row);
	if (claim_stands(&row, hash, answer))
		return true;

	switch (oi_lock(&store->tables[store->found], wait))
	{
		case OI_LOCK_GONE:
			return false;
		case OI_LOCK_TIMEOUT:
			answer_from_row(&row, OI_CLAIM_IN_PROGRESS, answer);
			return true;
		case OI_LOCK_OK:
			break;
	}
	read_row(store, &row);
	if (claim_stands(&row, hash, answer))
		return true;

	begin_claim(call, row.attempt + 1, answer);
	slot = copy_row(store);
	fill_claim(slot, call, hash, answer);
	store_changed(store, slot);
	return true;
}

/* One try at a claim.  False: look again. */
static bool
try_claim(const OiClaimCall *call, Datum key_hash, const bytea *hash,
		  OiWait *wait, OiClaimAnswer *answer)
{
	Store		store;
	OiBusy		busy;
	bool		done;

	oi_generation_gate();
	open_store(&store);
	switch (oi_lookup(store.tables, store.ntables, key_hash,
					  OI_LOOKUP_MIND_UPDATERS, &store.found, &busy))
	{
		case OI_PROBE_ABSENT:
			done = insert_claim(&store, call, key_hash, hash, answer);
			oi_generation_ungate();
			break;
		case OI_PROBE_PRESENT:
			oi_generation_ungate();
			done = claim_found(&store, call, hash, wait, answer);
			break;
		default:
			oi_generation_ungate();
			done = !oi_wait_for(wait, &busy);
			if (done)
			{
				memset(answer, 0, sizeof(OiClaimAnswer));
				answer->outcome = OI_CLAIM_IN_PROGRESS;
			}
	}
	close_store(&store);
	return done;
}

/* Does the work of claim_key. */
void
oi_claim_key_work(const OiClaimCall *call, OiClaimAnswer *answer)
{
	pg_uuid_t	key_hash;
	bytea	   *hash = request_hash(call->request);
	OiWait		wait = {0};

	if (call->lease)
		(void) lease_end(call->lease, GetCurrentTimestamp());
	oi_fingerprint_key(call->scope, call->key, &key_hash);
	while (!try_claim(call, UUIDPGetDatum(&key_hash), hash, &wait, answer))
		CHECK_FOR_INTERRUPTS();
}

/*
 * May the caller do this to the row found?  Returns false if not, with the
 * outcome.
 */
static bool
holder_may(const OiClaimCall *call, const Row *row, OiClaimOutcome *outcome)
{
	bool		done = row->completed_at != 0 ||
		(row->lease_until == 0 && !row->own);

	if (row->lease_until != 0 && call->attempt == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("attempt must not be null for a claim with a lease"),
				 errhint("Pass the attempt that claim_key returned: it fences off a holder whose lease is over.")));

	if (call->attempt != 0 && call->attempt != row->attempt)
		*outcome = OI_CLAIM_STALE;
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
settle_row(Store *store, const OiClaimCall *call)
{
	TupleTableSlot *slot;
	TimestampTz now = GetCurrentTimestamp();

	if (call->action == OI_CLAIM_RELEASE)
	{
		oi_delete(&store->tables[store->found]);
		return OI_CLAIM_RELEASED;
	}

	slot = copy_row(store);
	if (call->action == OI_CLAIM_EXTEND)
		set_column(slot, COL_LEASE_UNTIL,
				   TimestampTzGetDatum(lease_end(call->lease, now)), false);
	else
	{
		set_column(slot, COL_COMPLETED_AT, TimestampTzGetDatum(now), false);
		set_column(slot, COL_RESPONSE, PointerGetDatum(call->response),
				   call->response == NULL);
	}
	store_changed(store, slot);
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

/* Deals with the row found.  False: look again. */
static bool
settle_found(Store *store, const OiClaimCall *call, OiWait *wait,
			 OiClaimOutcome *outcome)
{
	Row			row;

	read_row(store, &row);
	if (!holder_may(call, &row, outcome))
		return true;
	switch (oi_lock(&store->tables[store->found], wait))
	{
		case OI_LOCK_GONE:
			return false;
		case OI_LOCK_TIMEOUT:
			report_in_progress(call);
			break;
		case OI_LOCK_OK:
			break;
	}
	read_row(store, &row);
	if (holder_may(call, &row, outcome))
		*outcome = settle_row(store, call);
	return true;
}

/* One try at completing, extending or releasing.  False: look again. */
static bool
try_settle(const OiClaimCall *call, Datum key_hash, OiWait *wait,
		   OiClaimOutcome *outcome)
{
	Store		store;
	OiBusy		busy;
	OiProbe		probe;
	bool		done = true;

	oi_generation_gate();
	open_store(&store);
	probe = oi_lookup(store.tables, store.ntables, key_hash,
					  OI_LOOKUP_MIND_UPDATERS | OI_LOOKUP_CONFIRM,
					  &store.found, &busy);
	oi_generation_ungate();
	if (probe == OI_PROBE_ABSENT)
		*outcome = OI_CLAIM_UNKNOWN;
	else if (probe == OI_PROBE_PRESENT)
		done = settle_found(&store, call, wait, outcome);
	else
	{
		if (!oi_wait_for(wait, &busy))
			report_in_progress(call);
		done = false;
	}
	close_store(&store);
	return done;
}

/* Does the work of complete_key, extend_key and release_key. */
OiClaimOutcome
oi_claim_settle(const OiClaimCall *call)
{
	pg_uuid_t	key_hash;
	OiWait		wait = {0};
	OiClaimOutcome outcome = OI_CLAIM_UNKNOWN;

	if (call->lease)
		(void) lease_end(call->lease, GetCurrentTimestamp());
	oi_fingerprint_key(call->scope, call->key, &key_hash);
	while (!try_settle(call, UUIDPGetDatum(&key_hash), &wait, &outcome))
		CHECK_FOR_INTERRUPTS();
	return outcome;
}
