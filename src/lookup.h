/*-------------------------------------------------------------------------
 *
 * lookup.h
 *		Finding a key at every isolation level.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LOOKUP_H
#define OI_LOOKUP_H

#include "relation.h"

/* wait for those who change or delete the row, too */
#define OI_LOOKUP_MIND_UPDATERS 1

/* make sure of an absence: no insertion follows that would find out */
#define OI_LOOKUP_CONFIRM 2

extern OiProbe oi_lookup(OiTable *tables, const Datum *keys, int n, int flags,
						 int *which, OiBusy *busy);

#endif							/* OI_LOOKUP_H */
