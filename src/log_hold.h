/*-------------------------------------------------------------------------
 *
 * log_hold.h
 *		Who needs what is in a table of the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LOG_HOLD_H
#define OI_LOG_HOLD_H

#include "nodes/pg_list.h"

/* of open_log: the second number of a pair has above so many bits how many events
 * follow the first one */
#define OI_OPEN_SHIFT 32

/* which subscriptions are asked about */
typedef enum OiHolding
{
	OI_HOLDS,					/* those that keep what they need */
	OI_HOLDS_NOT				/* those that were invalidated */
} OiHolding;

/* a subscription that needs a table */
typedef struct OiHolder
{
	int32		id;
	char	   *name;
} OiHolder;

extern void oi_log_keep(void);
extern List *oi_log_holders(int slot, OiHolding which);
extern int64 oi_log_count(int slot, int32 id, int64 *last);

#endif							/* OI_LOG_HOLD_H */
