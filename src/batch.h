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
#include "event.h"
#include "executor/spi.h"
#include "owner.h"

/* the log's tables; each query adds its own conditions */
#define OI_LOG_COLUMNS "l.position, l.xid, " OI_EVENT_COLUMNS
#define OI_LOG_ROWS \
	"(SELECT " OI_LOG_COLUMNS " FROM order_idempotency.outbox_0 l" \
	" UNION ALL SELECT " OI_LOG_COLUMNS " FROM order_idempotency.outbox_1 l" \
	" UNION ALL SELECT " OI_LOG_COLUMNS " FROM order_idempotency.outbox_2 l" \
	" UNION ALL SELECT " OI_LOG_COLUMNS " FROM order_idempotency.outbox_3 l)"

extern OiBatch *oi_batch_read(const OiSubscription *sub, OiCursor *cursor,
							  MemoryContext context);
extern OiBatch *oi_batch_read_open(const OiSubscription *sub, const OiOpen *open,
								   MemoryContext context);
extern OiBatch *oi_batch_make(int room, MemoryContext context);
extern OiBatch *oi_batch_make_again(const OiOpen *open, MemoryContext context);
extern bool oi_batch_add(OiBatch *batch, const OiSubscription *sub,
						 const OiEventRow *row, MemoryContext context);
extern void oi_batch_keep_open(OiBatch *batch);

/* in late.c */
extern bool oi_late_read(const OiSubscription *sub, OiCursor *cursor, OiBatch *batch,
						 MemoryContext context);

/* in drain.c */
extern bool oi_drain_begin(Oid relid, OiIdentity *was);
extern Datum oi_drain_column(int number, bool *isnull);
extern SPIPlanPtr oi_drain_plan(SPIPlanPtr *plan, const char *query, int nargs,
								Oid *types);
extern void oi_drain_execute(SPIPlanPtr plan, Datum *values, const char *nulls,
							 bool read_only);

#endif							/* OI_BATCH_H */
