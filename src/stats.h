/*-------------------------------------------------------------------------
 *
 * stats.h
 *		Statistics of calls and deliveries, for those who make them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_STATS_H
#define OI_STATS_H

#include "claim.h"
#include "order.h"
#include "order_sink.h"

extern void oi_stats_init(void);
extern void oi_stats_note_claim(const OiClaimCall *call, const OiClaimAnswer *answer);
extern void oi_stats_note_settled(OiClaimOutcome outcome);
extern void oi_stats_note_order(const OiOrderCall *call, const OiOrderAnswer *answer);
extern void oi_stats_note_delivery(int32 subscription, OiSinkOutcome outcome,
								   TimestampTz created_at, TimestampTz now);

#endif							/* OI_STATS_H */
