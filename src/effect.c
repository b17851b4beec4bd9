/*-------------------------------------------------------------------------
 *
 * effect.c
 *		What a change of an order has for effects: money and an event.
 *
 * The creation calls this after its row is stored; every later change comes
 * through the guard's AFTER trigger, from whichever statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "json_object.h"
#include "ledger.h"
#include "order.h"
#include "outbox.h"

/* an event's payload in the making */
typedef struct Members
{
	int			n;
	OiJsonMember list[10];
} Members;

/* The value of one member more. */
static JsonbValue *
add(Members *members, const char *name)
{
	OiJsonMember *member = &members->list[members->n++];

	Assert(members->n <= (int) lengthof(members->list));
	member->name = name;
	return &member->value;
}

/* Adds a string, unless it is NULL. */
static void
add_text(Members *members, const char *name, const text *string)
{
	JsonbValue *value;

	if (string == NULL)
		return;
	value = add(members, name);
	value->type = jbvString;
	value->val.string.val = (char *) VARDATA_ANY(string);
	value->val.string.len = VARSIZE_ANY_EXHDR(string);
}

/* Adds a whole number. */
static void
add_int64(Members *members, const char *name, int64 number)
{
	JsonbValue *value = add(members, name);

	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(number);
}

/* Adds any JSON, unless it is NULL. */
static void
add_jsonb(Members *members, const char *name, Jsonb *json)
{
	JsonbValue *value;

	if (json == NULL)
		return;
	value = add(members, name);
	if (!JsonbExtractScalar(&json->root, value))
	{
		value->type = jbvBinary;
		value->val.binary.data = &json->root;
		value->val.binary.len = VARSIZE(json) - VARHDRSZ;
	}
}

/*
 * What an event says of the change; docs/reference.md lists the members.  They
 * are added in jsonb's order.
 */
static Jsonb *
event_payload(const OiOrder *order, const OiChange *change)
{
	Members		members = {0};

	add_text(&members, "key", order->key);
	add_text(&members, "state", order->state);
	add_int64(&members, "amount", order->amount);
	add_text(&members, "reason", change->step->reason);
	add_text(&members, "account", order->account);
	add_jsonb(&members, "payload", change->call ? change->call->payload : NULL);
	add_int64(&members, "version", order->version);
	add_text(&members, "currency", order->currency);
	add_text(&members, "from_state", change->from_state);
	add_text(&members, "request_key", change->step->request_key);
	return oi_json_object(members.list, members.n);
}

/* Writes the event of a change. */
static void
append_event(const OiOrder *order, const OiChange *change)
{
	OiEvent		event = {
		.event_id = change->step->event_id,
		.key = order->key,
		.version = order->version,
		.type = cstring_to_text(change->transition->event_type),
		.created_at = order->changed_at
	};

	event.payload = event_payload(order, change);
	event.headers = oi_headers_or_setting(change->call ? change->call->headers : NULL);
	oi_outbox_append(&event);
}

/* Writes the movement of money that a change has, if the order has an account. */
static void
post_movement(const OiOrder *order, OiEffect effect)
{
	OiMovement	movement = {
		.order_key = order->key,
		.version = order->version,
		.effect = effect,
		.account = order->account,
		.amount = order->amount,
		.currency = order->currency,
		.posted_at = order->changed_at
	};

	if (effect != OI_EFFECT_NONE && order->account)
		oi_ledger_post(&movement);
}

/*
 * Writes the event of a change, and its movement of money.  order is as it is
 * after the change.
 *
 * The event comes first.  Triggers of users fire on what is written after it, and
 * one of them may change this order again: the event of that has to have the
 * higher position.
 */
void
oi_effects(const OiOrder *order, const OiChange *change)
{
	/* the guard's transition lasts only until a table is touched */
	OiEffect	effect = change->transition->effect;

	append_event(order, change);
	post_movement(order, effect);
}
