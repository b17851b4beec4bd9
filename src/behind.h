/*-------------------------------------------------------------------------
 *
 * behind.h
 *		What all subscriptions have behind them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_BEHIND_H
#define OI_BEHIND_H

#include "access/transam.h"

/* the transactions whose events nobody waits for any more */
typedef struct OiBehind
{
	uint64		xmin;			/* all before this one */
	char	   *holder;			/* the subscription that holds most back, or
								 * NULL */
} OiBehind;

extern void oi_behind_all(OiBehind *behind);
extern bool oi_is_behind(const OiBehind *behind, TransactionId xid);

#endif							/* OI_BEHIND_H */
