/*
 * target_event.c
 *		Events as lines of JSON and as header lines: whatever is in types, keys and headers, a line is
 *		one JSON object, and a header is one header.
 *
 * An input is a type, a key, and names and values of headers.
 */
#include "server.h"

#include "order_sink.h"
#include "fmgr.h"
#include "shared_headers.h"
#include "utf8.h"
#include "pgtime.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#define MAX_HEADERS 8

/* -- what the server knows ---------------------------------------------------- */

char *
oi_utf8_from_server(const char *text, int len)
{
	return pstrdup(text);
}

int
timestamp2tm(Timestamp at, int *tzp, struct pg_tm *tm, fsec_t *fsec, const char **tzn, pg_tz *zone)
{
	memset(tm, 0, sizeof(*tm));
	*fsec = 0;
	return 0;
}

/* payloads are given as text here */
JsonbIterator *
JsonbIteratorInit(JsonbContainer *container)
{
	abort();
}

JsonbIteratorToken
JsonbIteratorNext(JsonbIterator **it, JsonbValue *value, bool skip)
{
	abort();
}

Datum
numeric_out(PG_FUNCTION_ARGS)
{
	abort();
}

Datum
DirectFunctionCall1Coll(PGFunction func, Oid collation, Datum arg)
{
	abort();
}

/* -- a reader of an object of strings ------------------------------------------- */

/* The end of a string that begins here, or NULL. */
static const char *
string_end(const char *at)
{
	if (*at++ != '"')
		return NULL;
	for (; *at != '"'; at++)
	{
		if ((unsigned char) *at < ' ')
			return NULL;
		if (*at == '\\' && (*++at == '\0'))
			return NULL;
	}
	return at + 1;
}

/* Is a line an object of strings, with the data in its last member? */
static bool
is_event(const char *at)
{
	if (*at++ != '{')
		return false;
	for (;;)
	{
		const char *name = at;

		if ((at = string_end(at)) == NULL || *at++ != ':')
			return false;
		if (strncmp(name, "\"data\":", 7) == 0)
			return strcmp(at, "{\"n\":1}}") == 0;
		if ((at = string_end(at)) == NULL)
			return false;
		if (*at == '}')
			return at[1] == '\0';
		if (*at++ != ',')
			return false;
	}
}

/* How often has a line a member of this name? */
static int
times(const char *line, const char *name)
{
	int			n = 0;

	for (const char *at = line + 1; at != NULL && *at != '\0';)
	{
		const char *end = string_end(at);

		if (end == NULL)
			break;
		n += strncmp(at + 1, name, strlen(name)) == 0 && at[1 + strlen(name)] == '"';
		if (strncmp(at, "\"data\":", 7) == 0 || (at = string_end(end + 1)) == NULL || *at++ != ',')
			break;
	}
	return n;
}

static void
check_header(const char *value)
{
	StringInfoData line;

	initStringInfo(&line);
	oi_headers_append_value(&line, value);
	for (int i = 0; i < line.len; i++)
		FUZZ_CHECK(line.data[i] > 0x20 && line.data[i] < 0x7f && line.data[i] != '"');
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	OiSinkState state = {0};
	OiSinkEvent event = {0};
	OiSinkHeader headers[MAX_HEADERS];
	StringInfoData line;

	state.source = oi_cloudevent_source(fuzz_word(&data, &size));
	FUZZ_CHECK(strpbrk(state.source, "\" \r\n?#") == NULL);
	event.event_id_text = "018f3f2e-7b5a-7000-8000-000000000001";
	event.type = fuzz_word(&data, &size);
	event.key = fuzz_word(&data, &size);
	event.payload = size % 2 ? "{\"n\":1}" : NULL;
	event.headers = headers;
	while (size > 0 && event.nheaders < MAX_HEADERS)
	{
		/* names are told apart by jsonb */
		headers[event.nheaders].name = psprintf("%s%d", fuzz_word(&data, &size), event.nheaders);
		if (strlen(headers[event.nheaders].name) > 5 && strncmp(headers[event.nheaders].name, "bare_", 5) == 0)
			headers[event.nheaders].name += 5;
		headers[event.nheaders].value = fuzz_word(&data, &size);
		check_header(headers[event.nheaders].value);
		event.nheaders++;
	}
	initStringInfo(&line);
	oi_cloudevent_append(&line, &state, &event);
	FUZZ_CHECK((int) strlen(line.data) == line.len);
	FUZZ_CHECK(is_event(line.data));
	FUZZ_CHECK(strncmp(line.data, "{\"specversion\":\"1.0\",\"id\":\"018f3f2e-7b5a-7000-8000-000000000001\"", 64) == 0);
	FUZZ_CHECK(times(line.data, "id") == 1 && times(line.data, "type") == 1 && times(line.data, "data") <= 1 &&
			   times(line.data, "subject") == 1 && times(line.data, "specversion") == 1);
	fuzz_free_all();
	return 0;
}
