/*-------------------------------------------------------------------------
 *
 * intent.h
 *		Deliveries that are recorded before they are made.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_INTENT_H
#define OI_INTENT_H

#include "judge.h"

/* what a receiver says of the last delivery, beside what the database does */
typedef enum OiReceiver
{
	OI_RECEIVER_SILENT,			/* nothing, or of an earlier one */
	OI_RECEIVER_HAS_IT,			/* that it has it */
	OI_RECEIVER_AHEAD			/* of one that the database does not know */
} OiReceiver;

extern void oi_open_note(OiOpen *open, const OiBatch *batch, MemoryContext context);
extern Datum oi_open_to_datum(const OiOpen *open, bool numbered_only);
extern void oi_open_from_datum(OiOpen *open, Datum value, MemoryContext context);
extern Datum oi_open_positions(const OiOpen *open);
extern bool oi_open_has_number(const OiOpen *open, int64 position);
extern void oi_open_withdraw(OiOpen *open);
extern void oi_open_apply(const OiOpen *open, OiBatch *batch);

extern bool oi_intent_has(const OiBatch *batch);
extern void oi_intent_make(OiCursor *cursor, OiBatch *batch, const OiDelivery *delivery);
extern void oi_intent_note_settled(OiCursor *cursor, const OiBatch *batch);
extern void oi_intent_withdraw(OiBatch *batch);
extern OiDelivery *oi_intent_choose(const OiBatch *batch);
extern OiReceiver oi_intent_compare(const OiCursor *cursor, const OiSinkState *state);

#endif							/* OI_INTENT_H */
