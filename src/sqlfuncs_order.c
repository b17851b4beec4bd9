/*-------------------------------------------------------------------------
 *
 * sqlfuncs_order.c
 *		The SQL functions of orders.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "args.h"
#include "memo.h"
#include "order.h"
#include "outbox.h"
#include "result.h"
#include "stats.h"
#include "xact.h"

PG_FUNCTION_INFO_V1(oi_create_order);
PG_FUNCTION_INFO_V1(oi_transition_order);
PG_FUNCTION_INFO_V1(oi_cancel_order);
PG_FUNCTION_INFO_V1(oi_get_order);
PG_FUNCTION_INFO_V1(oi_order_history);

typedef void (*ReadCall) (FunctionCallInfo fcinfo, OiOrderCall *call);

/* An answer as a row of type order_result. */
static Datum
order_result(FunctionCallInfo fcinfo, const OiOrderCall *call,
			 const OiOrderAnswer *answer)
{
	Datum		values[7];
	bool		nulls[7] = {0};

	values[0] = PointerGetDatum(call->key);
	values[1] = CStringGetTextDatum(oi_outcome_name(answer->outcome));
	values[2] = PointerGetDatum(answer->state);
	values[3] = Int32GetDatum(answer->version);
	values[4] = UUIDPGetDatum(&answer->event_id);
	values[5] = TimestampTzGetDatum(answer->changed_at);
	nulls[2] = nulls[3] = nulls[5] = answer->state == NULL;
	nulls[4] = !answer->has_event;
	nulls[6] = answer->detail == NULL;
	if (answer->detail)
		values[6] = CStringGetTextDatum(answer->detail);
	return oi_result_row(fcinfo, values, nulls);
}

/* What the three functions that change orders have in common. */
static Datum
order_function(FunctionCallInfo fcinfo, const char *command,
			   const int16 *typlens, ReadCall read_call)
{
	bool		wanted = oi_memo_wanted(fcinfo);
	uint64		hash = wanted ? oi_memo_hash(fcinfo, typlens) : 0;
	OiOrderCall call = {0};
	OiOrderAnswer answer;
	Datum		result;

	if (wanted && oi_memo_find(fcinfo, hash, &result))
		return result;

	oi_xact_check_writable(command);
	call.key = oi_arg_text(fcinfo, 0, "key", OI_MAX_KEY, true);
	read_call(fcinfo, &call);
	if (call.headers)
		(void) oi_headers_or_setting(call.headers);
	oi_order_work(&call, &answer);
	oi_stats_note_order(&call, &answer);
	if (!call.report)
		oi_order_report(&call, &answer);
	result = order_result(fcinfo, &call, &answer);
	if (wanted)
		oi_memo_keep(fcinfo, hash, result);
	return result;
}

/* The arguments of create_order. */
static void
read_create(FunctionCallInfo fcinfo, OiOrderCall *call)
{
	call->verb = OI_VERB_CREATE;
	call->amount = oi_arg_amount(fcinfo, 1);
	call->currency = oi_arg_currency(fcinfo, 2);
	call->account = oi_arg_account(fcinfo, 3);
	call->payload = oi_arg_jsonb(fcinfo, 4, "payload");
	call->pay_within = oi_arg_interval(fcinfo, 5);
	call->headers = oi_arg_jsonb(fcinfo, 6, "headers");
	call->report = oi_arg_word(fcinfo, 7, "on_conflict", "error", "report");
}

/*
 * create_order(key text, amount bigint, currency text, account text,
 *				payload jsonb, pay_within interval, headers jsonb,
 *				on_conflict text)
 *
 * Creates an order, or finds that it was created.  Errors: OI001, OI002,
 * OI005 (unless on_conflict is "report"), 22004, 22001, 22023, 54000, 25006,
 * 40001.
 */
Datum
oi_create_order(PG_FUNCTION_ARGS)
{
	static const int16 typlens[] = {-1, 8, -1, -1, -1, sizeof(Interval), -1, -1};

	return order_function(fcinfo, "create_order()", typlens, read_create);
}

/* The arguments of transition_order. */
static void
read_transition(FunctionCallInfo fcinfo, OiOrderCall *call)
{
	call->verb = OI_VERB_TRANSITION;
	call->to_state = oi_arg_text(fcinfo, 1, "to_state", OI_MAX_STATE, true);
	call->request_key = oi_arg_text(fcinfo, 2, "request_key", OI_MAX_KEY, false);
	call->payload = oi_arg_jsonb(fcinfo, 3, "payload");
	call->headers = oi_arg_jsonb(fcinfo, 4, "headers");
	call->report = oi_arg_word(fcinfo, 5, "on_conflict", "error", "report");
}

/*
 * transition_order(key text, to_state text, request_key text, payload jsonb,
 *					headers jsonb, on_conflict text)
 *
 * Changes the state of an order, or finds that it was changed.  Errors: OI001
 * to OI004 (unless on_conflict is "report"), and those of create_order's
 * arguments.
 */
Datum
oi_transition_order(PG_FUNCTION_ARGS)
{
	static const int16 typlens[] = {-1, -1, -1, -1, -1, -1};

	return order_function(fcinfo, "transition_order()", typlens,
						  read_transition);
}

/* The arguments of cancel_order. */
static void
read_cancel(FunctionCallInfo fcinfo, OiOrderCall *call)
{
	call->verb = OI_VERB_CANCEL;
	call->to_state = cstring_to_text("cancelled");
	call->reason = oi_arg_text(fcinfo, 1, "reason", OI_MAX_REASON, false);
	call->request_key = oi_arg_text(fcinfo, 2, "request_key", OI_MAX_KEY, false);
	call->tombstone = oi_arg_word(fcinfo, 3, "if_missing", "error", "tombstone");
	call->headers = oi_arg_jsonb(fcinfo, 4, "headers");
	call->report = oi_arg_word(fcinfo, 5, "on_conflict", "error", "report");
}

/*
 * cancel_order(key text, reason text, request_key text, if_missing text,
 *				headers jsonb, on_conflict text)
 *
 * Cancels an order, if its lifecycle still allows that.  Errors: OI001, OI002,
 * OI004 (unless on_conflict is "report"), and those of create_order's
 * arguments.
 */
Datum
oi_cancel_order(PG_FUNCTION_ARGS)
{
	static const int16 typlens[] = {-1, -1, -1, -1, -1, -1};

	return order_function(fcinfo, "cancel_order()", typlens, read_cancel);
}

/* Finds an order for reading, by the statement's own snapshot. */
static bool
find_order(FunctionCallInfo fcinfo, OiTable *table, OiOrder *order)
{
	text	   *key = oi_arg_text(fcinfo, 0, "key", OI_MAX_KEY, true);

	oi_table_open(table, OI_REL_ORDERS, AccessShareLock);
	if (!oi_find(table, PointerGetDatum(key), GetActiveSnapshot()))
		return false;
	oi_order_read_slot(table->row, order);
	return true;
}

/* The states that the order may go to, as text[]. */
static Datum
allowed_array(const OiOrder *order)
{
	List	   *targets = oi_order_targets(order);
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(targets), 1));
	ListCell   *lc;

	foreach(lc, targets)
		elements[foreach_current_index(lc)] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elements, list_length(targets),
										   TEXTOID, -1, false, TYPALIGN_INT));
}

/* get_order(key text): an order, or no row.  Errors: 22004, 22001, 22023. */
Datum
oi_get_order(PG_FUNCTION_ARGS)
{
	static const int columns[] = {OI_ORDER_KEY, OI_ORDER_STATE,
		OI_ORDER_VERSION, OI_ORDER_AMOUNT, OI_ORDER_CURRENCY,
		OI_ORDER_ACCOUNT, OI_ORDER_MONEY_STATUS, OI_ORDER_PAYLOAD,
	OI_ORDER_TOMBSTONE, OI_ORDER_CREATED_AT, OI_ORDER_CHANGED_AT};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[lengthof(columns) + 1];
	bool		nulls[lengthof(columns) + 1] = {0};
	OiTable		table;
	OiOrder		order;

	InitMaterializedSRF(fcinfo, 0);
	if (find_order(fcinfo, &table, &order))
	{
		for (int i = 0; i < (int) lengthof(columns); i++)
		{
			values[i] = table.row->tts_values[columns[i]];
			nulls[i] = table.row->tts_isnull[columns[i]];
		}
		values[lengthof(columns)] = allowed_array(&order);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	oi_table_close(&table);
	return (Datum) 0;
}

/*
 * order_history(key text): a row a version, oldest first.  Errors as
 * get_order.
 */
Datum
oi_order_history(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	OiTable		table;
	OiOrder		order;

	InitMaterializedSRF(fcinfo, 0);
	if (find_order(fcinfo, &table, &order))
	{
		OiStep	   *steps;
		int			n = oi_history_read(DatumGetArrayTypeP(order.history), &steps);

		for (int i = 0; i < n; i++)
		{
			Datum		values[OI_STEP_COUNT];
			bool		nulls[OI_STEP_COUNT];

			oi_step_values(&steps[i], values, nulls);
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc,
								 values, nulls);
		}
	}
	oi_table_close(&table);
	return (Datum) 0;
}
