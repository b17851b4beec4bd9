/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		The append-only log of events.
 *
 * An event is one more row of the transaction that it tells of.  The order of
 * its parts matters: first the transaction gets its xid, then the event its
 * position.  A worker that reads the sequence, and after that the next xid to
 * be given out, knows that every position up to the one has an xid below the
 * other.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "generation.h"
#include "guc.h"
#include "incarnation.h"
#include "log_limit.h"
#include "outbox.h"
#include "xact.h"

/* the columns of the outbox tables */
enum
{
	COL_POSITION,
	COL_XID,
	COL_EVENT_ID,
	COL_KEY,
	COL_VERSION,
	COL_TYPE,
	COL_PAYLOAD,
	COL_HEADERS,
	COL_CREATED_AT,
	COL_COUNT
};

StaticAssertDecl(OI_REL_OUTBOX_0 + OI_SLOTS - 1 == OI_REL_OUTBOX_3,
				 "outbox relations are consecutive");

/* microseconds from the Unix epoch to PostgreSQL's */
#define EPOCH_OFFSET_USECS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

/* how many random bytes an id has, and for how many they are got at once */
#define ID_RANDOM (UUID_LEN - 6)
#define IDS_AT_ONCE 64

/*
 * Random bytes for an id.  Asking for ten bytes costs as much as for a
 * thousand.  A child process starts anew, or it would repeat its parent's ids.
 */
static void
random_bytes(uint8 *bytes)
{
	static uint8 stock[IDS_AT_ONCE * ID_RANDOM];
	static int	left = 0;
	static int	owner = 0;

	if (left == 0 || owner != MyProcPid)
	{
		if (!pg_strong_random(stock, sizeof(stock)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		left = IDS_AT_ONCE;
		owner = MyProcPid;
	}
	memcpy(bytes, stock + --left * ID_RANDOM, ID_RANDOM);
}

/* A fresh UUIDv7 (RFC 9562): 48 bits of milliseconds, then random ones. */
void
oi_event_id_generate(pg_uuid_t *id, TimestampTz now)
{
	uint64		ms = (uint64) ((now + EPOCH_OFFSET_USECS) / 1000);

	random_bytes(id->data + 6);
	for (int i = 0; i < 6; i++)
		id->data[i] = (uint8) (ms >> (8 * (5 - i)));
	id->data[6] = (id->data[6] & 0x0f) | 0x70;
	id->data[8] = (id->data[8] & 0x3f) | 0x80;
}

/*
 * Opens the outbox table that is current.  With its lock held it cannot be
 * emptied; if it ceased to be current before the lock came, take the next.
 */
static void
open_current(OiTable *table)
{
	for (;;)
	{
		OiGenerations generations = oi_generations(OI_STORE_OUTBOX);
		int			current = oi_generation_current(&generations);

		oi_table_open(table, OI_REL_OUTBOX_0 + current, RowExclusiveLock);
		generations = oi_generations(OI_STORE_OUTBOX);
		if (oi_generation_current(&generations) == current)
			return;
		oi_table_close(table);
	}
}

/* Writes an event into the log, as part of the current transaction. */
void
oi_outbox_append(const OiEvent *event)
{
	OiTable		table;
	TupleTableSlot *slot;
	FullTransactionId xid = GetTopFullTransactionId();
	int64		position;

	oi_log_check_room();
	oi_incarnation_adopt();
	position = nextval_internal(oi_relation_oid(OI_REL_OUTBOX_POSITION), false);

	open_current(&table);
	slot = oi_table_slot(&table);
	memset(slot->tts_isnull, 0, COL_COUNT * sizeof(bool));
	slot->tts_values[COL_POSITION] = Int64GetDatum(position);
	slot->tts_values[COL_XID] = FullTransactionIdGetDatum(xid);
	slot->tts_values[COL_EVENT_ID] = UUIDPGetDatum(&event->event_id);
	slot->tts_values[COL_KEY] = PointerGetDatum(event->key);
	slot->tts_values[COL_VERSION] = Int32GetDatum(event->version);
	slot->tts_isnull[COL_VERSION] = event->version == 0;
	slot->tts_values[COL_TYPE] = PointerGetDatum(event->type);
	slot->tts_values[COL_PAYLOAD] = PointerGetDatum(event->payload);
	slot->tts_isnull[COL_PAYLOAD] = event->payload == NULL;
	slot->tts_values[COL_HEADERS] = PointerGetDatum(event->headers);
	slot->tts_isnull[COL_HEADERS] = event->headers == NULL;
	slot->tts_values[COL_CREATED_AT] = TimestampTzGetDatum(event->created_at);
	ExecStoreVirtualTuple(slot);
	oi_insert(&table, slot, false, NULL);
	oi_table_close(&table);
	oi_xact_note_event();
}

/* Raises 22023 unless the headers are an object of strings. */
static void
check_headers(Jsonb *headers, bool from_setting)
{
	JsonbIterator *it = JsonbIteratorInit(&headers->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	bool		good = JB_ROOT_IS_OBJECT(headers);

	while (good &&
		   (token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		good = token != WJB_VALUE || value.type == jbvString;
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object of strings"),
				 from_setting ?
				 errdetail("They come from setting %s.", "order_idempotency.headers") : 0,
				 errhint("For example {\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}.")));
}

/* The headers of an event: the call's, or else the setting's, or none. */
Jsonb *
oi_headers_or_setting(Jsonb *headers)
{
	bool		from_setting = headers == NULL;

	if (from_setting)
	{
		if (oi_headers == NULL || oi_headers[0] == '\0')
			return NULL;
		headers = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													 CStringGetDatum(oi_headers)));
	}
	check_headers(headers, from_setting);
	return headers;
}
