/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The process that carries a subscription's events to its sink.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_WORKER_H
#define OI_WORKER_H

#include "compat.h"

/* what the launcher tells a worker in bgw_extra; bgw_main_arg is the slot */
typedef struct OiWorkerArgs
{
	Oid			dboid;
	int32		subscription;
} OiWorkerArgs;

OI_NORETURN extern PGDLLEXPORT void oi_worker_main(Datum arg);

#endif							/* OI_WORKER_H */
