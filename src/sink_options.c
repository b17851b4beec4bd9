/*-------------------------------------------------------------------------
 *
 * sink_options.c
 *		Validators of the sinks' foreign-data wrappers.
 *
 * Each sink has a list of the options that its servers and user mappings may
 * have; nothing else is accepted.  Secrets belong into user mappings, which
 * only their user and the server's owner can read.  No error repeats a value of
 * those.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "order_sink.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

/* bounds of sizes */
#define LEAST_BYTES INT64CONST(1024)
#define MOST_BYTES (INT64CONST(1) << 40)

/* what the value of an option has to be */
typedef enum Kind
{
	KIND_BOOLEAN,
	KIND_INTEGER,				/* from least to most */
	KIND_NETWORKS,				/* addresses or networks, comma-separated */
	KIND_SIZE,					/* in bytes, or with a unit */
	KIND_READABLE_FILE,			/* absolute; takes pg_read_server_files */
	KIND_WRITABLE_DIRECTORY,	/* absolute; takes pg_write_server_files */
	KIND_HEADER_TEXT,			/* what may stand in a header line */
	KIND_HTTP_URL,
	KIND_WEBHOOK_SECRET
} Kind;

typedef struct SinkOption
{
	const char *name;			/* NULL ends a list */
	Kind		kind;
	bool		user;			/* of a user mapping, else of a server */
	bool		required;
	int			least;
	int			most;
} SinkOption;

static const SinkOption file_options[] = {
	{.name = "fsync",.kind = KIND_BOOLEAN},
	{.name = "path",.kind = KIND_WRITABLE_DIRECTORY,.required = true},
	{.name = "rotate_size",.kind = KIND_SIZE},
	{.name = NULL}
};

static const SinkOption http_options[] = {
	{.name = "allow_addresses",.kind = KIND_NETWORKS},
	{.name = "ca_file",.kind = KIND_READABLE_FILE},
	{.name = "max_in_flight",.kind = KIND_INTEGER,.least = 1,.most = 256},
	{.name = "timeout",.kind = KIND_INTEGER,.least = 100,.most = 25000},
	{.name = "url",.kind = KIND_HTTP_URL,.required = true},
	{.name = "secret",.kind = KIND_WEBHOOK_SECRET,.user = true},
	{.name = "token",.kind = KIND_HEADER_TEXT,.user = true},
	{.name = NULL}
};

PG_FUNCTION_INFO_V1(oi_file_sink_validator);
PG_FUNCTION_INFO_V1(oi_http_sink_validator);

/*
 * The networks in a comma-separated list of addresses and networks, in the
 * current context.  Raises an error for what is none.
 */
inet **
oi_sink_networks(const char *list, int *n)
{
	char	   *copy = pstrdup(list);
	char	   *state = NULL;
	inet	  **networks = palloc(sizeof(inet *) * (strlen(list) / 2 + 1));

	*n = 0;
	for (char *word = strtok_r(copy, ", ", &state); word; word = strtok_r(NULL, ", ", &state))
		networks[(*n)++] = DatumGetInetPP(DirectFunctionCall1(inet_in, CStringGetDatum(word)));
	pfree(copy);

	return networks;
}

/*
 * How many bytes a size is: a number, and a unit as in the server's settings.
 * False: it is no size.
 */
bool
oi_sink_bytes(const char *size, int64 *bytes)
{
	double		value;

	if (!parse_real(size, &value, GUC_UNIT_BYTE, NULL) || value < 0 || value > MOST_BYTES)
		return false;
	*bytes = (int64) value;
	return true;
}

/*
 * Raise the error of a value that is not acceptable.
 */
static void
report_value(const char *name, const char *must)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("option \"%s\" must be %s", name, must)));
}

/*
 * A path says what the server's operating system user reads or writes, so not
 * everyone may set it.
 */
static void
check_path(const char *name, const char *path, Oid role, const char *role_name, const char *what)
{
	if (!has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", name),
				 errhint("It takes the privileges of role %s.", role_name)));
	if (!is_absolute_path(path))
		report_value(name, what);
}

/*
 * A URL with nothing in it but scheme, host and path: what a user name, a query
 * or a fragment would mean is not for a server to say.
 */
static void
check_http_url(const char *name, const char *url)
{
	size_t		scheme = pg_strncasecmp(url, "https://", 8) == 0 ? 8 :
	pg_strncasecmp(url, "http://", 7) == 0 ? 7 : 0;

	if (scheme == 0 || url[scheme] == '\0' || url[scheme] == '/')
		report_value(name, "a URL that begins with http:// or https:// and names a host");
	for (const char *at = url; *at != '\0'; at++)
		if (*at <= ' ' || *at > '~' || strchr("@?#\"<>\\^`{|}", *at) != NULL)
			report_value(name, "a URL without user name, query, fragment, spaces and control characters");
}

/*
 * An integer within its bounds.
 */
static void
check_integer(const SinkOption *option, const char *value)
{
	int64		number;
	char	   *end;

	errno = 0;
	number = strtoi64(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' ||
		number < option->least || number > option->most)
		report_value(option->name, psprintf("a whole number from %d to %d",
											option->least, option->most));
}

/*
 * A secret of Standard Webhooks: base64, with or without its prefix.
 */
static void
check_webhook_secret(const char *name, const char *value)
{
	const char *text = strncmp(value, "whsec_", 6) == 0 ? value + 6 : value;
	size_t		len = strlen(text);

	if (len < 32 || len > 128 || len % 4 != 0 ||
		strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") != len)
		report_value(name, "\"whsec_\" and 24 to 64 bytes in base64");
}

/*
 * Is the value of an option acceptable?
 */
static void
check_value(const SinkOption *option, DefElem *given)
{
	const char *value = defGetString(given);
	int64		bytes;
	int			n;

	switch (option->kind)
	{
		case KIND_BOOLEAN:
			(void) defGetBoolean(given);
			break;
		case KIND_INTEGER:
			check_integer(option, value);
			break;
		case KIND_NETWORKS:
			(void) oi_sink_networks(value, &n);
			if (n == 0)
				report_value(option->name, "a list of addresses or networks");
			break;
		case KIND_SIZE:
			if (!oi_sink_bytes(value, &bytes) || bytes < LEAST_BYTES)
				report_value(option->name, "a size from 1kB to 1TB");
			break;
		case KIND_READABLE_FILE:
			check_path(option->name, value, ROLE_PG_READ_SERVER_FILES, "pg_read_server_files",
					   "the absolute path of a file");
			break;
		case KIND_WRITABLE_DIRECTORY:
			check_path(option->name, value, ROLE_PG_WRITE_SERVER_FILES, "pg_write_server_files",
					   "the absolute path of a directory");
			break;
		case KIND_HEADER_TEXT:
			for (const char *at = value; *at != '\0'; at++)
				if (*at < '!' || *at > '~')
					report_value(option->name, "of visible ASCII characters");
			if (value[0] == '\0')
				report_value(option->name, "of visible ASCII characters");
			break;
		case KIND_HTTP_URL:
			check_http_url(option->name, value);
			break;
		case KIND_WEBHOOK_SECRET:
			check_webhook_secret(option->name, value);
			break;
	}
}

/*
 * The names of the options that there are in a context, for a hint.
 */
static char *
names_of(const SinkOption *options, bool user)
{
	StringInfoData names;

	initStringInfo(&names);
	for (; options->name != NULL; options++)
		if (options->user == user)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", options->name);
	return names.data;
}

/*
 * The option of a name, or an error.
 */
static const SinkOption *
find_option(const SinkOption *options, const char *name, Oid catalog)
{
	bool		user = catalog == UserMappingRelationId;
	char	   *names;

	for (const SinkOption *option = options; option->name != NULL; option++)
		if (strcmp(option->name, name) == 0 && option->user == user &&
			(user || catalog == ForeignServerRelationId))
			return option;

	names = user || catalog == ForeignServerRelationId ? names_of(options, user) : "";
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 names[0] == '\0' ? errhint("There are no valid options in this context.") :
			 errhint("Valid options in this context are: %s.", names)));
	pg_unreachable();
}

/*
 * What all validators do: (options text[], catalog oid).
 */
static Datum
validate(FunctionCallInfo fcinfo, const SinkOption *options, const char *sink)
{
	List	   *given = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *lc;

	foreach(lc, given)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		check_value(find_option(options, def->defname, catalog), def);
	}
	for (const SinkOption *option = options; option->name != NULL; option++)
		if (option->required && catalog == ForeignServerRelationId &&
			oi_sink_option(given, option->name) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_DYNAMIC_PARAMETER_VALUE_NEEDED),
					 errmsg("option \"%s\" is required for a %s server",
							option->name, sink)));

	PG_RETURN_VOID();
}

/*
 * Validator of order_idempotency_file.
 */
Datum
oi_file_sink_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, file_options, "file");
}

/*
 * Validator of order_idempotency_http.
 */
Datum
oi_http_sink_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, http_options, "http");
}
