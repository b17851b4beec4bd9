/*-------------------------------------------------------------------------
 *
 * wait.h
 *		Waiting for another transaction, no longer than in_flight_wait.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_WAIT_H
#define OI_WAIT_H

#include "datatype/timestamp.h"

/* whom to wait for, or after a row was found: is anybody at it? */
typedef struct OiBusy
{
	bool		quiet;			/* no: nobody else was changing the row */
	TransactionId xid;
	uint32		spec_token;		/* nonzero: only for its speculative insertion */
} OiBusy;

/* the time that one call may spend waiting for others; start with {0} */
typedef struct OiWait
{
	bool		started;
	int64		until;			/* by oi_uptime(), valid once started */
} OiWait;

typedef void (*OiWaitCallback) (void *arg);

extern int	oi_wait_left(OiWait *wait);
extern bool oi_wait_for(OiWait *wait, const OiBusy *busy);
extern bool oi_run_with_lock_timeout(OiWaitCallback callback, void *arg,
									 int timeout);
extern bool oi_wait_in_callback(OiWait *wait, OiWaitCallback callback,
								void *arg);

#endif							/* OI_WAIT_H */
