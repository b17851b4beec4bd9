/*-------------------------------------------------------------------------
 *
 * batch.h
 *		Which rows of the log make a batch.  For drain.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_BATCH_H
#define OI_BATCH_H

#include "drain.h"
#include "executor/spi.h"

extern void oi_batch_read(const OiSubscription *sub, OiCursor *cursor,
						  OiBatch *batch, MemoryContext context);

/* in drain.c */
extern SPIPlanPtr oi_drain_plan(SPIPlanPtr *plan, const char *query, int nargs,
								Oid *types);
extern void oi_drain_execute(SPIPlanPtr plan, Datum *values, const char *nulls,
							 bool read_only);

#endif							/* OI_BATCH_H */
