/*-------------------------------------------------------------------------
 *
 * order_row.c
 *		Reading a row of table orders.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "order.h"
#include "rules.h"

/* Are two texts the same bytes? */
bool
oi_text_equal(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* A column's text, NULL for null. */
static text *
text_or_null(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? NULL : DatumGetTextPP(values[column]);
}

/* Reads a row that was taken apart. */
void
oi_order_read(const Datum *values, const bool *nulls, OiOrder *order)
{
	memset(order, 0, sizeof(OiOrder));
	order->key = DatumGetTextPP(values[OI_ORDER_KEY]);
	order->state = DatumGetTextPP(values[OI_ORDER_STATE]);
	order->version = DatumGetInt32(values[OI_ORDER_VERSION]);
	if (!nulls[OI_ORDER_AMOUNT])
		order->amount = DatumGetInt64(values[OI_ORDER_AMOUNT]);
	order->created_at = DatumGetTimestampTz(values[OI_ORDER_CREATED_AT]);
	order->changed_at = DatumGetTimestampTz(values[OI_ORDER_CHANGED_AT]);
	order->tombstone = DatumGetBool(values[OI_ORDER_TOMBSTONE]);
	order->currency = text_or_null(values, nulls, OI_ORDER_CURRENCY);
	order->account = text_or_null(values, nulls, OI_ORDER_ACCOUNT);
	order->money = nulls[OI_ORDER_MONEY_STATUS] ? OI_MONEY_UNKNOWN :
		oi_money_parse(TextDatumGetCString(values[OI_ORDER_MONEY_STATUS]));
	order->payload = nulls[OI_ORDER_PAYLOAD] ? 0 : values[OI_ORDER_PAYLOAD];
	order->history = values[OI_ORDER_HISTORY];
}

/* Reads the row in a slot. */
void
oi_order_read_slot(TupleTableSlot *slot, OiOrder *order)
{
	slot_getallattrs(slot);
	oi_order_read(slot->tts_values, slot->tts_isnull, order);
}

/*
 * Where the order's money is.  What the row says counts, so that no change of
 * the lifecycle can make an order pay twice; an imported row that says nothing
 * is taken to be where the lifecycle has it in that state.
 */
OiMoney
oi_order_money(const OiOrder *order)
{
	if (order->money != OI_MONEY_UNKNOWN)
		return order->money;
	return oi_lifecycle_money(oi_rules(), text_to_cstring(order->state));
}

/* The states that the order may go to now: a list of palloc'd strings. */
List *
oi_order_targets(const OiOrder *order)
{
	const OiLifecycle *rules = oi_rules();
	char	   *state = text_to_cstring(order->state);
	OiMoney		money = oi_order_money(order);
	List	   *targets = NIL;

	if (order->tombstone)
		return NIL;
	for (int i = 0; i < rules->ntransitions; i++)
	{
		const OiTransition *t = &rules->transitions[i];

		if (t->from != NULL && strcmp(t->from, state) == 0 &&
			oi_money_after(money, t->effect) != OI_MONEY_UNKNOWN)
			targets = lappend(targets, pstrdup(t->to));
	}
	return targets;
}

/* The same in words, NULL where there is none. */
char *
oi_order_allowed(const OiOrder *order)
{
	List	   *targets = oi_order_targets(order);
	StringInfoData words;
	ListCell   *lc;

	if (targets == NIL)
		return NULL;
	initStringInfo(&words);
	foreach(lc, targets)
		appendStringInfo(&words, "%s\"%s\"",
						 foreach_current_index(lc) > 0 ? ", " : "",
						 (char *) lfirst(lc));
	return words.data;
}

/* The type of a history's steps. */
Oid
oi_order_step_type(TupleDesc desc)
{
	return get_element_type(TupleDescAttr(desc, OI_ORDER_HISTORY)->atttypid);
}
