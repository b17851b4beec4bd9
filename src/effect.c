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

#include "ledger.h"
#include "order.h"
#include "outbox.h"

/* Adds a member of any scalar kind. */
static void
add_scalar(JsonbParseState **state, const char *name, JsonbValue *value)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_VALUE, value);
}

/* Adds a string, unless it is NULL. */
static void
add_text(JsonbParseState **state, const char *name, const text *string)
{
	JsonbValue	value;

	if (string == NULL)
		return;
	value.type = jbvString;
	value.val.string.val = (char *) VARDATA_ANY(string);
	value.val.string.len = VARSIZE_ANY_EXHDR(string);
	add_scalar(state, name, &value);
}

/* Adds a whole number. */
static void
add_int64(JsonbParseState **state, const char *name, int64 number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	add_scalar(state, name, &value);
}

/* Adds any JSON, unless it is NULL. */
static void
add_jsonb(JsonbParseState **state, const char *name, Jsonb *json)
{
	JsonbValue	value;

	if (json == NULL)
		return;
	if (!JsonbExtractScalar(&json->root, &value))
	{
		value.type = jbvBinary;
		value.val.binary.data = &json->root;
		value.val.binary.len = VARSIZE(json) - VARHDRSZ;
	}
	add_scalar(state, name, &value);
}

/* What an event says of the change; docs/reference.md lists the members. */
static Jsonb *
event_payload(const OiOrder *order, const OiChange *change)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	add_text(&state, "key", order->key);
	add_text(&state, "state", order->state);
	add_text(&state, "from_state", change->from_state);
	add_int64(&state, "version", order->version);
	add_int64(&state, "amount", order->amount);
	add_text(&state, "currency", order->currency);
	add_text(&state, "account", order->account);
	add_text(&state, "reason", change->step->reason);
	add_text(&state, "request_key", change->step->request_key);
	add_jsonb(&state, "payload", change->call ? change->call->payload : NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Writes the money movement, if the change has one and the order an account,
 * and the event.  order is as it is after the change.
 */
void
oi_effects(const OiOrder *order, const OiChange *change)
{
	const OiTransition *transition = change->transition;
	OiEvent		event;

	/* reads the rules' strings, which last only until a table is touched */
	event.type = cstring_to_text(transition->event_type);

	if (transition->effect != OI_EFFECT_NONE && order->account)
	{
		OiMovement	movement = {
			.order_key = order->key,
			.version = order->version,
			.effect = transition->effect,
			.account = order->account,
			.amount = order->amount,
			.currency = order->currency,
			.posted_at = order->changed_at
		};

		oi_ledger_post(&movement);
	}

	event.event_id = change->step->event_id;
	event.key = order->key;
	event.version = order->version;
	event.payload = event_payload(order, change);
	event.headers = oi_headers_or_setting(change->call ? change->call->headers : NULL);
	event.created_at = order->changed_at;
	oi_outbox_append(&event);
}
