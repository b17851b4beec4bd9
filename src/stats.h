/*-------------------------------------------------------------------------
 *
 * stats.h
 *		Statistics of calls, for those who answer them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_STATS_H
#define OI_STATS_H

#include "claim.h"
#include "order.h"

extern void oi_stats_init(void);
extern void oi_stats_note_claim(const OiClaimCall *call, const OiClaimAnswer *answer);
extern void oi_stats_note_settled(OiClaimOutcome outcome);
extern void oi_stats_note_order(const OiOrderCall *call, const OiOrderAnswer *answer);

#endif							/* OI_STATS_H */
