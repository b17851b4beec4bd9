/*-------------------------------------------------------------------------
 *
 * history.c
 *		The history that an order's row carries.
 *
 * An array of type order_step, one element a version.  It is only ever
 * appended to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "history.h"

/* Reads one element. */
static void
read_step(Datum element, TupleDesc desc, OiStep *step)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(element);
	HeapTupleData tuple;
	Datum		values[OI_STEP_COUNT];
	bool		nulls[OI_STEP_COUNT];

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, nulls);

	memset(step, 0, sizeof(OiStep));
	if (!nulls[OI_STEP_VERSION])
		step->version = DatumGetInt32(values[OI_STEP_VERSION]);
	step->state = nulls[OI_STEP_STATE] ? cstring_to_text("") :
		DatumGetTextPP(values[OI_STEP_STATE]);
	if (!nulls[OI_STEP_AT])
		step->at = DatumGetTimestampTz(values[OI_STEP_AT]);
	step->has_event = !nulls[OI_STEP_EVENT_ID];
	if (step->has_event)
		step->event_id = *DatumGetUUIDP(values[OI_STEP_EVENT_ID]);
	if (!nulls[OI_STEP_REQUEST_KEY])
		step->request_key = DatumGetTextPP(values[OI_STEP_REQUEST_KEY]);
	if (!nulls[OI_STEP_REASON])
		step->reason = DatumGetTextPP(values[OI_STEP_REASON]);
}

/* Takes a history apart.  Returns how many steps it has. */
int
oi_history_read(ArrayType *history, OiStep **steps)
{
	TupleDesc	desc;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(history, ARR_ELEMTYPE(history), -1, false,
					  TYPALIGN_DOUBLE, &elements, &nulls, &n);
	*steps = palloc0(sizeof(OiStep) * Max(n, 1));
	desc = lookup_rowtype_tupdesc(ARR_ELEMTYPE(history), -1);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("history of an order has a null step")));
		read_step(elements[i], desc, &(*steps)[i]);
	}
	ReleaseTupleDesc(desc);
	return n;
}

/* The columns of a step. */
void
oi_step_values(const OiStep *step, Datum *values, bool *nulls)
{
	memset(nulls, 0, OI_STEP_COUNT * sizeof(bool));
	values[OI_STEP_VERSION] = Int32GetDatum(step->version);
	values[OI_STEP_STATE] = PointerGetDatum(step->state);
	values[OI_STEP_AT] = TimestampTzGetDatum(step->at);
	values[OI_STEP_EVENT_ID] = UUIDPGetDatum(&step->event_id);
	nulls[OI_STEP_EVENT_ID] = !step->has_event;
	values[OI_STEP_REQUEST_KEY] = PointerGetDatum(step->request_key);
	nulls[OI_STEP_REQUEST_KEY] = step->request_key == NULL;
	values[OI_STEP_REASON] = PointerGetDatum(step->reason);
	nulls[OI_STEP_REASON] = step->reason == NULL;
}

/* A history with one more step; history may be NULL for none so far. */
ArrayType *
oi_history_append(ArrayType *history, Oid step_type, const OiStep *step)
{
	Datum		values[OI_STEP_COUNT];
	bool		nulls[OI_STEP_COUNT];
	TupleDesc	desc;
	Datum		element;
	Datum	   *elements = NULL;
	int			n = 0;

	if (history)
		deconstruct_array(history, step_type, -1, false, TYPALIGN_DOUBLE,
						  &elements, NULL, &n);
	elements = elements ? repalloc(elements, sizeof(Datum) * (n + 1)) :
		palloc(sizeof(Datum));

	oi_step_values(step, values, nulls);
	desc = lookup_rowtype_tupdesc(step_type, -1);
	element = HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
	ReleaseTupleDesc(desc);

	elements[n] = element;
	return construct_array(elements, n + 1, step_type, -1, false,
						   TYPALIGN_DOUBLE);
}

/* Is the one history the other with one step more, and nothing else changed? */
bool
oi_history_continues(ArrayType *before, ArrayType *after)
{
	int			n = ArrayGetNItems(ARR_NDIM(before), ARR_DIMS(before));
	int			m = ArrayGetNItems(ARR_NDIM(after), ARR_DIMS(after));
	Size		length = ARR_SIZE(before) - ARR_DATA_OFFSET(before);

	if (m != n + 1 || ARR_HASNULL(after))
		return false;
	if (n == 0)
		return true;
	return ARR_SIZE(after) - ARR_DATA_OFFSET(after) > length &&
		memcmp(ARR_DATA_PTR(before), ARR_DATA_PTR(after), length) == 0;
}
