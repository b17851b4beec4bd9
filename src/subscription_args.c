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
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

/* the longest topic, in bytes: that of a file name */
#define MAX_TOPIC 255

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
 * Option batch_size: a whole number in bounds.
 */
static void
check_batch_size(const JsonbValue *value)
{
	static const char *const hint = "It is a whole number from 1 to %d.";
	Numeric		number = value->type == jbvNumeric ? value->val.numeric : NULL;
	Datum		low = DirectFunctionCall1(int4_numeric, Int32GetDatum(1));
	Datum		high = DirectFunctionCall1(int4_numeric, Int32GetDatum(OI_SINK_MAX_EVENTS));

	if (number == NULL ||
		DatumGetBool(DirectFunctionCall2(numeric_lt, NumericGetDatum(number), low)) ||
		DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(number), high)) ||
		!DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(number),
										  DirectFunctionCall1(numeric_floor,
															  NumericGetDatum(number)))))
		report_bad_option("batch_size", psprintf(hint, OI_SINK_MAX_EVENTS));
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
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(key.val.string.val, key.val.string.len);
		(void) JsonbIteratorNext(&it, &value, true);
		if (strcmp(name, "batch_size") == 0)
			check_batch_size(&value);
		else if (strcmp(name, "from") == 0)
			*from_start = option_from(&value);
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown subscription option \"%s\"", name),
					 errhint("Valid options are: batch_size, from.")));
	}
}

/*
 * A topic: of characters that mean nothing to any receiver, and for the sink
 * "file" the name of a file.
 */
void
oi_check_topic(const char *sink, const char *topic)
{
	bool		is_file = strcmp(sink, "file") == 0;

	if (strlen(topic) > MAX_TOPIC)
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_RIGHT_TRUNCATION),
				 errmsg("topic is too long"),
				 errdetail("It may have up to %d bytes.", MAX_TOPIC)));
	if (topic[0] == '\0' ||
		strspn(topic, LOWER UPPER DIGITS "._-/") != strlen(topic))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid topic \"%s\"", topic),
				 errhint("Use letters, digits, \".\", \"_\", \"-\" and \"/\".")));
	if (is_file && (topic[0] == '.' || strchr(topic, '/') != NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid topic \"%s\"", topic),
				 errdetail("For a file it is a file name, without \"/\" and not beginning with \".\".")));
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
