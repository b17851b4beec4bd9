/*-------------------------------------------------------------------------
 *
 * rotation.h
 *		Generations of claims and of the log come and go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_ROTATION_H
#define OI_ROTATION_H

#include "datatype/timestamp.h"

#include "generation.h"

/* runs a step of a rotation as the tables' owner, in a transaction of its own */
typedef void (*OiRotationStep) (void *arg);
typedef void (*OiRotationRunner) (OiRotationStep step, void *arg);

typedef struct OiRotation OiRotation;

/* what differs between the stores */
typedef struct OiRotationStore
{
	OiStore		store;
	const char *name;			/* in table generations, and of its tables */
	OiRelation	first;			/* its slot 0 */

	/* is it time for the next generation? */
	bool		(*may_begin) (OiRotation *rotation, const OiGeneration *current);
	/* is one that has ended of no use any more? */
	bool		(*may_expire) (OiRotation *rotation, const OiGeneration *row);
	/* and the table of one that expired, which is locked as a whole? */
	bool		(*may_empty) (OiRotation *rotation, int slot);
	/* keep the list as it is until the transaction ends */
	bool		(*shut) (OiRotation *rotation);
} OiRotationStore;

/* what is to be done, and what was */
struct OiRotation
{
	OiRotationRunner runner;
	const OiRotationStore *store;
	int64		retention;		/* us */
	bool		in_use;			/* else nothing was done */
	int64		began;			/* the generation that was begun; 0: none */
	int			emptied;		/* how many tables were */
	bool		shut_out;		/* the list could not be had */
	TimestampTz next;			/* when there may be more to do */
};

/* in rotation.c */
extern void oi_rotation_go(OiRotation *rotation);
extern TimestampTz oi_rotation_run(void);
extern bool oi_rotation_is_due(OiRotation *rotation, TimestampTz since,
							   int64 while_us);
extern void oi_rotation_retry(OiRotation *rotation);
extern bool oi_rotation_is_empty(Oid relid);

/* in rotation_claims.c and rotation_outbox.c */
extern const OiRotationStore oi_rotation_claims;
extern const OiRotationStore oi_rotation_outbox;

#endif							/* OI_ROTATION_H */
