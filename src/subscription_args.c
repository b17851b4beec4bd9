/*-------------------------------------------------------------------------
 *
 * subscription_args.c
 *		Is what was said of a subscription or a server acceptable?
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "order_sink.h"
#include "subscription.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/varlena.h"

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"

/* the options that are whole numbers: bounds and defaults */
static const struct
{
	const char *name;
	int			low;
	int			high;
	int			value;
}			int_options[OI_OPTION_COUNT] = {
	[OI_OPTION_BACKOFF_MAX] = {"backoff_max", 1, 24 * 60 * 60 * 1000, 60 * 60 * 1000},
	[OI_OPTION_BACKOFF_MIN] = {"backoff_min", 1, 24 * 60 * 60 * 1000, 1000},
	[OI_OPTION_BATCH_SIZE] = {"batch_size", 1, OI_SINK_MAX_EVENTS, 500},
	[OI_OPTION_MAX_ATTEMPTS] = {"max_attempts", 1, 1000000, 20},
	[OI_OPTION_MAX_PARKED_KEYS] = {"max_parked_keys", 0, 100000, 10000}
};

/*
 * A subscription's name: a letter, then letters, digits, _ and -, all in
 * lower case.  It becomes part of file names and of names at receivers.
 */
void
oi_check_subscription_name(const char *name)
{
	if (strlen(name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("subscription name is too long"),
				 errdetail("It may have up to %d bytes.", NAMEDATALEN - 1)));
	if (name[0] < 'a' || name[0] > 'z' ||
		strspn(name, LOWER DIGITS "_-") != strlen(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid subscription name \"%s\"", name),
				 errhint("Use lower-case letters, digits, \"_\" and \"-\", and a letter first.")));
}

/*
 * The event types that a subscription wants: one or more names.
 */
void
oi_check_event_types(ArrayType *types)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	if (ARR_NDIM(types) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("event types must be an array of one dimension")));

	deconstruct_array(types, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &n);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event types must not be an empty array"),
				 errhint("Leave event types out to get events of all types.")));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("event type must not be null")));
		if (VARSIZE_ANY_EXHDR(DatumGetPointer(elems[i])) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event type must not be empty")));
	}
}

/*
 * An option of a subscription with a value that is not for it.
 */
static void
report_bad_option(const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for subscription option \"%s\"", name),
			 errhint("%s", hint)));
}

/*
 * Option from: "now" or "start".
 */
static bool
option_from(const JsonbValue *value)
{
	bool		start = value->type == jbvString && value->val.string.len == 5 &&
	memcmp(value->val.string.val, "start", 5) == 0;
	bool		now = value->type == jbvString && value->val.string.len == 3 &&
	memcmp(value->val.string.val, "now", 3) == 0;

	if (!start && !now)
		report_bad_option("from", "It is \"now\" or \"start\".");
	return start;
}

/*
 * Option on_dead: "hold" or "skip".
 */
static void
check_on_dead(const JsonbValue *value)
{
	if (value->type != jbvString || value->val.string.len != 4 ||
		(memcmp(value->val.string.val, "hold", 4) != 0 &&
		 memcmp(value->val.string.val, "skip", 4) != 0))
		report_bad_option("on_dead", "It is \"hold\" or \"skip\".");
}

/*
 * An option that is a whole number in bounds.
 */
static void
check_int_option(OiOption which, const JsonbValue *value)
{
	int			low = int_options[which].low;
	int			high = int_options[which].high;
	Numeric		number = value->type == jbvNumeric ? value->val.numeric : NULL;
	Datum		lowest = DirectFunctionCall1(int4_numeric, Int32GetDatum(low));
	Datum		highest = DirectFunctionCall1(int4_numeric, Int32GetDatum(high));

	if (number == NULL ||
		DatumGetBool(DirectFunctionCall2(numeric_lt, NumericGetDatum(number), lowest)) ||
		DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(number), highest)) ||
		!DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(number),
										  DirectFunctionCall1(numeric_floor,
															  NumericGetDatum(number)))))
		report_bad_option(int_options[which].name,
						  psprintf("It is a whole number from %d to %d.", low, high));
}

/*
 * Check one option of a name.
 */
static void
check_option(const char *name, const JsonbValue *value, bool *from_start)
{
	for (int i = 0; i < OI_OPTION_COUNT; i++)
		if (strcmp(name, int_options[i].name) == 0)
		{
			check_int_option(i, value);
			return;
		}
	if (strcmp(name, "from") == 0)
		*from_start = option_from(value);
	else if (strcmp(name, "on_dead") == 0)
		check_on_dead(value);
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown subscription option \"%s\"", name),
				 errhint("Valid options are: backoff_max, backoff_min, batch_size, from, max_attempts, max_parked_keys, on_dead.")));
}

/*
 * An option of an object, into *found, or false.
 */
static bool
find_option(Jsonb *options, const char *name, JsonbValue *found)
{
	return options != NULL && JB_ROOT_IS_OBJECT(options) &&
		getKeyJsonValueFromContainer(&options->root, name, strlen(name), found) != NULL;
}

/*
 * The options of a subscription: an object of those that there are.
 */
void
oi_check_options(Jsonb *options, bool *from_start)
{
	JsonbIterator *it;
	JsonbValue	key;
	JsonbValue	value;
	JsonbIteratorToken token;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subscription options must be a JSON object")));

	it = JsonbIteratorInit(&options->root);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		check_option(pnstrdup(key.val.string.val, key.val.string.len), &value, from_start);
	}
	if (find_option(options, "backoff_min", &value) &&
		oi_option_int(options, OI_OPTION_BACKOFF_MIN) > oi_option_int(options, OI_OPTION_BACKOFF_MAX))
		report_bad_option("backoff_min", "It is not above backoff_max.");
}

/*
 * The value of an option that is a whole number.  What came with a dump
 * may not have been checked.
 */
int
oi_option_int(Jsonb *options, OiOption which)
{
	JsonbValue	found;
	int64		value;

	if (!find_option(options, int_options[which].name, &found) || found.type != jbvNumeric)
		return int_options[which].value;

	value = DatumGetInt64(DirectFunctionCall1(numeric_int8,
											  NumericGetDatum(found.val.numeric)));
	return (int) Max(int_options[which].low, Min(value, int_options[which].high));
}

/*
 * Is option on_dead "skip"?
 */
bool
oi_option_skips_dead(Jsonb *options)
{
	JsonbValue	found;

	return find_option(options, "on_dead", &found) && found.type == jbvString &&
		found.val.string.len == 4 && memcmp(found.val.string.val, "skip", 4) == 0;
}

/*
 * Is a server a sink, and may the role use it?  Returns the sink's name.  The
 * server's wrapper is what names the library to load, so it has to be a
 * plain word.
 */
const char *
oi_check_server(const ForeignServer *server, const ForeignDataWrapper *wrapper,
				Oid owner)
{
	const char *sink = wrapper->fdwname + strlen(OI_SINK_PREFIX);
	AclResult	aclresult;

	if (strncmp(wrapper->fdwname, OI_SINK_PREFIX, strlen(OI_SINK_PREFIX)) != 0 ||
		sink[0] == '\0' || strspn(sink, LOWER DIGITS "_") != strlen(sink))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a sink", server->servername),
				 errdetail("Its foreign-data wrapper is \"%s\".", wrapper->fdwname),
				 errhint("Create the server with a foreign-data wrapper such as order_idempotency_file.")));

	aclresult = oi_compat_server_aclcheck(server->serverid, owner, ACL_USAGE);
	if (aclresult != ACLCHECK_OK)
		aclcheck_error(aclresult, OBJECT_FOREIGN_SERVER, server->servername);

	return sink;
}
