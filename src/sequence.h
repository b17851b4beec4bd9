/*-------------------------------------------------------------------------
 *
 * sequence.h
 *		Sequences as notes that no rollback takes back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SEQUENCE_H
#define OI_SEQUENCE_H

/* what a sequence's row says */
typedef struct OiSequence
{
	int64		last_value;
	bool		is_called;
} OiSequence;

extern OiSequence oi_sequence_read(Oid relid);
extern void oi_sequence_set(Oid relid, int64 value);
extern void oi_sequence_lock(Oid relid);
extern void oi_sequence_unlock(Oid relid);

#endif							/* OI_SEQUENCE_H */
