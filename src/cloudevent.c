/*-------------------------------------------------------------------------
 *
 * cloudevent.c
 *		Events as CloudEvents 1.0, for sinks.
 *
 * Structured JSON.  Attributes: id is the event's id, source names the database, subject and
 * partitionkey are the key, sequence is the position in the log.  Headers
 * become attributes of their own where their names are attribute names and
 * are not taken, which those of W3C trace context are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "order_sink.h"
#include "utils/json.h"
#include "utf8.h"
#include "utils/timestamp.h"

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
 * A time as RFC 3339 has it, in UTC.
 */
static void
append_time(StringInfo buf, TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (TIMESTAMP_NOT_FINITE(at) || timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	appendStringInfo(buf, "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ",
					 tm.tm_year, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min,
					 tm.tm_sec, fsec);
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
 * One attribute, behind others.
 */
static void
append_attribute(StringInfo buf, const char *name, const char *value)
{
	appendStringInfo(buf, ",\"%s\":", name);
	escape_json(buf, value);
}

/*
 * Append an event as a line of JSON, without the newline.  It begins with
 * specversion and id, so that a reader need not parse the rest to know which
 * event it is.
 */
void
oi_cloudevent_append(StringInfo buf, const OiSinkState *state, const OiSinkEvent *event)
{
	appendStringInfo(buf, "{\"specversion\":\"1.0\",\"id\":\"%s\"", event->event_id_text);
	append_attribute(buf, "source", state->source);
	append_attribute(buf, "type", event->type);
	append_attribute(buf, "subject", event->key);
	appendStringInfoString(buf, ",\"time\":\"");
	append_time(buf, event->created_at);
	appendStringInfoChar(buf, '"');
	append_attribute(buf, "partitionkey", event->key);
	appendStringInfo(buf, ",\"sequence\":\"" INT64_FORMAT "\"", event->position);
	for (int i = 0; i < event->nheaders; i++)
		if (is_attribute(event->headers[i].name))
			append_attribute(buf, event->headers[i].name, event->headers[i].value);
	if (event->payload != NULL)
	{
		append_attribute(buf, "datacontenttype", "application/json");
		appendStringInfo(buf, ",\"data\":%s", event->payload);
	}
	appendStringInfoChar(buf, '}');
}
