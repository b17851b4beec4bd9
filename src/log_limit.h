/*-------------------------------------------------------------------------
 *
 * log_limit.h
 *		How large the log may be.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LOG_LIMIT_H
#define OI_LOG_LIMIT_H

#include "datatype/timestamp.h"

extern bool oi_log_is_over_limit(void);
extern bool oi_log_slot_is_large(int slot);
extern void oi_log_report_losses(int slot);
extern void oi_log_check_room(void);
extern void oi_log_limit(void *arg);

/* what oi_log_limit() is told and tells */
typedef struct OiLogLimit
{
	bool		changed;		/* something may go now */
	TimestampTz next;			/* when to look again */
} OiLogLimit;

#endif							/* OI_LOG_LIMIT_H */
