/*-------------------------------------------------------------------------
 *
 * event.h
 *		An event as a sink gets it, from a row.  For batch.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_EVENT_H
#define OI_EVENT_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "drain.h"

/* the columns that make an event, of a row "l" */
#define OI_EVENT_COLUMNS \
	"l.event_id, l.key, l.version, l.type, l.payload, l.headers, l.created_at"

/* columns of a query: of the log as it returns them, and what may follow */
enum
{
	OI_EVENT_POSITION,
	OI_EVENT_XID,
	OI_EVENT_ID,
	OI_EVENT_KEY,
	OI_EVENT_VERSION,
	OI_EVENT_TYPE,
	OI_EVENT_PAYLOAD,
	OI_EVENT_HEADERS,
	OI_EVENT_CREATED_AT,
	OI_EVENT_MORE,
	OI_EVENT_MOST_COLUMNS = 16
};

/* the values of a row of such a query */
typedef struct OiEventRow
{
	Datum		values[OI_EVENT_MOST_COLUMNS];
	bool		nulls[OI_EVENT_MOST_COLUMNS];
} OiEventRow;

extern void oi_event_row(OiEventRow *row, HeapTuple tuple, TupleDesc desc);
extern int64 oi_event_fill(OiSinkEvent *event, OiEventInfo *info, const OiEventRow *row,
						   StringInfo json);

#endif							/* OI_EVENT_H */
