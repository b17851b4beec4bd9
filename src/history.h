/*-------------------------------------------------------------------------
 *
 * history.h
 *		The history that an order's row carries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_HISTORY_H
#define OI_HISTORY_H

#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/uuid.h"

/* one step, which made one version */
typedef struct OiStep
{
	int			version;
	text	   *state;
	TimestampTz at;
	pg_uuid_t	event_id;
	bool		has_event;		/* a tombstone's step has none */
	text	   *request_key;	/* or NULL */
	text	   *reason;			/* or NULL */
} OiStep;

/* the columns of type order_step */
enum
{
	OI_STEP_VERSION,
	OI_STEP_STATE,
	OI_STEP_AT,
	OI_STEP_EVENT_ID,
	OI_STEP_REQUEST_KEY,
	OI_STEP_REASON,
	OI_STEP_COUNT
};

extern int	oi_history_read(ArrayType *history, OiStep **steps);
extern ArrayType *oi_history_append(ArrayType *history, Oid step_type,
									const OiStep *step);
extern bool oi_history_continues(ArrayType *before, ArrayType *after);
extern void oi_step_values(const OiStep *step, Datum *values, bool *nulls);

#endif							/* OI_HISTORY_H */
