/*-------------------------------------------------------------------------
 *
 * subscriber.c
 *		A subscription as its worker knows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "batch.h"
#include "catalog/pg_type.h"
#include "relation.h"
#include "subscription.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

/*
 * A text column of the first row found, or NULL.
 */
static char *
text_column(int number)
{
	bool		isnull;
	Datum		value = oi_drain_column(number, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * Take over the event types that a subscription wants.
 */
static void
fill_types(OiSubscription *sub, Datum value, bool isnull)
{
	Datum	   *elems;

	sub->ntypes = -1;
	if (isnull)
		return;

	sub->type_array = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	deconstruct_array(DatumGetArrayTypeP(sub->type_array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elems, NULL, &sub->ntypes);
	sub->types = palloc(sizeof(text *) * (sub->ntypes + 1));
	for (int i = 0; i < sub->ntypes; i++)
		sub->types[i] = DatumGetTextPP(elems[i]);
}

/*
 * Take over its options.  The SQL objects of 1.0 have no table for events that
 * failed: there is no room for any.
 */
static void
fill_options(OiSubscription *sub, Jsonb *options)
{
	sub->parks = OidIsValid(oi_relation_oid_if_any(OI_REL_FAILED_EVENTS));
	sub->hold_dead = !oi_option_skips_dead(options);
	sub->batch_size = oi_option_int(options, OI_OPTION_BATCH_SIZE);
	sub->max_attempts = oi_option_int(options, OI_OPTION_MAX_ATTEMPTS);
	sub->max_parked_keys = sub->parks ? oi_option_int(options, OI_OPTION_MAX_PARKED_KEYS) : 0;
	sub->backoff_max = oi_option_int(options, OI_OPTION_BACKOFF_MAX);
	sub->backoff_min = Min(oi_option_int(options, OI_OPTION_BACKOFF_MIN), sub->backoff_max);
}

/*
 * The subscription in the first row found, in the current context.
 */
static OiSubscription *
from_row(int32 id)
{
	OiSubscription *sub = palloc0(sizeof(OiSubscription));
	bool		isnull;
	Datum		value;

	sub->id = id;
	sub->relid = oi_relation_oid(OI_REL_SUBSCRIPTIONS);
	sub->name = text_column(1);
	sub->server = text_column(2);
	sub->topic = text_column(3);
	value = oi_drain_column(4, &isnull);
	fill_types(sub, value, isnull);
	value = oi_drain_column(5, &isnull);
	fill_options(sub, isnull ? NULL : DatumGetJsonbP(value));
	sub->installation = text_column(6);
	if (sub->installation == NULL)
		sub->installation = psprintf(UINT64_FORMAT, GetSystemIdentifier());

	return sub;
}

/*
 * The subscription of an id, or NULL where there is none, or no extension.
 */
OiSubscription *
oi_drain_subscription(int32 id)
{
	static SPIPlanPtr plan = NULL;
	OiSubscription *sub = NULL;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(id)};
	OiIdentity	was;

	if (!oi_drain_begin(InvalidOid, &was))
	{
		MemoryContextSwitchTo(context);
		return NULL;
	}
	oi_drain_execute(oi_drain_plan(&plan,
								   "SELECT s.name, s.server, s.topic, s.event_types, s.options,"
								   " pg_catalog.to_jsonb(s) OPERATOR(pg_catalog.->>) 'armed_for'"
								   " FROM order_idempotency.subscriptions s"
								   " WHERE s.id OPERATOR(pg_catalog.=) $1", 1, types),
					 values, NULL, true);
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		sub = from_row(id);
		MemoryContextSwitchTo(old);
	}
	oi_owner_end(&was, context);

	return sub;
}

/*
 * Is a subscription there, and may it publish from here?
 */
bool
oi_drain_armed(const OiSubscription *sub)
{
	MemoryContext context = CurrentMemoryContext;
	OiIdentity	was;
	bool		armed = false;

	if (oi_drain_begin(sub->relid, &was))
	{
		int			n;
		OiFound    *found = oi_subscriptions_found(&n);

		for (int i = 0; i < n; i++)
			armed |= found[i].subscription == sub->id;
		oi_owner_end(&was, context);
	}
	MemoryContextSwitchTo(context);

	return armed;
}
