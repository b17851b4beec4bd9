/*-------------------------------------------------------------------------
 *
 * lease.h
 *		How long claims are leased for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LEASE_H
#define OI_LEASE_H

#include "datatype/timestamp.h"

extern TimestampTz oi_lease_end(const Interval *lease, TimestampTz now);
extern int64 oi_lease_longest(void);

#endif							/* OI_LEASE_H */
