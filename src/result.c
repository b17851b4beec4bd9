/*-------------------------------------------------------------------------
 *
 * result.c
 *		Rows that SQL functions return.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/memutils.h"

#include "result.h"

/*
 * The row type that a function in FROM is expected to return, NULL if it is
 * called elsewhere.
 */
static TupleDesc
expected_type(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		rsinfo->expectedDesc == NULL ||
		rsinfo->expectedDesc->tdtypeid == RECORDOID)
		return NULL;
	return rsinfo->expectedDesc;
}

/*
 * A row of the function's result type.  What that is the executor has looked
 * up for a call in FROM; elsewhere it is at a call site's first call.
 */
Datum
oi_result_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	TupleDesc	desc = expected_type(fcinfo);

	if (desc == NULL)
		desc = fcinfo->flinfo->fn_extra;
	if (desc == NULL)
	{
		MemoryContext old;

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
		desc = BlessTupleDesc(CreateTupleDescCopy(desc));
		MemoryContextSwitchTo(old);
		fcinfo->flinfo->fn_extra = desc;
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}
