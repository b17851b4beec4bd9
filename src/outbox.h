/*-------------------------------------------------------------------------
 *
 * outbox.h
 *		The append-only log of events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_OUTBOX_H
#define OI_OUTBOX_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

/* an event before it has a position */
typedef struct OiEvent
{
	pg_uuid_t	event_id;
	text	   *key;
	int			version;		/* 0: none */
	text	   *type;
	Jsonb	   *payload;		/* or NULL */
	Jsonb	   *headers;		/* or NULL */
	TimestampTz created_at;
} OiEvent;

extern void oi_outbox_append(const OiEvent *event);
extern Jsonb *oi_headers_or_setting(Jsonb *headers);
extern void oi_event_id_generate(pg_uuid_t *id, TimestampTz now);

#endif							/* OI_OUTBOX_H */
