/*-------------------------------------------------------------------------
 *
 * deadline.h
 *		Acting on payment deadlines.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DEADLINE_H
#define OI_DEADLINE_H

#include "datatype/timestamp.h"

/* what is known of a database's deadlines from one look to the next */
typedef struct OiDeadlines
{
	TimestampTz floor;			/* nothing is left below it */
	TimestampTz look_below;		/* when to make sure of that */
} OiDeadlines;

extern TimestampTz oi_deadlines_run(OiDeadlines *deadlines, int64 until);

#endif							/* OI_DEADLINE_H */
