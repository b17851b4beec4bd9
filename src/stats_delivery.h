/*-------------------------------------------------------------------------
 *
 * stats_delivery.h
 *		Statistics of deliveries, for those who make them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_STATS_DELIVERY_H
#define OI_STATS_DELIVERY_H

#include "order_sink.h"

extern void oi_stats_serve(int32 subscription);
extern void oi_stats_note_delivery(const OiSinkEvent *events, int n, bool failed);

#endif							/* OI_STATS_DELIVERY_H */
