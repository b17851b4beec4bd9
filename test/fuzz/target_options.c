/*
 * target_options.c
 *		Values of options of servers and user mappings: what is accepted is what it says it is.
 *
 * An input is a byte for the kind of option, and the value.
 */
#include "server.h"

#include "catalog/pg_authid.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "http_signature.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "sink_option_value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inet.h"

static bool privileged;

/* -- what the server knows ---------------------------------------------------- */

Oid
GetUserId(void)
{
	return 10;
}

bool
has_privs_of_role(Oid member, Oid role)
{
	return privileged;
}

char *
defGetString(DefElem *def)
{
	return strVal(def->arg);
}

bool
defGetBoolean(DefElem *def)
{
	return true;
}

bool
parse_real(const char *value, double *result, int flags, const char **hint)
{
	char	   *end;

	*result = strtod(value, &end);
	return end != value && *end == '\0';
}

Datum
inet_in(PG_FUNCTION_ARGS)
{
	return PG_GETARG_DATUM(0);
}

Datum
DirectFunctionCall1Coll(PGFunction func, Oid collation, Datum arg)
{
	return arg;
}

struct varlena *
pg_detoast_datum_packed(struct varlena *datum)
{
	return datum;
}

/* -- what holds of a value that was accepted ------------------------------------ */

static void
check_accepted(const OiSinkOption *option, const char *value)
{
	switch (option->kind)
	{
		case OI_KIND_HTTP_URL:
			FUZZ_CHECK(strpbrk(value, "@?#\\ \t\r\n") == NULL);
			FUZZ_CHECK(pg_strncasecmp(value, "http://", 7) == 0 || pg_strncasecmp(value, "https://", 8) == 0);
			break;
		case OI_KIND_HOST:
			FUZZ_CHECK(value[0] != '\0' && value[0] != '-' && strpbrk(value, "/@?#\\ \t\r\n,;%") == NULL);
			break;
		case OI_KIND_HOSTS:
			FUZZ_CHECK(value[0] != '\0' && strpbrk(value, "/@?#\\ \t\r\n;%") == NULL);
			break;
		case OI_KIND_NATS_URLS:
			FUZZ_CHECK(value[0] != '\0' && strpbrk(value, "@?#\\ \t\r\n;%") == NULL);
			break;
		case OI_KIND_HOST_OR_SOCKET:
			FUZZ_CHECK(value[0] == '/' ? privileged && strlen(value) <= 107 : strpbrk(value, "/@ \r\n") == NULL);
			break;
		case OI_KIND_NAME:
			FUZZ_CHECK(value[0] != '\0' && strlen(value) <= 127 && strpbrk(value, "*>#$ \t\r\n\"\\{}") == NULL);
			break;
		case OI_KIND_READABLE_FILE:
		case OI_KIND_WRITABLE_DIRECTORY:
			FUZZ_CHECK(privileged && value[0] == '/');
			break;
		case OI_KIND_HEADER_TEXT:
		case OI_KIND_SECRET:
			FUZZ_CHECK(value[0] != '\0' && strpbrk(value, "\r\n\t") == NULL);
			break;
		case OI_KIND_INTEGER:
			FUZZ_CHECK(strtoll(value, NULL, 10) >= option->least && strtoll(value, NULL, 10) <= option->most);
			break;
		case OI_KIND_CHOICE:
			FUZZ_CHECK(strcmp(value, "none") == 0 || strcmp(value, "gzip") == 0 || strcmp(value, "zstd") == 0);
			break;
		default:
			break;
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	OiSinkOption option = {.name = "x",.least = -5,.most = 65535,.choices = "none,gzip,zstd"};
	DefElem		given = {.type = T_DefElem,.defname = "x"};
	String		string = {.type = T_String};
	const char *value;
	size_t		rest = size;

	if (size < 1)
		return 0;
	option.kind = data[0] % (OI_KIND_WRITABLE_DIRECTORY + 1);
	privileged = (data[0] & 0x80) != 0;
	data++;
	rest--;
	string.sval = fuzz_word(&data, &rest);
	value = string.sval;
	given.arg = (Node *) &string;
	if (FUZZ_TRY())
	{
		oi_check_option_value(&option, &given);
		check_accepted(&option, value);
		if (option.kind == OI_KIND_WEBHOOK_SECRET)
			(void) http_secret_parse(value);
	}
	else if (option.kind == OI_KIND_SECRET || option.kind == OI_KIND_HEADER_TEXT || option.kind == OI_KIND_WEBHOOK_SECRET)
		FUZZ_CHECK(strlen(value) < 24 || strstr(fuzz_message, value) == NULL);
	fuzz_free_all();
	return 0;
}
