/*-------------------------------------------------------------------------
 *
 * parking.h
 *		Table failed_events.  For drain.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_PARKING_H
#define OI_PARKING_H

#include "drain.h"

extern void oi_parking_load(const OiSubscription *sub, OiHeld *held);
extern OiBatch *oi_parking_read(const OiSubscription *sub, OiHeld *held,
								TimestampTz now, MemoryContext context);
extern OiBatch *oi_parking_read_open(const OiSubscription *sub, const OiOpen *open,
									 MemoryContext context);
extern void oi_parking_record(const OiSubscription *sub, const OiBatch *batch,
							  OiHeld *held);

/* in parking_write.c */
extern const char *oi_parking_state(OiFate fate);
extern void oi_parking_insert(const OiSubscription *sub, const OiBatch *batch, int fates);
extern void oi_parking_update(const OiSubscription *sub, const OiBatch *batch, int fates);
extern void oi_parking_delete(const OiSubscription *sub, const OiBatch *batch, int fates);

#endif							/* OI_PARKING_H */
