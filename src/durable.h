/*-------------------------------------------------------------------------
 *
 * durable.h
 *		Waiting until what was read is durable.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DURABLE_H
#define OI_DURABLE_H

#include "access/xlogdefs.h"

extern XLogRecPtr oi_wal_end(void);
extern bool oi_flush(XLogRecPtr lsn);
extern XLogRecPtr oi_place_to_wait_for(void);
extern bool oi_make_durable(XLogRecPtr lsn);

#endif							/* OI_DURABLE_H */
