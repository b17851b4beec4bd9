/*-------------------------------------------------------------------------
 *
 * order.c
 *		Transitions and cancellations of orders.
 *
 * What was done before is answered from the order's history without a lock:
 * a history is only appended to, so any committed version of it is proof
 * enough.  Whatever else depends on the state is decided under the row's lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "create.h"
#include "errors.h"
#include "lookup.h"
#include "order.h"
#include "rules.h"

static const char *const outcome_names[] = {
	[OI_CREATED] = "created",
	[OI_APPLIED] = "applied",
	[OI_CANCELLED] = "cancelled",
	[OI_TOMBSTONED] = "tombstoned",
	[OI_REPLAYED] = "replayed",
	[OI_IGNORED] = "ignored",
	[OI_MISMATCH] = "mismatch",
	[OI_IN_PROGRESS] = "in_progress",
	[OI_ILLEGAL] = "illegal",
	[OI_MISSING] = "missing",
	[OI_REFUSED] = "refused",
};

/* The word for an outcome. */
const char *
oi_outcome_name(OiOutcome outcome)
{
	return outcome_names[outcome];
}

/* An answer that tells where the order is. */
void
oi_answer_from_order(const OiOrder *order, OiOutcome outcome,
					 OiOrderAnswer *answer)
{
	memset(answer, 0, sizeof(OiOrderAnswer));
	answer->outcome = outcome;
	answer->state = DatumGetTextPCopy(PointerGetDatum(order->state));
	answer->version = order->version;
	answer->changed_at = order->changed_at;
}

/* An answer that repeats the one of an earlier step. */
void
oi_answer_replayed(const OiOrder *order, const OiStep *step,
				   OiOrderAnswer *answer)
{
	oi_answer_from_order(order, OI_REPLAYED, answer);
	if (step && step->has_event)
	{
		answer->event_id = step->event_id;
		answer->has_event = true;
	}
}

/*
 * Answers a call that this order has seen before.  With a request key that is
 * a matter of the key; without one, of having been in the state.
 */
static bool
answer_from_history(const OiOrder *order, const OiOrderCall *call,
					OiOrderAnswer *answer)
{
	OiStep	   *steps;
	int			n = oi_history_read(DatumGetArrayTypeP(order->history), &steps);

	for (int i = n - 1; i >= 0; i--)
	{
		const OiStep *step = &steps[i];
		bool		same_state = oi_text_equal(step->state, call->to_state);

		if (call->request_key == NULL)
		{
			if (!same_state)
				continue;
			oi_answer_replayed(order, step, answer);
			return true;
		}
		if (step->request_key == NULL ||
			!oi_text_equal(step->request_key, call->request_key))
			continue;
		if (same_state)
			oi_answer_replayed(order, step, answer);
		else
		{
			oi_answer_from_order(order, OI_MISMATCH, answer);
			answer->detail = "The request key stands for a change to another state.";
		}
		return true;
	}

	/* an imported order may be in a state without a step to show for it */
	if (call->request_key == NULL &&
		oi_text_equal(order->state, call->to_state))
	{
		oi_answer_replayed(order, NULL, answer);
		return true;
	}
	return false;
}

/* Does the lifecycle allow the change, and the order's money? */
static bool
change_allowed(const OiOrder *order, const OiOrderCall *call)
{
	ListCell   *lc;
	char	   *target = text_to_cstring(call->to_state);

	foreach(lc, oi_order_targets(order))
		if (strcmp(lfirst(lc), target) == 0)
		return true;
	return false;
}

/* An answer for a change that is not allowed. */
static void
answer_not_allowed(const OiOrder *order, const OiOrderCall *call,
				   OiOrderAnswer *answer)
{
	char	   *allowed = oi_order_allowed(order);

	oi_answer_from_order(order, call->verb == OI_VERB_CANCEL ?
						 OI_IGNORED : OI_ILLEGAL, answer);
	answer->detail = psprintf("The order is in state \"%s\".",
							  text_to_cstring(order->state));
	answer->hint = allowed ? psprintf("Allowed states: %s.", allowed) :
		"No change is allowed any more.";
}

/* A copy of the order's row with the new state. */
static TupleTableSlot *
changed_row(OiTable *table, const OiOrderCall *call)
{
	TupleTableSlot *slot = oi_table_slot(table);

	slot_getallattrs(table->row);
	memcpy(slot->tts_values, table->row->tts_values,
		   OI_ORDER_COUNT * sizeof(Datum));
	memcpy(slot->tts_isnull, table->row->tts_isnull,
		   OI_ORDER_COUNT * sizeof(bool));
	slot->tts_values[OI_ORDER_STATE] = PointerGetDatum(call->to_state);
	return ExecStoreVirtualTuple(slot);
}

/* The columns that a change of state changes, for triggers OF columns. */
static Bitmapset *
changed_columns(void)
{
	static const int columns[] = {OI_ORDER_STATE, OI_ORDER_VERSION,
	OI_ORDER_CHANGED_AT, OI_ORDER_MONEY_STATUS, OI_ORDER_HISTORY};
	Bitmapset  *set = NULL;

	for (int i = 0; i < (int) lengthof(columns); i++)
		set = bms_add_member(set, columns[i] + 1 -
							 FirstLowInvalidHeapAttributeNumber);
	return set;
}

/* Changes the order, whose row is locked.  The guard does the rest. */
static void
apply_change(OiTable *table, const OiOrder *before, const OiOrderCall *call,
			 OiOrderAnswer *answer)
{
	TupleTableSlot *slot = changed_row(table, call);
	OiOrder		after;
	OiStep		step = {.has_event = true};
	bool		verified;

	oi_guard_expect(call, before->version + 1);
	oi_update(table, slot, changed_columns());
	verified = oi_guard_done(&step.event_id);

	oi_order_read_slot(slot, &after);
	if (!verified || !oi_text_equal(after.state, call->to_state))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("order \"%s\" was not changed as asked for",
						text_to_cstring(call->key)),
				 errdetail("A trigger on table \"order_idempotency.orders\" changed the row, or the guard's triggers are disabled.")));

	oi_answer_replayed(&after, &step, answer);
	answer->outcome = call->verb == OI_VERB_CANCEL ? OI_CANCELLED : OI_APPLIED;
}

/* Deals with an order that is there.  False: look again. */
static bool
change_found(OiTable *table, const OiOrderCall *call, const OiBusy *busy,
			 OiWait *wait, OiOrderAnswer *answer)
{
	OiOrder		order;
	ItemPointerData seen = table->row->tts_tid;
	bool		same;

	oi_order_read_slot(table->row, &order);
	if (answer_from_history(&order, call, answer))
		return true;
	if (busy->quiet && !change_allowed(&order, call))
	{
		answer_not_allowed(&order, call, answer);
		return true;
	}

	switch (oi_lock(table, wait))
	{
		case OI_LOCK_GONE:
			return false;
		case OI_LOCK_TIMEOUT:
			oi_answer_from_order(&order, OI_IN_PROGRESS, answer);
			return true;
		case OI_LOCK_OK:
			break;
	}

	/* of the very version that was seen before, what was found still holds */
	same = ItemPointerEquals(&seen, &table->row->tts_tid);
	oi_order_read_slot(table->row, &order);
	if (!same && answer_from_history(&order, call, answer))
		return true;
	if ((same && busy->quiet) || change_allowed(&order, call))
		apply_change(table, &order, call, answer);
	else
		answer_not_allowed(&order, call, answer);
	return true;
}

/* One try at a change.  False: look again. */
static bool
try_change(const OiOrderCall *call, OiWait *wait, OiOrderAnswer *answer)
{
	OiTable		table;
	OiBusy		busy;
	Datum		key = PointerGetDatum(call->key);
	int			which;
	bool		done = true;

	memset(answer, 0, sizeof(OiOrderAnswer));
	oi_table_open(&table, OI_REL_ORDERS, RowExclusiveLock);
	switch (oi_lookup(&table, &key, 1, call->tombstone ? 0 : OI_LOOKUP_CONFIRM,
					  &which, &busy))
	{
		case OI_PROBE_ABSENT:
			if (call->tombstone)
				done = oi_create_tombstone(&table, call, answer);
			else
				answer->outcome = OI_MISSING;
			break;
		case OI_PROBE_PRESENT:
			done = change_found(&table, call, &busy, wait, answer);
			break;
		case OI_PROBE_BUSY:
			done = !oi_wait_for(wait, &busy);
			answer->outcome = OI_IN_PROGRESS;
			break;
	}
	oi_table_close(&table);
	return done;
}

/* Raises the error that an outcome stands for, if it is one. */
void
oi_order_report(const OiOrderCall *call, const OiOrderAnswer *answer)
{
	char	   *key = text_to_cstring(call->key);

	switch (answer->outcome)
	{
		case OI_MISMATCH:
			ereport(ERROR,
					(errcode(ERRCODE_OI_MISMATCH),
					 call->verb == OI_VERB_CREATE ?
					 errmsg("order \"%s\" was created by a different request", key) :
					 errmsg("request key of order \"%s\" was used for a different request", key),
					 errdetail("%s", answer->detail),
					 errhint("A new request needs a new key.")));
			break;
		case OI_IN_PROGRESS:
			ereport(ERROR,
					(errcode(ERRCODE_OI_IN_PROGRESS),
					 errmsg("order \"%s\" is held by another transaction", key),
					 errhint("Try again later, or raise order_idempotency.in_flight_wait.")));
			break;
		case OI_ILLEGAL:
			ereport(ERROR,
					(errcode(ERRCODE_OI_ILLEGAL_TRANSITION),
					 errmsg("order \"%s\" cannot change to state \"%s\"", key,
							text_to_cstring(call->to_state)),
					 errdetail("%s", answer->detail),
					 errhint("%s", answer->hint)));
			break;
		case OI_MISSING:
			ereport(ERROR,
					(errcode(ERRCODE_OI_MISSING),
					 errmsg("order \"%s\" does not exist", key)));
			break;
		case OI_REFUSED:
			ereport(ERROR,
					(errcode(ERRCODE_OI_REFUSED),
					 errmsg("order \"%s\" was cancelled before it was created", key),
					 errdetail("A tombstone stands under this key.")));
			break;
		default:
			break;
	}
}

/*
 * Does the work of create_order, transition_order and cancel_order.  Whether
 * the outcome is an error is for oi_order_report.
 */
void
oi_order_work(const OiOrderCall *call, OiOrderAnswer *answer)
{
	OiWait		wait = {0};

	while (!(call->verb == OI_VERB_CREATE ?
			 oi_create_try(call, &wait, answer) :
			 try_change(call, &wait, answer)))
		CHECK_FOR_INTERRUPTS();
}
