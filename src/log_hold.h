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

extern void oi_log_keep(void);
extern List *oi_log_holders(int slot);

#endif							/* OI_LOG_HOLD_H */
