/*-------------------------------------------------------------------------
 *
 * create.c
 *		New rows of table orders.
 *
 * An order is known by the key it was created under: its row is the claim of
 * that key, for as long as it exists.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "create.h"
#include "guc.h"
#include "lookup.h"
#include "outbox.h"
#include "rules.h"
#include "xact.h"

/* Sets a column of a row to be stored; 0 is null. */
static void
set_column(TupleTableSlot *slot, int column, Datum value)
{
	slot->tts_values[column] = value;
	slot->tts_isnull[column] = value == (Datum) 0;
}

/* What the beginning of an order is known by. */
static void
begin_order(const OiOrderCall *call, text *state, OiOrder *order, OiStep *step)
{
	memset(order, 0, sizeof(OiOrder));
	order->key = call->key;
	order->state = state;
	order->version = 1;
	order->amount = call->amount;
	order->created_at = order->changed_at = GetCurrentTimestamp();
	order->currency = call->currency;
	order->account = call->account;
	order->payload = PointerGetDatum(call->payload);

	memset(step, 0, sizeof(OiStep));
	step->version = 1;
	step->state = state;
	step->at = order->created_at;
	step->request_key = call->request_key;
	step->reason = call->reason;
}

/*
 * Did the row go in as it was meant?  A user's BEFORE trigger may look at it,
 * but what the caller is told has to be what is stored.
 */
static void
check_unchanged(OiTable *table, TupleTableSlot *slot, const Datum *values,
				const bool *nulls)
{
	TriggerDesc *triggers = table->rel->trigdesc;

	if (triggers == NULL || !triggers->trig_insert_before_row)
		return;
	slot_getallattrs(slot);
	for (int i = 0; i < OI_ORDER_COUNT; i++)
	{
		Form_pg_attribute att = TupleDescAttr(slot->tts_tupleDescriptor, i);

		if (slot->tts_isnull[i] == nulls[i] &&
			(nulls[i] || datum_image_eq(slot->tts_values[i], values[i],
										att->attbyval, att->attlen)))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("a trigger on table \"%s\" changed column \"%s\" of a new order",
						RelationGetRelationName(table->rel),
						NameStr(att->attname))));
	}
}

/* Inserts the row.  False: somebody was faster. */
static bool
insert_row(OiTable *table, const OiOrder *order, const OiStep *step,
		   const OiThen *then)
{
	TupleTableSlot *slot = oi_table_new_row(table);
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum		values[OI_ORDER_COUNT];
	bool		nulls[OI_ORDER_COUNT];

	memset(slot->tts_isnull, 0, OI_ORDER_COUNT * sizeof(bool));
	slot->tts_values[OI_ORDER_KEY] = PointerGetDatum(order->key);
	slot->tts_values[OI_ORDER_STATE] = PointerGetDatum(order->state);
	slot->tts_values[OI_ORDER_VERSION] = Int32GetDatum(order->version);
	slot->tts_values[OI_ORDER_AMOUNT] = Int64GetDatum(order->amount);
	slot->tts_isnull[OI_ORDER_AMOUNT] = order->tombstone;
	slot->tts_values[OI_ORDER_CREATED_AT] = TimestampTzGetDatum(order->created_at);
	slot->tts_values[OI_ORDER_CHANGED_AT] = TimestampTzGetDatum(order->changed_at);
	slot->tts_values[OI_ORDER_TOMBSTONE] = BoolGetDatum(order->tombstone);
	set_column(slot, OI_ORDER_CURRENCY, PointerGetDatum(order->currency));
	set_column(slot, OI_ORDER_ACCOUNT, PointerGetDatum(order->account));
	set_column(slot, OI_ORDER_MONEY_STATUS,
			   CStringGetTextDatum(oi_money_name(order->money)));
	set_column(slot, OI_ORDER_PAYLOAD, order->payload);
	slot->tts_values[OI_ORDER_HISTORY] =
		PointerGetDatum(oi_history_append(NULL, oi_order_step_type(desc), step));
	memcpy(values, slot->tts_values, sizeof(values));
	memcpy(nulls, slot->tts_isnull, sizeof(nulls));
	ExecStoreVirtualTuple(slot);
	if (!oi_insert(table, slot, true, then))
		return false;
	check_unchanged(table, slot, values, nulls);
	return true;
}

/* Notes until when the order has to have left its initial state. */
static void
insert_deadline(const OiOrderCall *call, const OiOrder *order)
{
	TimestampTz due;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (call->pay_within)
		due = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													  TimestampTzGetDatum(order->created_at),
													  PointerGetDatum(call->pay_within)));
	else
		due = order->created_at + oi_pay_within * USECS_PER_SEC;
	if (due < order->created_at)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("pay_within must not be negative")));
	if (due == order->created_at)
		return;
	values[0] = PointerGetDatum(order->key);
	values[1] = TimestampTzGetDatum(due);
	oi_insert_values(OI_REL_PAYMENT_DEADLINES, values, nulls);
	oi_xact_note_deadline(due);
}

/* what the creation of an order needs to have its effects */
typedef struct Creation
{
	OiOrder		order;
	OiStep		step;
	OiTransition initial;		/* of the lifecycle that the row was made by */
	const OiOrderCall *call;
} Creation;

/*
 * How an order begins, under the lifecycle in force.  A copy: while the row is
 * stored another lifecycle may come into force, and all of a creation has to
 * be of one.
 */
static OiTransition
initial_transition(void)
{
	OiTransition initial = *oi_lifecycle_find(oi_rules(), NULL, NULL);

	initial.to = pstrdup(initial.to);
	initial.event_type = pstrdup(initial.event_type);
	return initial;
}

/*
 * The effects of a creation.  Called before AFTER triggers fire: one of a
 * user's may go on with the order, and its event must not be the first.  So
 * may one on payment_deadlines, which is written last for this.
 */
static void
creation_effects(void *arg)
{
	Creation   *creation = arg;
	OiChange	change = {
		.call = creation->call,
		.transition = &creation->initial,
		.step = &creation->step
	};

	oi_effects(&creation->order, &change);
	insert_deadline(creation->call, &creation->order);
}

/* Creates the order.  False: somebody was faster. */
static bool
create_order(OiTable *table, const OiOrderCall *call, OiOrderAnswer *answer)
{
	Creation	creation = {.initial = initial_transition(),.call = call};
	OiOrder    *order = &creation.order;
	OiStep	   *step = &creation.step;
	OiThen		then = {.call = creation_effects,.arg = &creation};

	begin_order(call, cstring_to_text(creation.initial.to), order, step);
	order->money = oi_money_after(OI_MONEY_NONE, creation.initial.effect);
	oi_event_id_generate(&step->event_id, step->at);
	step->has_event = true;

	if (!insert_row(table, order, step, &then))
		return false;
	oi_answer_replayed(order, step, answer);
	answer->outcome = OI_CREATED;
	return true;
}

/*
 * Leaves a tombstone, which says that the order was cancelled before it came.
 * No event, no money: for everybody else there never was such an order.
 * False: somebody was faster.
 */
bool
oi_create_tombstone(OiTable *table, const OiOrderCall *call,
					OiOrderAnswer *answer)
{
	OiOrder		order;
	OiStep		step;

	begin_order(call, call->to_state, &order, &step);
	order.tombstone = true;
	order.money = OI_MONEY_NONE;
	if (!insert_row(table, &order, &step, NULL))
		return false;
	oi_answer_from_order(&order, OI_TOMBSTONED, answer);
	return true;
}

/* Are two values that may be null (0) different? */
static bool
texts_differ(const text *a, const text *b)
{
	if (a == NULL || b == NULL)
		return a != b;
	return !oi_text_equal(a, b);
}

/*
 * Are two payloads different, as jsonb compares?  A repeat most often has the
 * same bytes, and is then the same value.
 */
static bool
payloads_differ(Datum stored, Jsonb *given)
{
	Jsonb	   *kept;

	if (stored == 0 || given == NULL)
		return (stored == 0) != (given == NULL);
	kept = DatumGetJsonbP(stored);
	if (VARSIZE(kept) == VARSIZE(given) &&
		memcmp(&kept->root, &given->root, VARSIZE(kept) - VARHDRSZ) == 0)
		return false;
	return compareJsonbContainers(&kept->root, &given->root) != 0;
}

/* The fields in which a repeated call differs, in words, or NULL. */
static char *
differing_fields(const OiOrder *order, const OiOrderCall *call)
{
	const struct
	{
		const char *name;
		bool		differs;
	}			fields[] = {
		{"amount", order->amount != call->amount},
		{"currency", texts_differ(order->currency, call->currency)},
		{"account", texts_differ(order->account, call->account)},
		{"payload", payloads_differ(order->payload, call->payload)},
	};
	StringInfoData words;

	initStringInfo(&words);
	for (int i = 0; i < (int) lengthof(fields); i++)
		if (fields[i].differs)
			appendStringInfo(&words, "%s%s", words.len > 0 ? ", " : "",
							 fields[i].name);
	return words.len > 0 ?
		psprintf("The request differs from the first one in: %s.", words.data) :
		NULL;
}

/* Answers for an order that is there already. */
static void
answer_existing(OiTable *table, const OiOrderCall *call,
				OiOrderAnswer *answer)
{
	OiOrder		order;
	OiStep	   *steps;
	int			n;
	char	   *differing;

	oi_order_read_slot(table->row, &order);
	if (order.tombstone)
	{
		oi_answer_from_order(&order, OI_REFUSED, answer);
		answer->detail = "A tombstone stands under this key.";
		return;
	}
	differing = differing_fields(&order, call);
	if (differing)
	{
		oi_answer_from_order(&order, OI_MISMATCH, answer);
		answer->detail = differing;
		return;
	}
	n = oi_history_read(DatumGetArrayTypeP(order.history), &steps);
	oi_answer_replayed(&order, n > 0 && steps[0].version == 1 ?
					   &steps[0] : NULL, answer);
}

/* One try at creating an order.  False: look again. */
bool
oi_create_try(const OiOrderCall *call, OiWait *wait, OiOrderAnswer *answer)
{
	OiTable		table;
	OiBusy		busy;
	Datum		key = PointerGetDatum(call->key);
	int			which;
	bool		done = true;

	memset(answer, 0, sizeof(OiOrderAnswer));
	oi_table_open(&table, OI_REL_ORDERS, RowExclusiveLock);
	switch (oi_lookup(&table, &key, 1, 0, &which, &busy))
	{
		case OI_PROBE_ABSENT:
			done = create_order(&table, call, answer);
			break;
		case OI_PROBE_PRESENT:
			answer_existing(&table, call, answer);
			break;
		case OI_PROBE_BUSY:
			done = !oi_wait_for(wait, &busy);
			answer->outcome = OI_IN_PROGRESS;
			break;
	}
	oi_table_close(&table);
	return done;
}
