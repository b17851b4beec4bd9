/*-------------------------------------------------------------------------
 *
 * time_order.h
 *		From which generation on hashes of keys are in the order of time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_TIME_ORDER_H
#define OI_TIME_ORDER_H

extern int64 oi_time_ordered_from(const int *slots, int nslots, int64 current);

#endif							/* OI_TIME_ORDER_H */
