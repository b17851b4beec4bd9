/*-------------------------------------------------------------------------
 *
 * incarnation.h
 *		Which installation this is, and which of its ancestors wrote what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_INCARNATION_H
#define OI_INCARNATION_H

/* bits of a position that count within one incarnation of the log */
#define OI_INCARNATION_BITS 44

/* the incarnation that a position belongs to: 0, 1, ... */
#define OI_INCARNATION(position) ((int64) (position) >> OI_INCARNATION_BITS)

/* the position that an incarnation begins behind, and the last it can have */
#define OI_INCARNATION_START(n) ((int64) (n) << OI_INCARNATION_BITS)
#define OI_INCARNATION_END(n) (OI_INCARNATION_START((n) + 1) - 1)

/*
 * Has this installation been written to by our functions?  False for one
 * whose tables may still be being restored, and for the SQL objects of 1.0.
 */
extern bool oi_in_use(void);

extern void oi_incarnation_adopt(void);
extern int64 oi_log_position(void);

#endif							/* OI_INCARNATION_H */
