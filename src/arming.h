/*-------------------------------------------------------------------------
 *
 * arming.h
 *		Which subscriptions may publish from here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_ARMING_H
#define OI_ARMING_H

#include "executor/tuptable.h"
#include "utils/uuid.h"

/* where a subscription may publish, as three columns have it */
typedef struct OiArming
{
	pg_uuid_t	installation;
	Oid			database;
	char	   *environment;
} OiArming;

extern void oi_arming_here(OiArming *here);
extern bool oi_is_armed(TupleTableSlot *row, const OiArming *here);
extern bool oi_is_foreign(TupleTableSlot *row, const OiArming *here);
extern void oi_arm(Datum *values, bool *nulls, const OiArming *here);

#endif							/* OI_ARMING_H */
