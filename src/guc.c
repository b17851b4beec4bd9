/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Settings, order_idempotency.*.
 *
 * docs/reference.md has the table for users.  In alphabetical order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "common/jsonapi.h"
#include "compat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "guc.h"

char	   *oi_environment = NULL;
char	   *oi_headers = NULL;
int			oi_hot_keys = OI_HOT_KEYS_PLAIN;
int			oi_in_flight_wait = 5000;
int			oi_key_retention = 7 * 24 * 60 * 60;
int			oi_log_duplicates = 0;
int			oi_max_payload = 1024 * 1024;
int			oi_max_retained = 0;
int			oi_max_subscriptions = 64;
int			oi_on_full = OI_ON_FULL_REFUSE;
int			oi_outbox_retention = 24 * 60 * 60;
int			oi_pay_within = 0;
int			oi_poll_interval = 1000;
bool		oi_publish = true;

static const struct config_enum_entry hot_keys_options[] = {
	{"off", OI_HOT_KEYS_OFF, false},
	{"hash", OI_HOT_KEYS_HASH, false},
	{"plain", OI_HOT_KEYS_PLAIN, false},
	{NULL, 0, false}
};

static const struct config_enum_entry on_full_options[] = {
	{"refuse", OI_ON_FULL_REFUSE, false},
	{"invalidate", OI_ON_FULL_INVALIDATE, false},
	{NULL, 0, false}
};

/* what the check of setting headers has seen */
typedef struct HeadersCheck
{
	int			depth;
	bool		good;
} HeadersCheck;

/* An object: fine at the top only. */
static OiJsonResult
headers_object(void *state)
{
	HeadersCheck *check = state;

	check->good &= check->depth++ == 0;
	OI_JSON_GO_ON();
}

/* An array: never. */
static OiJsonResult
headers_array(void *state)
{
	((HeadersCheck *) state)->good = false;
	OI_JSON_GO_ON();
}

/* Any other value: fine as a string inside. */
static OiJsonResult
headers_scalar(void *state, char *token, JsonTokenType type)
{
	HeadersCheck *check = state;

	check->good &= check->depth == 1 && type == JSON_TOKEN_STRING;
	OI_JSON_GO_ON();
}

/* Is the setting empty, or a JSON object of strings? */
static bool
check_headers_setting(char **newval, void **extra, GucSource source)
{
	HeadersCheck check = {.depth = 0,.good = true};
	JsonSemAction action = {
		.semstate = &check,.object_start = headers_object,
		.array_start = headers_array,.scalar = headers_scalar
	};
	JsonLexContext *lex;

	if ((*newval)[0] == '\0')
		return true;
	lex = oi_compat_json_lexer(*newval);
	if (pg_parse_json(lex, &action) == JSON_SUCCESS && check.good)
		return true;
	GUC_check_errdetail("It must be a JSON object of strings.");
	GUC_check_errhint("For example {\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}.");
	return false;
}

/* Settings that only exist where the library is loaded with the server. */
static void
define_postmaster_settings(void)
{
	DefineCustomIntVariable("order_idempotency.max_subscriptions",
							"Sets how many subscriptions the server can have workers for, in all databases together.",
							NULL, &oi_max_subscriptions,
							64, 1, 1024, PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
}

/* Called once, when the library is loaded. */
void
oi_guc_init(void)
{
	DefineCustomStringVariable("order_idempotency.environment",
							   "Names the environment of this server, such as production.",
							   "A subscription that was made in another one is disarmed.  To be kept outside of the data directory.",
							   &oi_environment, "", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("order_idempotency.headers",
							   "Headers of events whose call gives none, as a JSON object of strings.",
							   "For example {\"traceparent\": \"00-...\"}.  Empty: no headers.",
							   &oi_headers, "", PGC_USERSET, 0,
							   check_headers_setting, NULL, NULL);
	DefineCustomEnumVariable("order_idempotency.hot_keys",
							 "Sets how the most retried keys are shown to monitoring.",
							 "plain: as they are.  hash: half of their SHA-256, in log_duplicates too.  off: not at all.",
							 &oi_hot_keys, OI_HOT_KEYS_PLAIN, hot_keys_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.in_flight_wait",
							"Sets how long a call waits for another transaction that holds the same key.",
							"0: not at all.  -1: without limit.",
							&oi_in_flight_wait, 5000, -1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.key_retention",
							"Sets how long claims are kept at least.",
							"No lease may be longer.",
							&oi_key_retention, 7 * 24 * 60 * 60, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.log_duplicates",
							"Sets how many duplicate calls a second are logged at most, by the whole server.",
							"0: none.",
							&oi_log_duplicates, 0, 0, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.max_payload",
							"Sets the largest payload, response or headers object, as stored.",
							NULL, &oi_max_payload,
							1024 * 1024, 1024, 256 * 1024 * 1024,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.max_retained",
							"Sets how large the log of events may grow because subscriptions have not delivered it.",
							"0: without limit.  on_full says what happens then.",
							&oi_max_retained, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_KB, NULL, NULL, NULL);
	if (process_shared_preload_libraries_in_progress)
		define_postmaster_settings();
	DefineCustomEnumVariable("order_idempotency.on_full",
							 "Sets what happens when the log is larger than max_retained.",
							 "refuse: no more events are written.  invalidate: the subscriptions that hold it lose what they have not delivered.",
							 &oi_on_full, OI_ON_FULL_REFUSE, on_full_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.outbox_retention",
							"Sets how long events are kept at least.",
							"Those that a subscription has not delivered are kept in any case.",
							&oi_outbox_retention, 24 * 60 * 60, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.pay_within",
							"Sets the time within which an order has to leave its initial state, where create_order is not told.",
							"0: any time.",
							&oi_pay_within, 0, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("order_idempotency.poll_interval",
							"Sets how often an idle worker looks for events that nobody woke it for.",
							NULL, &oi_poll_interval, 1000, 10, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("order_idempotency.publish",
							 "Lets the workers of this server deliver events.",
							 NULL, &oi_publish, true, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("order_idempotency");
}
