/*-------------------------------------------------------------------------
 *
 * pace.h
 *		When a worker flushes, and when it leaves the log alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_PACE_H
#define OI_PACE_H

#include "access/xlogdefs.h"

extern XLogRecPtr oi_pace_lsn(void);
extern void oi_pace_note_durable(XLogRecPtr lsn);
extern bool oi_pace_flush(XLogRecPtr lsn);
extern bool oi_pace_pause(void);

#endif							/* OI_PACE_H */
