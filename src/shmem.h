/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		What the launcher, the workers and the sessions share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SHMEM_H
#define OI_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

/* what a slot keeps of an error's message */
#define OI_ERROR_LEN 512

/* databases that can wait to be looked at one by one; more: all of them */
#define OI_MAX_SCANS 32

typedef enum OiWorkerState
{
	OI_WORKER_STOPPED,			/* no process; the launcher will start one */
	OI_WORKER_NO_PROCESS,		/* none to be had: max_worker_processes */
	OI_WORKER_STARTING,
	OI_WORKER_IDLE,
	OI_WORKER_DELIVERING,
	OI_WORKER_RETRYING,			/* waits after a failed delivery */
	OI_WORKER_OFF				/* order_idempotency.publish is off */
} OiWorkerState;

/*
 * One subscription, known to the launcher.  Protected by the lock, but for
 * the atomic flags, and but for dboid, which may be read without it to
 * find out that a slot is of no interest.
 */
typedef struct OiSlot
{
	Oid			dboid;			/* InvalidOid: the slot is free */
	int32		subscription;
	Oid			owner;
	pid_t		pid;			/* of the worker attached; 0: none */
	int			pgprocno;		/* valid while pid is not 0 */
	OiWorkerState state;
	int			failures;		/* of its workers, in a row */
	TimestampTz started_at;
	TimestampTz start_after;	/* do not start a worker earlier */
	TimestampTz error_at;
	char		error[OI_ERROR_LEN];
	pg_atomic_uint32 sleeping;	/* wants a wake-up from who commits events */
	pg_atomic_uint32 recheck;	/* its subscription may have changed */
} OiSlot;

typedef struct OiShared
{
	LWLock	   *lock;
	int			launcher;		/* its pgprocno; -1: none */
	int			nscans;
	Oid			scans[OI_MAX_SCANS];	/* databases to look at */
	bool		scan_all;
	pg_atomic_uint32 sleepers;	/* how many slots have sleeping set */
	int			nslots;
	OiSlot		slots[FLEXIBLE_ARRAY_MEMBER];
} OiShared;

/* a copy of what subscription_workers() shows */
typedef struct OiSlotInfo
{
	int32		subscription;
	pid_t		pid;
	OiWorkerState state;
	TimestampTz error_at;
	char		error[OI_ERROR_LEN];
} OiSlotInfo;

/* one subscription of a database, as its scout found it */
typedef struct OiFound
{
	int32		subscription;
	Oid			owner;
} OiFound;

extern OiShared *oi_shared;		/* NULL where the library is not preloaded */

extern void oi_shmem_init(void);
extern void oi_shmem_wake_database(Oid dboid);
extern void oi_shmem_recheck_database(Oid dboid);
extern void oi_shmem_end_workers(Oid dboid);
extern void oi_shmem_request_scan(Oid dboid);
extern bool oi_shmem_next_scan(Oid *dboid, bool *all);
extern void oi_shmem_sync_database(Oid dboid, const OiFound *found, int n);
extern void oi_shmem_attach_launcher(void);
extern void oi_shmem_wake_launcher(void);
extern OiSlotInfo *oi_shmem_report(Oid dboid, int *n);

extern bool oi_slot_attach(int index, Oid dboid, int32 subscription, Oid *owner);
extern void oi_slot_free(void);
extern void oi_slot_set_state(OiWorkerState state);
extern void oi_slot_set_error(int index, const char *message);
extern void oi_slot_note_error(const char *message);
extern void oi_slot_sleep(bool sleeping);
extern bool oi_slot_sleeps(void);
extern bool oi_slot_take_recheck(void);

#endif							/* OI_SHMEM_H */
