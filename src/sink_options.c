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
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "fmgr.h"
#include "order_sink.h"
#include "sink_option_value.h"
#include "utils/builtins.h"

static const OiSinkOption file_options[] = {
	{.name = "fsync",.kind = OI_KIND_BOOLEAN},
	{.name = "path",.kind = OI_KIND_WRITABLE_DIRECTORY,.required = true},
	{.name = "rotate_size",.kind = OI_KIND_SIZE},
	{.name = NULL}
};

static const OiSinkOption http_options[] = {
	{.name = "allow_addresses",.kind = OI_KIND_NETWORKS},
	{.name = "ca_file",.kind = OI_KIND_READABLE_FILE},
	{.name = "max_in_flight",.kind = OI_KIND_INTEGER,.least = 1,.most = 256},
	{.name = "timeout",.kind = OI_KIND_INTEGER,.least = 100,.most = 25000},
	{.name = "url",.kind = OI_KIND_HTTP_URL,.required = true},
	{.name = "secret",.kind = OI_KIND_WEBHOOK_SECRET,.user = true},
	{.name = "token",.kind = OI_KIND_HEADER_TEXT,.user = true},
	{.name = NULL}
};

/* what sinks that use OpenSSL through their library have in common */
#define TLS_FILES \
	{.name = "ca_file",.kind = OI_KIND_READABLE_FILE}, \
	{.name = "cert_file",.kind = OI_KIND_READABLE_FILE}, \
	{.name = "key_file",.kind = OI_KIND_READABLE_FILE}

static const OiSinkOption kafka_options[] = {
	{.name = "allow_addresses",.kind = OI_KIND_NETWORKS},
	{.name = "batch.size",.kind = OI_KIND_INTEGER,.least = 1,.most = 8 * 1024 * 1024},
	{.name = "bootstrap.servers",.kind = OI_KIND_HOSTS,.required = true},
	{.name = "client.id",.kind = OI_KIND_NAME},
	{.name = "compression.type",.kind = OI_KIND_CHOICE,.choices = "none,gzip,snappy,lz4,zstd"},
	{.name = "exactly_once",.kind = OI_KIND_BOOLEAN},
	{.name = "linger.ms",.kind = OI_KIND_INTEGER,.least = 0,.most = 1000},
	{.name = "message.max.bytes",.kind = OI_KIND_INTEGER,.least = 1000,.most = 1000000000},
	{.name = "partitioner",.kind = OI_KIND_CHOICE,.choices = "murmur2_random,consistent_random,fnv1a_random"},
	{.name = "sasl.mechanism",.kind = OI_KIND_CHOICE,.choices = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"},
	{.name = "security.protocol",.kind = OI_KIND_CHOICE,.choices = "plaintext,ssl,sasl_plaintext,sasl_ssl"},
	{.name = "socket.timeout.ms",.kind = OI_KIND_INTEGER,.least = 1000,.most = 25000},
	{.name = "ssl.ca.location",.kind = OI_KIND_READABLE_FILE},
	{.name = "ssl.certificate.location",.kind = OI_KIND_READABLE_FILE},
	{.name = "ssl.key.location",.kind = OI_KIND_READABLE_FILE},
	{.name = "state_topic",.kind = OI_KIND_NAME},
	{.name = "transaction.timeout.ms",.kind = OI_KIND_INTEGER,.least = 10000,.most = 900000},
	{.name = "sasl.password",.kind = OI_KIND_SECRET,.user = true},
	{.name = "sasl.username",.kind = OI_KIND_SECRET,.user = true},
	{.name = "ssl.key.password",.kind = OI_KIND_SECRET,.user = true},
	{.name = NULL}
};

static const OiSinkOption nats_options[] = {
	{.name = "allow_addresses",.kind = OI_KIND_NETWORKS},
	TLS_FILES,
	{.name = "max_in_flight",.kind = OI_KIND_INTEGER,.least = 1,.most = 4000},
	{.name = "stream",.kind = OI_KIND_NAME},
	{.name = "timeout",.kind = OI_KIND_INTEGER,.least = 100,.most = 25000},
	{.name = "url",.kind = OI_KIND_NATS_URLS,.required = true},
	{.name = "jwt",.kind = OI_KIND_SECRET,.user = true},
	{.name = "nkey",.kind = OI_KIND_HEADER_TEXT,.user = true},
	{.name = "nkey_seed",.kind = OI_KIND_HEADER_TEXT,.user = true},
	{.name = "password",.kind = OI_KIND_SECRET,.user = true},
	{.name = "token",.kind = OI_KIND_SECRET,.user = true},
	{.name = "user",.kind = OI_KIND_SECRET,.user = true},
	{.name = NULL}
};

static const OiSinkOption rabbitmq_options[] = {
	{.name = "allow_addresses",.kind = OI_KIND_NETWORKS},
	TLS_FILES,
	{.name = "auth",.kind = OI_KIND_CHOICE,.choices = "plain,external"},
	{.name = "exchange",.kind = OI_KIND_NAME},
	{.name = "heartbeat",.kind = OI_KIND_INTEGER,.least = 1,.most = 600},
	{.name = "host",.kind = OI_KIND_HOST,.required = true},
	{.name = "max_in_flight",.kind = OI_KIND_INTEGER,.least = 1,.most = 5000},
	{.name = "port",.kind = OI_KIND_INTEGER,.least = 1,.most = 65535},
	{.name = "timeout",.kind = OI_KIND_INTEGER,.least = 100,.most = 25000},
	{.name = "tls",.kind = OI_KIND_BOOLEAN},
	{.name = "virtual_host",.kind = OI_KIND_NAME},
	{.name = "password",.kind = OI_KIND_SECRET,.user = true},
	{.name = "user",.kind = OI_KIND_SECRET,.user = true},
	{.name = NULL}
};

static const OiSinkOption redis_options[] = {
	{.name = "allow_addresses",.kind = OI_KIND_NETWORKS},
	{.name = "database",.kind = OI_KIND_INTEGER,.least = 0,.most = 65535},
	{.name = "host",.kind = OI_KIND_HOST_OR_SOCKET,.required = true},
	{.name = "max_in_flight",.kind = OI_KIND_INTEGER,.least = 1,.most = 5000},
	{.name = "maxlen",.kind = OI_KIND_INTEGER,.least = 1,.most = PG_INT32_MAX},
	{.name = "port",.kind = OI_KIND_INTEGER,.least = 1,.most = 65535},
	{.name = "timeout",.kind = OI_KIND_INTEGER,.least = 100,.most = 25000},
	{.name = "wait_replicas",.kind = OI_KIND_INTEGER,.least = 1,.most = 100},
	{.name = "wait_timeout",.kind = OI_KIND_INTEGER,.least = 1,.most = 25000},
	{.name = "password",.kind = OI_KIND_SECRET,.user = true},
	{.name = "user",.kind = OI_KIND_SECRET,.user = true},
	{.name = NULL}
};

PG_FUNCTION_INFO_V1(oi_file_sink_validator);
PG_FUNCTION_INFO_V1(oi_http_sink_validator);
PG_FUNCTION_INFO_V1(oi_kafka_sink_validator);
PG_FUNCTION_INFO_V1(oi_nats_sink_validator);
PG_FUNCTION_INFO_V1(oi_rabbitmq_sink_validator);
PG_FUNCTION_INFO_V1(oi_redis_sink_validator);

/*
 * The names of the options that there are in a context, for a hint.
 */
static char *
names_of(const OiSinkOption *options, bool user)
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
static const OiSinkOption *
find_option(const OiSinkOption *options, const char *name, Oid catalog)
{
	bool		user = catalog == UserMappingRelationId;
	char	   *names;

	for (const OiSinkOption *option = options; option->name != NULL; option++)
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
validate(FunctionCallInfo fcinfo, const OiSinkOption *options, const char *sink)
{
	List	   *given = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	ListCell   *lc;

	foreach(lc, given)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		oi_check_option_value(find_option(options, def->defname, catalog), def);
	}
	for (const OiSinkOption *option = options; option->name != NULL; option++)
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

/*
 * Validator of order_idempotency_kafka.
 */
Datum
oi_kafka_sink_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, kafka_options, "kafka");
}

/*
 * Validator of order_idempotency_nats.
 */
Datum
oi_nats_sink_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, nats_options, "nats");
}

/*
 * Validator of order_idempotency_rabbitmq.
 */
Datum
oi_rabbitmq_sink_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, rabbitmq_options, "rabbitmq");
}

/*
 * Validator of order_idempotency_redis.
 */
Datum
oi_redis_sink_validator(PG_FUNCTION_ARGS)
{
	return validate(fcinfo, redis_options, "redis");
}
