/*-------------------------------------------------------------------------
 *
 * guard.c
 *		The triggers through which every change of an order has to go.
 *
 * BEFORE UPDATE: a change of state raises the version, moves the money status
 * and adds a step to the history.  AFTER UPDATE: the change as it was stored,
 * whatever other triggers did to it, is verified against the lifecycle and the
 * columns that never change; then it has its effects.  The transition
 * functions come this way too; they only leave word of what they know besides
 * the new state (request key, reason, payload, headers).
 *
 * An INSERT is an import, and unguarded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "errors.h"
#include "order.h"
#include "outbox.h"
#include "rules.h"

/* both versions of a row that an UPDATE changes */
typedef struct RowPair
{
	TupleDesc	desc;
	Datum	   *old_values;
	bool	   *old_nulls;
	Datum	   *new_values;
	bool	   *new_nulls;
	OiOrder		old;
	OiOrder		new;
} RowPair;

/*
 * A change that a function of ours is about to make.  They nest, as a user's
 * trigger may change another order.  Kept for the transaction; an error takes
 * those of its subtransaction off the list.
 */
typedef struct Expected
{
	const OiOrderCall *call;
	int			version;		/* that the change will make */
	bool		verified;		/* and had its effects */
	pg_uuid_t	event_id;		/* then: that of its event */
	SubTransactionId subxid;
	struct Expected *outer;
} Expected;

static Expected *expected = NULL;

/* the append-only table that may be truncated now */
static Oid	truncated = InvalidOid;

PG_FUNCTION_INFO_V1(oi_guard_change);
PG_FUNCTION_INFO_V1(oi_guard_verify);
PG_FUNCTION_INFO_V1(oi_guard_removal);
PG_FUNCTION_INFO_V1(oi_guard_append_only);

/* Announces a change, which oi_guard_done ends. */
void
oi_guard_expect(const OiOrderCall *call, int version)
{
	Expected   *e = MemoryContextAlloc(TopTransactionContext, sizeof(Expected));

	e->call = call;
	e->version = version;
	e->verified = false;
	e->subxid = GetCurrentSubTransactionId();
	e->outer = expected;
	expected = e;
}

/*
 * The change that was announced last is made.  Has it been verified, and had
 * its effects?  If so, *event_id says under which id; it may be NULL.
 */
bool
oi_guard_done(pg_uuid_t *event_id)
{
	Expected   *e = expected;
	bool		verified;

	Assert(e != NULL);
	verified = e->verified;
	if (verified && event_id)
		*event_id = e->event_id;
	expected = e->outer;
	pfree(e);
	return verified;
}

/* Forgets what a failed subtransaction announced. */
static void
forget_subtransaction(SubXactEvent event, SubTransactionId subxid,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		while (expected != NULL && expected->subxid >= subxid)
			(void) oi_guard_done(NULL);
}

/* Forgets everything at the end of the transaction. */
static void
forget_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		expected = NULL;
}

/* Called once, when the library is loaded. */
void
oi_guard_init(void)
{
	RegisterXactCallback(forget_transaction, NULL);
	RegisterSubXactCallback(forget_subtransaction, NULL);
}

/* The announced change that makes this version of the order, or NULL. */
static Expected *
find_expected(const OiOrder *order, int version)
{
	for (Expected *e = expected; e != NULL; e = e->outer)
		if (e->version == version && oi_text_equal(e->call->key, order->key))
			return e;
	return NULL;
}

/* Raises OI003 for a state that the order cannot go to. */
void
oi_report_illegal(const OiOrder *order, const char *to_state)
{
	char	   *allowed = oi_order_allowed(order);

	ereport(ERROR,
			(errcode(ERRCODE_OI_ILLEGAL_TRANSITION),
			 errmsg("order \"%s\" cannot change to state \"%s\"",
					text_to_cstring(order->key), to_state),
			 errdetail("The order is in state \"%s\".",
					   text_to_cstring(order->state)),
			 allowed ? errhint("Allowed states: %s.", allowed) :
			 errhint("No change is allowed any more.")));
}

/* The context of a row-level UPDATE trigger on orders. */
static TriggerData *
update_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ||
		RelationGetRelid(trigger->tg_relation) != oi_relation_oid(OI_REL_ORDERS))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as an UPDATE trigger of table \"order_idempotency.orders\"")));
	oi_relation_check(trigger->tg_relation, OI_REL_ORDERS);
	return trigger;
}

/* Takes both rows apart. */
static void
read_pair(TriggerData *trigger, RowPair *pair)
{
	int			natts = RelationGetDescr(trigger->tg_relation)->natts;

	pair->desc = RelationGetDescr(trigger->tg_relation);
	pair->old_values = palloc(natts * sizeof(Datum));
	pair->new_values = palloc(natts * sizeof(Datum));
	pair->old_nulls = palloc(natts * sizeof(bool));
	pair->new_nulls = palloc(natts * sizeof(bool));
	heap_deform_tuple(trigger->tg_trigtuple, pair->desc,
					  pair->old_values, pair->old_nulls);
	heap_deform_tuple(trigger->tg_newtuple, pair->desc,
					  pair->new_values, pair->new_nulls);
	oi_order_read(pair->old_values, pair->old_nulls, &pair->old);
}

/* The step that a change to a new state adds to the history. */
static void
make_step(const OiOrder *old, const OiOrder *new, OiStep *step)
{
	Expected   *announced = find_expected(old, old->version + 1);

	memset(step, 0, sizeof(OiStep));
	step->version = old->version + 1;
	step->state = new->state;
	step->at = GetCurrentTimestamp();
	oi_event_id_generate(&step->event_id, step->at);
	step->has_event = true;
	if (announced)
	{
		step->request_key = announced->call->request_key;
		step->reason = announced->call->reason;
	}
}

/* Where the money will be; as it was if the change is not a legal one. */
static OiMoney
money_after_change(const OiOrder *old, const OiOrder *new)
{
	const OiTransition *t = oi_lifecycle_find(oi_rules(),
											  text_to_cstring(old->state),
											  text_to_cstring(new->state));
	OiMoney		before = oi_order_money(old);
	OiMoney		after = t ? oi_money_after(before, t->effect) :
	OI_MONEY_UNKNOWN;

	return after != OI_MONEY_UNKNOWN ? after : before;
}

/* Trigger, BEFORE UPDATE of each row: completes a change of state. */
Datum
oi_guard_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = update_trigger(fcinfo);
	int			columns[] = {OI_ORDER_VERSION + 1, OI_ORDER_CHANGED_AT + 1,
	OI_ORDER_MONEY_STATUS + 1, OI_ORDER_HISTORY + 1};
	Datum		values[lengthof(columns)];
	bool		nulls[lengthof(columns)] = {0};
	RowPair		pair;
	OiStep		step;
	OiMoney		money;

	read_pair(trigger, &pair);
	if (pair.new_nulls[OI_ORDER_STATE])
		return PointerGetDatum(trigger->tg_newtuple);	/* NOT NULL refuses */
	pair.new.state = DatumGetTextPP(pair.new_values[OI_ORDER_STATE]);
	if (oi_text_equal(pair.old.state, pair.new.state))
		return PointerGetDatum(trigger->tg_newtuple);

	make_step(&pair.old, &pair.new, &step);
	money = money_after_change(&pair.old, &pair.new);
	values[0] = Int32GetDatum(step.version);
	values[1] = TimestampTzGetDatum(step.at);
	nulls[2] = money == OI_MONEY_UNKNOWN;
	values[2] = nulls[2] ? (Datum) 0 :
		CStringGetTextDatum(oi_money_name(money));
	values[3] = PointerGetDatum(oi_history_append(DatumGetArrayTypeP(pair.old.history),
												  oi_order_step_type(pair.desc),
												  &step));
	return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_newtuple,
													 pair.desc,
													 lengthof(columns),
													 columns, values, nulls));
}

/* Is a column the same in both rows? */
static bool
column_kept(const RowPair *pair, int column)
{
	Form_pg_attribute att = TupleDescAttr(pair->desc, column);
	Datum		a = pair->old_values[column];
	Datum		b = pair->new_values[column];

	if (pair->old_nulls[column] || pair->new_nulls[column])
		return pair->old_nulls[column] == pair->new_nulls[column];

	/* the usual case of a large payload: still the same toasted value */
	if (att->attlen == -1 &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(a)) &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b),
			   VARSIZE_EXTERNAL(DatumGetPointer(a))) == 0)
		return true;
	return datum_image_eq(a, b, att->attbyval, att->attlen);
}

/* Raises OI003 if a column changed that the kind of change must keep. */
static void
check_columns(const RowPair *pair, bool state_changed)
{
	for (int i = 0; i < OI_ORDER_COUNT; i++)
	{
		if (state_changed &&
			(i == OI_ORDER_STATE || i == OI_ORDER_VERSION ||
			 i == OI_ORDER_CHANGED_AT || i == OI_ORDER_MONEY_STATUS ||
			 i == OI_ORDER_HISTORY))
			continue;
		if (!column_kept(pair, i))
			ereport(ERROR,
					(errcode(ERRCODE_OI_ILLEGAL_TRANSITION),
					 errmsg("column \"%s\" of order \"%s\" cannot be changed",
							NameStr(TupleDescAttr(pair->desc, i)->attname),
							text_to_cstring(pair->old.key)),
					 errhint("An order changes its state, by order_idempotency.transition_order; everything else of it follows from that or stays.")));
	}
}

/*
 * Finds the transition of a change of state, or raises OI003.  The lifecycle
 * must have it, and its effect must start from where the money is.
 */
static const OiTransition *
check_transition(const RowPair *pair)
{
	const OiTransition *t = NULL;
	OiMoney		after = OI_MONEY_UNKNOWN;
	char	   *to_state = text_to_cstring(pair->new.state);

	if (!pair->old.tombstone)
		t = oi_lifecycle_find(oi_rules(), text_to_cstring(pair->old.state),
							  to_state);
	if (t)
		after = oi_money_after(oi_order_money(&pair->old), t->effect);
	if (after == OI_MONEY_UNKNOWN)
		oi_report_illegal(&pair->old, to_state);
	if (pair->new.money != after)
		ereport(ERROR,
				(errcode(ERRCODE_OI_ILLEGAL_TRANSITION),
				 errmsg("money status of order \"%s\" does not follow from its change",
						text_to_cstring(pair->old.key)),
				 errhint("Another trigger on table \"order_idempotency.orders\" changed the row.")));
	return t;
}

/* Checks that version and history went on by the one step, and returns it. */
static OiStep
check_step(const RowPair *pair)
{
	ArrayType  *before = DatumGetArrayTypeP(pair->old.history);
	ArrayType  *after = DatumGetArrayTypeP(pair->new.history);
	OiStep	   *steps;
	OiStep	   *last;
	int			n;

	n = oi_history_read(after, &steps);
	last = n > 0 ? &steps[n - 1] : NULL;
	if (last == NULL ||
		!oi_history_continues(before, after) ||
		pair->new.version != pair->old.version + 1 ||
		last->version != pair->new.version ||
		last->at != pair->new.changed_at ||
		!last->has_event ||
		!oi_text_equal(last->state, pair->new.state))
		ereport(ERROR,
				(errcode(ERRCODE_OI_ILLEGAL_TRANSITION),
				 errmsg("history of order \"%s\" does not follow from its change",
						text_to_cstring(pair->old.key)),
				 errhint("Another trigger on table \"order_idempotency.orders\" changed the row.")));
	return *last;
}

/*
 * Raises 27000 if the order was changed again, or removed, before the effects of
 * this change: the event of the later one is in the log already.  The triggers of
 * a direct UPDATE fire when it ends, and what it calls, or a trigger for another
 * row of it, may come to the order before that.
 */
static void
check_newest(TriggerData *trigger, const OiOrder *order)
{
	if (table_tuple_satisfies_snapshot(trigger->tg_relation,
									   trigger->tg_newslot, SnapshotSelf))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("order \"%s\" was changed again before its change was complete",
					text_to_cstring(order->key)),
			 errhint("Change the order again after the UPDATE, not within it.")));
}

/* Trigger, AFTER UPDATE of each row: verifies, and has the effects. */
Datum
oi_guard_verify(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = update_trigger(fcinfo);
	RowPair		pair;
	OiChange	change = {0};
	Expected   *announced;
	OiStep		step;
	bool		state_changed;

	read_pair(trigger, &pair);
	oi_order_read(pair.new_values, pair.new_nulls, &pair.new);
	state_changed = !oi_text_equal(pair.old.state, pair.new.state);
	check_columns(&pair, state_changed);
	if (!state_changed)
		return PointerGetDatum(NULL);

	check_newest(trigger, &pair.new);
	step = check_step(&pair);
	announced = find_expected(&pair.new, pair.new.version);
	change.call = announced ? announced->call : NULL;
	change.from_state = pair.old.state;
	change.step = &step;
	change.transition = check_transition(&pair);
	oi_effects(&pair.new, &change);
	if (announced)
	{
		announced->event_id = step.event_id;
		announced->verified = true;
	}
	return PointerGetDatum(NULL);
}

/* Raises OI003 for a command that a table does not allow. */
static void
refuse_command(FunctionCallInfo fcinfo, const char *hint)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function must be called as a trigger")));
	ereport(ERROR,
			(errcode(ERRCODE_OI_ILLEGAL_TRANSITION),
			 errmsg("rows of table \"%s\" cannot be %s",
					RelationGetRelationName(trigger->tg_relation),
					TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "updated" :
					"deleted"),
			 errhint("%s", hint)));
}

/* Is this the removal of an order that a function of ours announced? */
static bool
removal_is_expected(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	OiOrder		order;
	bool		isnull;

	if (!CALLED_AS_TRIGGER(fcinfo) || expected == NULL ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ||
		RelationGetRelid(trigger->tg_relation) != oi_relation_oid(OI_REL_ORDERS))
		return false;
	order.key = DatumGetTextPP(heap_getattr(trigger->tg_trigtuple, OI_ORDER_KEY + 1,
											RelationGetDescr(trigger->tg_relation),
											&isnull));
	return find_expected(&order, OI_GUARD_REMOVAL) != NULL;
}

/*
 * Trigger, BEFORE DELETE of a row or TRUNCATE: refuses, but what purge_orders
 * removes.
 */
Datum
oi_guard_removal(PG_FUNCTION_ARGS)
{
	if (removal_is_expected(fcinfo))
		return PointerGetDatum(((TriggerData *) fcinfo->context)->tg_trigtuple);
	refuse_command(fcinfo, "An order is the memory of its key: without it a repeat would be a new order.");
	return PointerGetDatum(NULL);
}

/*
 * Lets a TRUNCATE of one table pass, from here on; InvalidOid: of none.  For the
 * rotation of the log, around its own statement only.
 */
void
oi_guard_permit_truncate(Oid relid)
{
	truncated = relid;
}

/* Is this that TRUNCATE? */
static bool
truncate_is_permitted(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	return CALLED_AS_TRIGGER(fcinfo) && OidIsValid(truncated) &&
		TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event) &&
		RelationGetRelid(trigger->tg_relation) == truncated;
}

/*
 * Trigger, BEFORE UPDATE, DELETE or TRUNCATE: refuses, but what the rotation of
 * the log empties.
 */
Datum
oi_guard_append_only(PG_FUNCTION_ARGS)
{
	if (truncate_is_permitted(fcinfo))
		return PointerGetDatum(NULL);
	refuse_command(fcinfo, "The table is append-only.");
	return PointerGetDatum(NULL);
}
