/*-------------------------------------------------------------------------
 *
 * rotation.h
 *		Generations of claims come and go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_ROTATION_H
#define OI_ROTATION_H

#include "datatype/timestamp.h"

/* runs a step of a rotation as the tables' owner, in a transaction of its own */
typedef void (*OiRotationStep) (void *arg);
typedef void (*OiRotationRunner) (OiRotationStep step, void *arg);

/* what is to be done, and what was */
typedef struct OiRotation
{
	OiRotationRunner runner;
	int64		retention;		/* us */
	bool		in_use;			/* else nothing was done */
	int64		began;			/* the generation that was begun; 0: none */
	int			emptied;		/* how many tables were */
	bool		shut_out;		/* somebody was in the gate and did not leave */
	TimestampTz next;			/* when there may be more to do */
} OiRotation;

extern void oi_rotation_go(OiRotation *rotation);
extern TimestampTz oi_rotation_run(void);

#endif							/* OI_ROTATION_H */
