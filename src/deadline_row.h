/*-------------------------------------------------------------------------
 *
 * deadline_row.h
 *		Rows of table payment_deadlines.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DEADLINE_ROW_H
#define OI_DEADLINE_ROW_H

#include "relation.h"
#include "storage/itemptr.h"

/* a row, which is where it is for as long as a snapshot shows it */
typedef struct OiDeadline
{
	ItemPointerData tid;
	TimestampTz due_at;
	text	   *key;
} OiDeadline;

/* what a look found */
typedef struct OiDueRows
{
	int			n;
	TimestampTz next;			/* of the first row not read; OI_NEVER: none */
	OiDeadline	rows[FLEXIBLE_ARRAY_MEMBER];
} OiDueRows;

extern OiDueRows *oi_deadline_read(OiTable *table, TimestampTz from,
								   TimestampTz upto, int limit);
extern OiDeadline oi_deadline_from_slot(TupleTableSlot *slot);
extern bool oi_deadline_remove(OiTable *table, const OiDeadline *row);
extern bool oi_deadline_put_off(OiTable *table, const OiDeadline *row,
								TimestampTz due_at);
extern bool oi_deadline_again(OiTable *table, OiDeadline *row);

#endif							/* OI_DEADLINE_ROW_H */
