/*-------------------------------------------------------------------------
 *
 * cloudevent.c
 *		Events as CloudEvents 1.0, for sinks.
 *
 * Attributes: id is the event's id, source names the database, subject and
 * partitionkey are the key, sequence is the position in the log.  Headers
 * become attributes of their own where their names are attribute names and
 * are not taken, which those of W3C trace context are.  Sinks send them as
 * headers of their protocol (binary mode), or with the data as one JSON
 * object (structured mode).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "jsonb_text.h"
#include "order_sink.h"
#include "utf8.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* of a time as RFC 3339 has it, with a year of four digits */
#define RFC3339_SIZE sizeof("2026-01-01T00:00:00.000000Z")

/* attributes that every event can have */
#define FIXED_ATTRIBUTES 9

#define ATTRIBUTE_CHARS "abcdefghijklmnopqrstuvwxyz0123456789"

/* attributes that a header must not take the place of */
static const char *const reserved[] = {
	"data", "datacontenttype", "dataschema", "id", "partitionkey",
	"sequence", "sequencetype", "source", "specversion", "subject", "time", "type"
};

/*
 * The source of a database's events: a relative URI, escaped as one.  Runs in a
 * transaction.
 */
char *
oi_cloudevent_source(const char *database)
{
	StringInfoData out;
	char	   *utf8 = oi_utf8_from_server(database, strlen(database));

	initStringInfo(&out);
	appendStringInfoString(&out, "/order_idempotency/");
	for (const char *at = utf8; *at != '\0'; at++)
	{
		if ((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
			(*at >= '0' && *at <= '9') || strchr("-._~", *at) != NULL)
			appendStringInfoChar(&out, *at);
		else
			appendStringInfo(&out, "%%%02X", (unsigned char) *at);
	}
	return out.data;
}

/*
 * Write a number with as many digits as are asked for, and a character behind it.
 * Returns where that ends.
 */
static char *
write_digits(char *at, int number, int digits, char behind)
{
	for (int i = digits - 1; i >= 0; i--)
	{
		at[i] = '0' + number % 10;
		number /= 10;
	}
	at[digits] = behind;
	return at + digits + 1;
}

/*
 * A time as RFC 3339 has it, in UTC.  Every event has one, so it is not made by
 * printf.
 */
static char *
rfc3339(TimestampTz time)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char	   *text;
	char	   *at;

	if (TIMESTAMP_NOT_FINITE(time) || timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	if (tm.tm_year < 0 || tm.tm_year > 9999)
		return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
						tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min,
						tm.tm_sec, fsec);
	at = text = palloc(RFC3339_SIZE);

	at = write_digits(at, tm.tm_year, 4, '-');
	at = write_digits(at, tm.tm_mon, 2, '-');
	at = write_digits(at, tm.tm_mday, 2, 'T');
	at = write_digits(at, tm.tm_hour, 2, ':');
	at = write_digits(at, tm.tm_min, 2, ':');
	at = write_digits(at, tm.tm_sec, 2, '.');
	at = write_digits(at, fsec, 6, 'Z');
	*at = '\0';
	return text;
}

/*
 * A number as text.
 */
static char *
number_text(int64 number)
{
	char	   *text = palloc(MAXINT8LEN + 1);

	(void) pg_lltoa(number, text);
	return text;
}

/*
 * Can a header become an attribute?
 */
static bool
is_attribute(const char *name)
{
	for (int i = 0; i < (int) lengthof(reserved); i++)
		if (strcmp(reserved[i], name) == 0)
			return false;
	return name[0] != '\0' && strspn(name, ATTRIBUTE_CHARS) == strlen(name);
}

/*
 * The attributes of an event, specversion and id first, in memory of the
 * current context; *n is set to how many.  The data is not among them.
 */
OiSinkHeader *
oi_cloudevent_attributes(const OiSinkState *state, const OiSinkEvent *event, int *n)
{
	OiSinkHeader *attributes = palloc(sizeof(OiSinkHeader) * (event->nheaders + FIXED_ATTRIBUTES));
	int			at = 0;

	attributes[at++] = (OiSinkHeader)
	{
		"specversion", "1.0"
	};
	attributes[at++] = (OiSinkHeader)
	{
		"id", event->event_id_text
	};
	attributes[at++] = (OiSinkHeader)
	{
		"source", state->source
	};
	attributes[at++] = (OiSinkHeader)
	{
		"type", event->type
	};
	attributes[at++] = (OiSinkHeader)
	{
		"subject", event->key
	};
	attributes[at++] = (OiSinkHeader)
	{
		"time", rfc3339(event->created_at)
	};
	attributes[at++] = (OiSinkHeader)
	{
		"partitionkey", event->key
	};
	attributes[at++] = (OiSinkHeader)
	{
		"sequence", number_text(event->position)
	};
	for (int i = 0; i < event->nheaders; i++)
		if (is_attribute(event->headers[i].name))
			attributes[at++] = event->headers[i];
	if (event->payload != NULL)
		attributes[at++] = (OiSinkHeader)
	{
		"datacontenttype", "application/json"
	};
	Assert(at <= event->nheaders + FIXED_ATTRIBUTES);
	*n = at;

	return attributes;
}

/*
 * Append an event as a line of JSON, without the newline.  It begins with
 * specversion and id, so that a reader need not parse the rest to know which
 * event it is.
 */
void
oi_cloudevent_append(StringInfo buf, const OiSinkState *state, const OiSinkEvent *event)
{
	int			n;
	OiSinkHeader *attributes = oi_cloudevent_attributes(state, event, &n);

	for (int i = 0; i < n; i++)
	{
		appendStringInfoCharMacro(buf, i == 0 ? '{' : ',');
		oi_json_append_string(buf, attributes[i].name, strlen(attributes[i].name));
		appendStringInfoCharMacro(buf, ':');
		oi_json_append_string(buf, attributes[i].value, strlen(attributes[i].value));
	}
	if (event->payload != NULL)
	{
		appendStringInfoString(buf, ",\"data\":");
		appendStringInfoString(buf, event->payload);
	}
	appendStringInfoChar(buf, '}');
	pfree(attributes);
}
