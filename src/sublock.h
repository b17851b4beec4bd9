/*-------------------------------------------------------------------------
 *
 * sublock.h
 *		The lock on a subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SUBLOCK_H
#define OI_SUBLOCK_H

#include "postgres_ext.h"

extern void oi_sublock_prepare(void);
extern void oi_sublock_hold(Oid relid, int32 subscription);
extern void oi_sublock_let_go(void);
extern bool oi_sublock_try(Oid relid, int32 subscription);
extern void oi_sublock_exclude_worker(Oid relid, int32 subscription);

#endif							/* OI_SUBLOCK_H */
