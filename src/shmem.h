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

/* databases that can ask for a visit one by one; more: all of them */
#define OI_MAX_SCANS 32

/* databases whose due times are kept; others are visited once a minute */
#define OI_MAX_DUES 128

/* the due time of a database where nothing is going to be due */
#define OI_NEVER DT_NOEND

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
	bool		made_room;		/* its worker was ended for a command */
	TimestampTz started_at;
	TimestampTz start_after;	/* do not start a worker earlier */
	TimestampTz error_at;
	char		error[OI_ERROR_LEN];
	int			in_flight;		/* events that the sink has at the moment */
	pg_atomic_uint32 canceled;	/* somebody has it give up its delivery */
	pg_atomic_uint32 sleeping;	/* wants a wake-up from who commits events */
	pg_atomic_uint32 recheck;	/* its subscription may have changed */
} OiSlot;

/* what is kept of the names of subscriptions that hold the log */
#define OI_HELD_BY_LEN 256

/* the log of a database that is larger than it may be */
typedef struct OiFull
{
	int64		bytes;
	char		held_by[OI_HELD_BY_LEN];
} OiFull;

/*
 * When a database is to be visited.  Protected by the lock, but dboid and due
 * are read without it by sessions of that database, which see to it that dboid
 * stays.
 */
typedef struct OiDue
{
	Oid			dboid;			/* InvalidOid: the place is free */
	pg_atomic_uint64 due;		/* a TimestampTz; OI_NEVER: never */
	TimestampTz start_after;	/* do not start a visit earlier */
	int			failures;		/* of visits, in a row */
	TimestampTz floor;			/* no deadline is left below it */
	TimestampTz look_below;		/* when to make sure of that */
	pg_atomic_uint32 is_full;	/* no event may be written; read without the
								 * lock */
	OiFull		full;
} OiDue;

/* the visit that is going on */
typedef struct OiVisit
{
	Oid			dboid;			/* InvalidOid: none */
	pid_t		pid;
	int			pgprocno;
	bool		requested;		/* the database asks for another one */
	bool		succeeded;
	bool		others_wait;	/* other databases are in the queue */
} OiVisit;

typedef struct OiShared
{
	LWLock	   *lock;
	int			launcher;		/* its pgprocno; -1: none */
	int			nscans;
	Oid			scans[OI_MAX_SCANS];	/* databases to visit */
	bool		scan_all;
	OiVisit		visit;
	bool		no_visit;		/* the server had no process for the last one */
	OiDue		dues[OI_MAX_DUES];
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
	int			in_flight;
} OiSlotInfo;

/* one subscription of a database, as its visit found it */
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
extern void oi_shmem_cancel_worker(Oid dboid, int32 subscription);
extern void oi_shmem_request_scan(Oid dboid);
extern bool oi_shmem_next_scan(Oid *dboid, bool *all);
extern void oi_shmem_sync_database(Oid dboid, const OiFound *found, int n);
extern void oi_shmem_attach_launcher(void);
extern void oi_shmem_wake_launcher(void);
extern OiSlotInfo *oi_shmem_report(Oid dboid, int *n);

extern void oi_visit_init(void);
extern void oi_visit_note_due(TimestampTz due);
extern void oi_visit_lower_due(Oid dboid, TimestampTz due);
extern bool oi_visit_request(Oid dboid);
extern int	oi_visit_collect(Oid visiting, Oid *dboids, long *wait);
extern void oi_visit_plan(Oid dboid);
extern void oi_visit_set_waiting(bool others_wait);
extern void oi_visit_forget(Oid dboid, bool gone);
extern void oi_visit_make_room(Oid dboid);
extern int	oi_visit_known(Oid *dboids);
extern void oi_visit_attach(Oid dboid);
extern bool oi_visit_take(TimestampTz *floor, TimestampTz *look_below);
extern void oi_visit_keep_floor(TimestampTz floor, TimestampTz look_below);
extern bool oi_visit_others_wait(void);
extern void oi_visit_succeed(void);
extern void oi_visit_set_full(bool is_full, int64 bytes, const char *held_by);
extern bool oi_visit_is_full(OiFull *full);

extern bool oi_slot_attach(int index, Oid dboid, int32 subscription, Oid *owner);
extern void oi_slot_free(void);
extern void oi_slot_set_state(OiWorkerState state);
extern void oi_slot_set_error(int index, const char *message);
extern void oi_slot_note_error(const char *message);
extern void oi_slot_sleep(bool sleeping);
extern bool oi_slot_sleeps(void);
extern bool oi_slot_take_recheck(void);
extern bool oi_slot_take_cancel(void);
extern bool oi_slot_cancel_stands(void);
extern void oi_slot_set_in_flight(int n);

#endif							/* OI_SHMEM_H */
