/*-------------------------------------------------------------------------
 *
 * event.c
 *		An event as a sink gets it, from a row.
 *
 * This is done for every event of every subscription, so it is made to be
 * cheap: a row is taken apart once, and each text is copied once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "event.h"
#include "jsonb_text.h"
#include "mb/pg_wchar.h"
#include "utf8.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* an event that cannot be handed over is the only one of its batch */
StaticAssertDecl(OI_JSONB_TEXT > OI_SINK_MAX_BYTES, "a long text must fill a batch");

/* of a UUID as text, the zero at its end included */
#define UUID_TEXT 37

/*
 * Take a row apart.
 */
void
oi_event_row(OiEventRow *row, HeapTuple tuple, TupleDesc desc)
{
	Assert(desc->natts <= OI_EVENT_MOST_COLUMNS);
	heap_deform_tuple(tuple, desc, row->values, row->nulls);
}

/*
 * The headers of an event, from an object of strings.
 */
static void
fill_headers(OiSinkEvent *event, Jsonb *headers)
{
	OiSinkHeader *out;
	JsonbIterator *it;
	JsonbValue	value;
	JsonbIteratorToken token;
	char	   *name = NULL;

	if (!JB_ROOT_IS_OBJECT(headers))
		return;

	out = palloc(sizeof(OiSinkHeader) * (JB_ROOT_COUNT(headers) + 1));
	it = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = oi_utf8_from_server(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type == jbvString)
		{
			out[event->nheaders].name = name;
			out[event->nheaders].value = oi_utf8_from_server(value.val.string.val,
															 value.val.string.len);
			event->nheaders++;
		}
	}
	event->headers = out;
}

/*
 * A text that is not null, in UTF-8.
 */
static char *
text_value(Datum value)
{
	text	   *packed = DatumGetTextPP(value);

	return oi_utf8_from_server(VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));
}

/*
 * A UUID as text.
 */
static char *
uuid_text(const pg_uuid_t *id)
{
	static const char digits[] = "0123456789abcdef";
	char	   *text = palloc(UUID_TEXT);
	char	   *at = text;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		*at++ = digits[id->data[i] >> 4];
		*at++ = digits[id->data[i] & 15];
	}
	*at = '\0';

	return text;
}

/*
 * The payload, in UTF-8; returns how many bytes were made of it.  "json" is room to
 * write it in first.  Without one, for its length, the event is unfit for any sink.
 */
static int
fill_payload(OiSinkEvent *event, OiEventInfo *info, Jsonb *payload, StringInfo json)
{
	int			most = oi_jsonb_text_most(payload);

	resetStringInfo(json);
	if (oi_jsonb_append(json, payload, most))
		event->payload = oi_utf8_from_server(json->data, json->len);
	else
		info->unfit = psprintf("payload has more than %d bytes as text", most);

	return json->len;
}

/*
 * Fill an event from a row; returns about how many bytes it is.
 */
int64
oi_event_fill(OiSinkEvent *event, OiEventInfo *info, const OiEventRow *row, StringInfo json)
{
	int64		bytes = sizeof(OiSinkEvent);

	memset(event, 0, sizeof(*event));
	memset(info, 0, sizeof(*info));
	info->index = OI_NO_INDEX;
	event->position = DatumGetInt64(row->values[OI_EVENT_POSITION]);
	event->event_id = *DatumGetUUIDP(row->values[OI_EVENT_ID]);
	event->event_id_text = uuid_text(&event->event_id);
	event->key = text_value(row->values[OI_EVENT_KEY]);
	event->type = text_value(row->values[OI_EVENT_TYPE]);
	event->created_at = DatumGetTimestampTz(row->values[OI_EVENT_CREATED_AT]);
	bytes += strlen(event->key) + strlen(event->type);

	if (!row->nulls[OI_EVENT_VERSION])
		event->version = DatumGetInt32(row->values[OI_EVENT_VERSION]);
	if (!row->nulls[OI_EVENT_HEADERS])
	{
		Jsonb	   *headers = DatumGetJsonbP(row->values[OI_EVENT_HEADERS]);

		fill_headers(event, headers);
		bytes += VARSIZE(headers);
	}
	if (!row->nulls[OI_EVENT_PAYLOAD])
		bytes += fill_payload(event, info, DatumGetJsonbP(row->values[OI_EVENT_PAYLOAD]), json);

	info->key = GetDatabaseEncoding() == PG_UTF8 ? event->key :
		TextDatumGetCString(row->values[OI_EVENT_KEY]);

	return bytes;
}
