/*-------------------------------------------------------------------------
 *
 * held.h
 *		The keys that wait for an event of theirs that failed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_HELD_H
#define OI_HELD_H

#include "datatype/timestamp.h"
#include "lib/pairingheap.h"
#include "utils/hsearch.h"

/* room for the longest key there can be, and a zero */
#define OI_HELD_KEY_SIZE 256

/* a key of which table failed_events has rows that hold it */
typedef struct OiHeldKey
{
	char		key[OI_HELD_KEY_SIZE];	/* in the server's encoding; first */
	int64		head;			/* position of the first event that has to go */
	TimestampTz due;			/* when that may be tried */
	pairingheap_node node;
} OiHeldKey;

/* never: the head is dead, and on_dead is "hold" */
#define OI_UNDUE PG_INT64_MAX

typedef struct OiHeld
{
	HTAB	   *keys;
	pairingheap *by_due;		/* the same: what is due first comes first */
	TimestampTz next_due;		/* none is due before */
} OiHeld;

extern void oi_held_reset(OiHeld *held);
extern int	oi_held_count(const OiHeld *held);
extern bool oi_held_has(const OiHeld *held, const char *key);
extern void oi_held_put(OiHeld *held, const char *key, int64 head, TimestampTz due);
extern void oi_held_add(OiHeld *held, const char *key, int64 position, TimestampTz due);
extern void oi_held_drop(OiHeld *held, const char *key);
extern OiHeldKey **oi_held_due(OiHeld *held, TimestampTz now, int most, int *n);

#endif							/* OI_HELD_H */
