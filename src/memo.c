/*-------------------------------------------------------------------------
 *
 * memo.c
 *		One statement, one answer.
 *
 * The parser turns SELECT (f(...)).* into one call of f for each column.  Only
 * the first of them would find the key unclaimed.  So an answer is kept while
 * its statement runs, and given to every other place of the statement that
 * makes the same call.  A place that makes it again has come to another row:
 * that is a call of its own, and says "replayed".
 *
 * A statement is known by its transaction, its subtransaction, and the command
 * counter of its snapshot, which keeping an answer moves on for the next one.
 * A call in FROM is evaluated once, and is left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "compat.h"
#include "funcapi.h"
#include "nodes/execnodes.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "memo.h"

/* how many answers are kept, and for how many places each */
#define MAX_ANSWERS 16
#define MAX_PLACES 32

/* how a statement is known */
typedef struct Statement
{
	LocalTransactionId lxid;
	SubTransactionId subxid;
	CommandId	cid;
	MemoryContext context;		/* two cursors may share all of the above */
} Statement;

typedef struct Answer
{
	Statement	statement;
	uint64		hash;			/* over function and arguments */
	HeapTupleHeader row;		/* NULL: free */
	int			nplaces;
	FmgrInfo   *places[MAX_PLACES];
} Answer;

/* a ring: statements nest, so those of several may be here */
static MemoryContext memo_context = NULL;
static Answer answers[MAX_ANSWERS];
static uint32 next_answer = 0;

/* Is this a call that the statement may make in several places? */
bool
oi_memo_wanted(FunctionCallInfo fcinfo)
{
	return !(fcinfo->resultinfo && IsA(fcinfo->resultinfo, ReturnSetInfo)) &&
		ActiveSnapshotSet();
}

/*
 * A hash over the function and its arguments.  typlens has the length of each
 * argument's type, as in pg_type; those of eight bytes or less are by value.
 */
uint64
oi_memo_hash(FunctionCallInfo fcinfo, const int16 *typlens)
{
	uint64		hash = fcinfo->flinfo->fn_oid;

	for (int i = 0; i < fcinfo->nargs; i++)
	{
		Datum		value = fcinfo->args[i].value;
		uint64		h = 0x9e3779b97f4a7c15;

		if (fcinfo->args[i].isnull)
			h = 1;
		else if (typlens[i] == -1)
		{
			struct varlena *v = PG_DETOAST_DATUM_PACKED(value);

			h = hash_bytes_extended((unsigned char *) VARDATA_ANY(v),
									VARSIZE_ANY_EXHDR(v), h);
		}
		else if (typlens[i] > (int16) sizeof(Datum))
			h = hash_bytes_extended((unsigned char *) DatumGetPointer(value),
									typlens[i], h);
		else
			h = hash_bytes_extended((unsigned char *) &value, sizeof(Datum), h);
		hash = hash_combine64(hash, h);
	}
	return hash;
}

/* The answer to this call in this statement, or NULL. */
static Answer *
find_answer(FunctionCallInfo fcinfo, uint64 hash)
{
	CommandId	cid = GetActiveSnapshot()->curcid;
	SubTransactionId subxid = GetCurrentSubTransactionId();

	for (int i = 0; i < MAX_ANSWERS; i++)
	{
		Answer	   *a = &answers[i];

		if (a->row && a->hash == hash && a->statement.cid == cid &&
			a->statement.subxid == subxid &&
			a->statement.lxid == oi_compat_lxid() &&
			a->statement.context == fcinfo->flinfo->fn_mcxt)
			return a;
	}
	return NULL;
}

/*
 * Has another place of this statement had an answer to the same call, and
 * this place not yet?
 */
bool
oi_memo_find(FunctionCallInfo fcinfo, uint64 hash, Datum *answer)
{
	Answer	   *a = find_answer(fcinfo, hash);
	Size		size;
	HeapTupleHeader copy;

	if (a == NULL || a->nplaces == MAX_PLACES)
		return false;
	for (int i = 0; i < a->nplaces; i++)
		if (a->places[i] == fcinfo->flinfo)
			return false;

	a->places[a->nplaces++] = fcinfo->flinfo;
	size = HeapTupleHeaderGetDatumLength(a->row);
	copy = palloc(size);
	memcpy(copy, a->row, size);
	*answer = HeapTupleHeaderGetDatum(copy);
	return true;
}

/* Keeps an answer, in the place of an earlier one to the same call. */
void
oi_memo_keep(FunctionCallInfo fcinfo, uint64 hash, Datum answer)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(answer);
	Size		size = HeapTupleHeaderGetDatumLength(row);
	Answer	   *a = find_answer(fcinfo, hash);

	if (memo_context == NULL)
		memo_context = AllocSetContextCreate(TopMemoryContext,
											 "order_idempotency answers",
											 ALLOCSET_SMALL_SIZES);
	if (a == NULL)
		a = &answers[next_answer++ % MAX_ANSWERS];
	if (a->row)
	{
		pfree(a->row);
		a->row = NULL;
	}
	a->row = MemoryContextAlloc(memo_context, size);
	memcpy(a->row, row, size);
	a->statement.lxid = oi_compat_lxid();
	a->statement.subxid = GetCurrentSubTransactionId();
	a->statement.cid = GetActiveSnapshot()->curcid;
	a->statement.context = fcinfo->flinfo->fn_mcxt;
	a->hash = hash;
	a->nplaces = 1;
	a->places[0] = fcinfo->flinfo;

	/* even if nothing was written, the next statement gets a new number */
	(void) GetCurrentCommandId(true);
}
