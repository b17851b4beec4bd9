/*-------------------------------------------------------------------------
 *
 * sqlfuncs.c
 *		The SQL functions of claims and events.
 *
 * They read and check their arguments, call, and return.  Those of orders are
 * in sqlfuncs_order.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "args.h"
#include "claim.h"
#include "memo.h"
#include "outbox.h"
#include "result.h"
#include "rules.h"
#include "stats.h"
#include "xact.h"

PG_FUNCTION_INFO_V1(oi_claim_key);
PG_FUNCTION_INFO_V1(oi_complete_key);
PG_FUNCTION_INFO_V1(oi_extend_key);
PG_FUNCTION_INFO_V1(oi_release_key);
PG_FUNCTION_INFO_V1(oi_emit_event);

/*
 * Reads key and scope, which all functions of claims have.  Who passes a null
 * scope, as wrappers do for what they were not given, means the default.
 */
static void
read_key(FunctionCallInfo fcinfo, int key, int scope, OiClaimCall *call)
{
	memset(call, 0, sizeof(OiClaimCall));
	call->key = oi_arg_text(fcinfo, key, "key", OI_MAX_KEY, true);
	call->scope = oi_arg_text(fcinfo, scope, "scope", OI_MAX_KEY, false);
	if (call->scope == NULL)
		call->scope = cstring_to_text("default");
}

/* An answer as a row of type claim_result. */
static Datum
claim_result(FunctionCallInfo fcinfo, const OiClaimAnswer *answer)
{
	Datum		values[5];
	bool		nulls[5] = {0};

	values[0] = CStringGetTextDatum(oi_claim_outcome_name(answer->outcome));
	values[1] = PointerGetDatum(answer->response);
	nulls[1] = answer->response == NULL;
	values[2] = Int32GetDatum(answer->attempt);
	values[3] = TimestampTzGetDatum(answer->claimed_at);
	nulls[2] = nulls[3] = answer->attempt == 0;
	values[4] = TimestampTzGetDatum(answer->lease_until);
	nulls[4] = answer->lease_until == 0;
	return oi_result_row(fcinfo, values, nulls);
}

/*
 * claim_key(key text, request jsonb, scope text, lease interval)
 *
 * Claims a key.  Errors: 22004, 22001, 22023, 54000, 25006, 40001.
 */
Datum
oi_claim_key(PG_FUNCTION_ARGS)
{
	static const int16 typlens[] = {-1, -1, -1, sizeof(Interval)};
	bool		wanted = oi_memo_wanted(fcinfo);
	uint64		hash = wanted ? oi_memo_hash(fcinfo, typlens) : 0;
	OiClaimCall call;
	OiClaimAnswer answer;
	Datum		result;

	if (wanted && oi_memo_find(fcinfo, hash, &result))
		return result;

	oi_xact_check_writable("claim_key()");
	read_key(fcinfo, 0, 2, &call);
	call.request = oi_arg_jsonb(fcinfo, 1, "request");
	call.lease = oi_arg_interval(fcinfo, 3);
	oi_claim_key_work(&call, &answer);
	oi_stats_note_claim(&call, &answer);
	result = claim_result(fcinfo, &answer);
	if (wanted)
		oi_memo_keep(fcinfo, hash, result);
	return result;
}

/* Settles a claim, and returns the outcome's word. */
static Datum
settle(const OiClaimCall *call)
{
	OiClaimOutcome outcome = oi_claim_settle(call);

	oi_stats_note_settled(outcome);
	return CStringGetTextDatum(oi_claim_outcome_name(outcome));
}

/*
 * complete_key(key text, response jsonb, scope text, attempt int)
 *
 * Stores the response.  Errors: 22004 (also for a null attempt of a leased
 * claim), 22001, 22023, 54000, 25006, 40001, OI002.
 */
Datum
oi_complete_key(PG_FUNCTION_ARGS)
{
	OiClaimCall call;

	oi_xact_check_writable("complete_key()");
	read_key(fcinfo, 0, 2, &call);
	call.action = OI_CLAIM_COMPLETE;
	call.response = oi_arg_jsonb(fcinfo, 1, "response");
	call.attempt = oi_arg_attempt(fcinfo, 3);
	return settle(&call);
}

/*
 * extend_key(key text, lease interval, scope text, attempt int)
 *
 * Lets the lease end that much after now.  Errors as complete_key.
 */
Datum
oi_extend_key(PG_FUNCTION_ARGS)
{
	OiClaimCall call;

	oi_xact_check_writable("extend_key()");
	read_key(fcinfo, 0, 2, &call);
	oi_arg_require(fcinfo, 1, "lease");
	oi_arg_require(fcinfo, 3, "attempt");
	call.action = OI_CLAIM_EXTEND;
	call.lease = oi_arg_interval(fcinfo, 1);
	call.attempt = oi_arg_attempt(fcinfo, 3);
	return settle(&call);
}

/*
 * release_key(key text, scope text, attempt int)
 *
 * Gives the key back, as if it had not been claimed.  Errors as complete_key.
 */
Datum
oi_release_key(PG_FUNCTION_ARGS)
{
	OiClaimCall call;

	oi_xact_check_writable("release_key()");
	read_key(fcinfo, 0, 1, &call);
	call.action = OI_CLAIM_RELEASE;
	call.attempt = oi_arg_attempt(fcinfo, 2);
	return settle(&call);
}

/* Raises 22023 for an event type that only the lifecycle may write. */
static void
check_event_type(const text *type)
{
	char	   *name = text_to_cstring(type);

	for (char *c = name; *c; c++)
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("type must not contain control characters")));
	if (oi_lifecycle_has_event(oi_rules(), name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type \"%s\" belongs to the lifecycle of orders", name),
				 errhint("Only a change of an order writes it.")));
}

/*
 * emit_event(type text, key text, payload jsonb, headers jsonb)
 *
 * Writes an event of the application, and returns its id.  Errors: 22004,
 * 22001, 22023, 54000, 25006.
 */
Datum
oi_emit_event(PG_FUNCTION_ARGS)
{
	OiEvent		event = {.version = 0};
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	oi_xact_check_writable("emit_event()");
	event.type = oi_arg_text(fcinfo, 0, "type", OI_MAX_KEY, true);
	event.key = oi_arg_text(fcinfo, 1, "key", OI_MAX_KEY, true);
	event.payload = oi_arg_jsonb(fcinfo, 2, "payload");
	event.headers = oi_headers_or_setting(oi_arg_jsonb(fcinfo, 3, "headers"));
	check_event_type(event.type);
	event.created_at = GetCurrentTimestamp();
	oi_event_id_generate(&event.event_id, event.created_at);
	oi_outbox_append(&event);
	*id = event.event_id;
	PG_RETURN_UUID_P(id);
}
