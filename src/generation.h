/*-------------------------------------------------------------------------
 *
 * generation.h
 *		Which of a store's tables are in use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_GENERATION_H
#define OI_GENERATION_H

#include "datatype/timestamp.h"

#include "relation.h"

/* what is kept in generations */
typedef enum OiStore
{
	OI_STORE_CLAIMS,
	OI_STORE_OUTBOX,
	OI_STORE_COUNT
} OiStore;

/* the slots that hold rows, oldest first; the last one is current */
typedef struct OiGenerations
{
	int			nlive;
	int			live[OI_SLOTS];
	bool		time_ordered[OI_SLOTS]; /* which key hash each has; claims
										 * only */
} OiGenerations;

/* a row of table generations */
typedef struct OiGeneration
{
	int			slot;
	int64		number;
	TimestampTz started_at;
	TimestampTz ended_at;		/* 0: not yet */
} OiGeneration;

extern void oi_generation_init(void);
extern OiGenerations oi_generations(OiStore store);
extern int	oi_generation_current(const OiGenerations *generations);
extern void oi_generation_gate(void);
extern void oi_generation_ungate(void);
extern bool oi_generation_shut(void);
extern int	oi_generation_list(OiStore store, OiGeneration *list);
extern void oi_generation_changed(void);

#endif							/* OI_GENERATION_H */
